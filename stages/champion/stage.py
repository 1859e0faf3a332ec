"""The wiring of stage `champion`: from the registry to an artifact for predict and monitor."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from stages.champion.params import Params
from stages.common.contract.artifacts import file_digest, read_json, write_json
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.registry.champion import CHAMPION
from stages.common.registry.registry import LINEAGE, MODEL, Registry, Version
from stages.common.schema.attributes import FILE as ATTRIBUTES_FILE
from stages.common.schema.attributes import Attribute, Attributes, read_attributes, write_attributes


def _chosen(params: Params, inputs: Mapping[str, Path]) -> Version | None:
    registry = Registry(inputs["registry"], params.registry.remote)
    return registry.version(params.champion.version) if params.champion.version else registry.champion()


def _identify(params: Params, inputs: Mapping[str, Path], _name: str) -> str:
    """Name and model of the version; it never changes, so they decide the artifact, and its release does not."""
    version = _chosen(params, inputs)
    return f"{version.name} {version.model_digest}" if version else "none"


def _attributes(version: Path) -> Attributes:
    """Attributes that a version answers; for a version of earlier code, as its metrics name them."""
    if (version / ATTRIBUTES_FILE).exists():
        return read_attributes(version)
    metrics = read_json(version / "metrics" / "eval_metrics.json")
    return tuple(
        Attribute(name, tuple(attribute["classes"]), name, name.replace("_", " ").capitalize())
        for name, attribute in metrics["attributes"].items()
    )


def _run(context: Context[Params]) -> Headline:
    version = _chosen(context.params, context.inputs)
    if not version:
        log.warning("no version is released yet: run the training pipeline, or promote a version")
        write_json(context.out / CHAMPION, {"version": None})
        return {"version": "none"}
    taken = context.state / "version"
    registry = Registry(context.inputs["registry"], context.params.registry.remote)
    registry.fetch(version.name, taken, ["model", "reference"])
    shutil.move(taken / MODEL, context.out)
    shutil.move(taken / "reference", context.out)
    for name in (LINEAGE, "params.yaml"):
        shutil.move(taken / name, context.out)
    write_attributes(context.out, _attributes(taken))
    found = {
        "version": version.name,
        "model_digest": file_digest(context.out / MODEL.name),
        "mean_accuracy": version.mean_accuracy,
        "mean_balanced_accuracy": version.mean_balanced_accuracy,
        "lots": list(version.lots),
    }
    write_json(context.out / CHAMPION, found)
    balanced = version.mean_balanced_accuracy
    return {
        "version": version.name,
        "mean_accuracy": round(version.mean_accuracy, 4),
        **({} if balanced is None else {"mean_balanced_accuracy": round(balanced, 4)}),
        "lots": len(version.lots),
    }


STAGE = Stage(
    name="champion",
    description="Fetches the released version of the model from the registry, for the later stages of the run.",
    params=Params,
    inputs={"registry": Input("folder of the registry of stage archive", artifact=False, created=True)},
    outputs={
        "champion": (CHAMPION, "version, digest of its model, mean accuracy, lots; version null before a release"),
    },
    run=_run,
    content=(CHAMPION, ATTRIBUTES_FILE, "model.onnx", "reference"),
    identify=_identify,
)
