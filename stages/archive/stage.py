"""The wiring of stage `archive`: copy the files together, write lineage and report."""

import json
import shutil
from pathlib import Path

import yaml

from stages.archive.lineage import check_one_run, lineage, used_params
from stages.archive.params import Params
from stages.common.artifacts import write_json
from stages.common.stage import Context, Headline, Input, Stage


def _collect(inputs: dict[str, Path], out: Path) -> None:
    """Copy what people look at, and the model, into `out`; names of metrics and plots are unique across stages."""
    for folder in ("model", "metrics", "plots", "rejected"):
        (out / folder).mkdir()
    for name, artifact in inputs.items():
        for folder, pattern in (("metrics", "*.json"), ("plots", "*.png")):
            for file in sorted((artifact / folder).glob(pattern)):
                shutil.copy(file, out / folder / file.name)
        if (artifact / "rejected.csv").exists():
            shutil.copy(artifact / "rejected.csv", out / "rejected" / f"{name}.csv")
    shutil.copytree(inputs["validate"] / "data_docs", out / "data_docs")
    (out / "label_doubt").mkdir()
    for name in ("report.html", "doubts.csv"):
        shutil.copy(inputs["label_doubt"] / name, out / "label_doubt" / name)
    for name in ("model.onnx", "model.safetensors"):
        shutil.copy(inputs["train"] / name, out / "model" / name)


def _run(context: Context[Params]) -> Headline:
    from stages.archive.report import render_report  # jinja2 is not needed for --help

    check_one_run(context.manifests)
    _collect(dict(context.inputs), context.out)
    write_json(context.out / "lineage.json", lineage(context.manifests))
    (context.out / "params.yaml").write_text(yaml.safe_dump(used_params(context.manifests), sort_keys=False))
    page = render_report(context.params.archive.title, context.key, context.manifests, context.inputs, context.out)
    (context.out / "report.html").write_text(page, encoding="utf-8")
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
        "data_docs": ("data_docs/index.html", "the Data Docs of the raw annotations"),
        "rejected": ("rejected", "<stage>.csv: what validate and prepare_train left out, with the reason"),
        "label_doubt": ("label_doubt/report.html", "the labels that a network contradicts; doubts.csv beside it"),
        "model": ("model", "model.onnx and model.safetensors"),
        "metrics": ("metrics", "JSON metrics of every stage"),
        "plots": ("plots", "PNG plots of every stage"),
        "params": ("params.yaml", "the parameters that every stage really used"),
        "lineage": ("lineage.json", "keys, versions, inputs, images and cost, down to the raw files"),
    },
    run=_run,
)
