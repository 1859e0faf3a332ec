"""Stage `archive`: one version of the model, with everything that says where it came from.

Inputs: the artifacts of all stages before it, which must belong to one run, and the data folder with `card.md`, in
which people say what no run can know.
Outputs:
    model/          model.onnx, model.safetensors
    attributes.json what the model answers
    metrics/        the JSON metrics of every stage
    plots/          the PNG plots of every stage
    <stage>/        per input: its report.html, and the files of its artifact that the report links (Data Docs, CSVs)
    params.yaml     the parameters that every stage really used
    lineage.json    key, version, inputs, image, commit and cost of every stage, down to the digests of the raw files
    compare.json    what the page of all versions tells of it (`stages.archive.record`)
    model_card.md   what the model is for, how good it is and its limits; and model_card.html (`stages.archive.cards`)
    data_card.md    what the data are and where they come from; and data_card.html
    report.html     one self-contained page about the run, for people

The registry gets a page of all versions, in which any two can be compared (`stages.archive.versions_page`).
"""
