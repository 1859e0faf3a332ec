"""Stage `archive`: one version of the model, with its complete lineage.

Inputs: the artifacts of all earlier stages, which must belong to one run, and the data folder with `card.md`, the text
of people for the cards.
Outputs:
    model/          model.onnx, model.safetensors
    attributes.json the attributes that the model answers
    metrics/        the JSON metrics of every stage
    plots/          the PNG plots of every stage
    <stage>/        per input: its report.html, and the files of its artifact that the report links (Data Docs, CSVs)
    params.yaml     the parameters that every stage used
    lineage.json    key, version, inputs, image, commit and cost of every stage, down to the digests of the raw files
    compare.json    its data for the page of all versions (`stages.archive.record`)
    model_card.md   use, quality and limits of the model; and model_card.html (`stages.archive.cards`)
    data_card.md    the data and their origin; and data_card.html
    report.html     one self-contained page about the run, for people

The registry gets a page of all versions, on which any two can be compared (`stages.archive.versions_page`).
"""
