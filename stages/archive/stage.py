"""The wiring of stage `archive`: copy the files together, write lineage and report."""

import json

import yaml

from stages.archive.collect import collect
from stages.archive.lineage import check_one_run, lineage, used_params
from stages.archive.params import Params
from stages.archive.report import build_report
from stages.common.artifacts import write_json
from stages.common.report import REPORT, write_report
from stages.common.stage import Context, Headline, Input, Stage


def _run(context: Context[Params]) -> Headline:
    check_one_run(context.manifests)
    collect(context.inputs, context.out)
    write_json(context.out / "lineage.json", lineage(context.manifests))
    (context.out / "params.yaml").write_text(yaml.safe_dump(used_params(context.manifests), sort_keys=False))
    report = build_report(context.params.archive.title, context.key, context.manifests, context.out)
    write_report(context.out / REPORT, report)
    metrics = json.loads((context.out / "metrics" / "eval_metrics.json").read_text(encoding="utf-8"))
    return {"version": context.key[:12], "mean_accuracy": metrics["mean_accuracy"]}


STAGE = Stage(
    name="archive",
    description="Collects model, metrics, plots, parameters and lineage of one run as one version, with a report.",
    params=Params,
    inputs={
        "validate": Input("artifact of stage validate"),
        "prepare_train": Input("artifact of stage prepare_train"),
        "hyperopt": Input("artifact of stage hyperopt"),
        "train": Input("artifact of stage train"),
        "evaluate": Input("artifact of stage evaluate"),
        "label_doubt": Input("artifact of stage label_doubt"),
    },
    outputs={
        "report": ("report.html", "one self-contained page about the run"),
        "validate": ("validate/report.html", "the report of validate and the files that it links; so for every input"),
        "model": ("model", "model.onnx and model.safetensors"),
        "metrics": ("metrics", "JSON metrics of every stage"),
        "plots": ("plots", "PNG plots of every stage"),
        "params": ("params.yaml", "the parameters that every stage really used"),
        "lineage": ("lineage.json", "keys, versions, inputs, images and cost, down to the raw files"),
    },
    run=_run,
)
