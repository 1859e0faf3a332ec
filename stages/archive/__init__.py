"""Stage `archive`: one version of the model, with everything that says where it came from.

Inputs: the artifacts of all stages before it, which must belong to one run.
Outputs:
    model/          model.onnx, model.safetensors
    metrics/        the JSON metrics of every stage
    plots/          the PNG plots of every stage
    data_docs/      the Data Docs of the raw annotations
    label_doubt/    report.html and doubts.csv: the labels that a network most confidently contradicts
    rejected/       <stage>.csv, what validate and prepare_train left out, with the reason
    params.yaml     the parameters that every stage really used
    lineage.json    key, version, inputs, image, commit and cost of every stage, down to the digests of the raw files
    report.html     one self-contained page about the run, for people
"""
