"""The wiring of stage `archive`: put a version together, judge it, register it, and release it if that is due."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from stages.archive.collect import collect
from stages.archive.lineage import check_one_run, lineage, used_params
from stages.archive.params import Params
from stages.archive.release import GATE, NONE, opponent, release, standing
from stages.common.artifacts import write_json
from stages.common.errors import DataError
from stages.common.registry import Registry
from stages.common.report import REPORT, write_report
from stages.common.stage import Context, Delivered, Delivery, Headline, Input, Stage

if TYPE_CHECKING:
    from stages.archive.gate import Judgement
    from stages.common.onnx_model import OnnxModel

RUN = "FACE_ATTRIBUTES_RUN"
"""Environment variable with the run that an archive is made for, JSON as `stages.archive.run_page.write_run` has it."""


def _registry(params: Params, inputs: Mapping[str, Path]) -> Registry:
    return Registry(inputs["registry"], params.registry.remote)


def _identify(params: Params, inputs: Mapping[str, Path], _name: str) -> str:
    """Of the registry, the version that the candidate is judged against decides the artifact."""
    manifest = json.loads((inputs["train"] / "manifest.json").read_text(encoding="utf-8"))
    return opponent(_registry(params, inputs), manifest["key"])


class IncomparableError(ValueError):
    """A champion that cannot be shown the candidate's images; the message, which describes it, is the reason."""


def load_opponent(path: Path, candidate: "OnnxModel") -> "OnnxModel":
    """Load the champion's model to meet a candidate.

    Raises:
        IncomparableError: it is of earlier code, or its images are prepared in another way. That must not end the run,
            or no training could ever succeed such a champion.
    """
    from stages.common.onnx_model import load

    try:
        champion = load(path)
    except DataError as error:
        raise IncomparableError(f"which this code cannot use ({str(error).replace(str(path), 'its model')})") from error
    if champion.preprocessing != candidate.preprocessing:
        raise IncomparableError(
            f"whose images are prepared in another way ({champion.preprocessing} against {candidate.preprocessing})"
        )
    return champion


def _judge(context: Context[Params], against: str) -> "Judgement":
    """Let the candidate meet the champion `against` on the test split."""
    # not needed for --help
    from stages.archive.gate import compare, interval, judge, mean_accuracy, right_answers
    from stages.common.dataset import read_split
    from stages.common.learned import answerable
    from stages.common.onnx_model import load

    section, least = context.params.archive, context.params.monitor.min_accuracy
    split = read_split(context.inputs["prepare_train"], "test")
    images = split.take()
    candidate = load(context.inputs["train"] / "model.onnx")
    answers, labels = candidate.predict(images), answerable(split.labels, candidate.calibration.learned)
    right = right_answers(answers, labels)
    mean, bounds = mean_accuracy(right), interval(right)
    if against == NONE:
        return judge(mean, bounds, None, least, section.alpha)
    registry = _registry(context.params, context.inputs)
    registry.fetch(against, context.state / "champion", ["model"])
    try:
        champion = load_opponent(context.state / "champion" / "model" / "model.onnx", candidate)
    except IncomparableError as error:
        unfair = f"it cannot be compared with {against}, {error}: archive.force releases it all the same"
        return judge(mean, bounds, None, least, section.alpha, unfair)
    before = yaml.safe_load(registry.text(against, "params.yaml"))["data"]
    notes = []
    if before != context.manifests["prepare_train"]["params"]["data"]:
        notes.append(f"{against} was trained with other splits, so it may have learned from some of these test images")
    both = answerable(labels, champion.calibration.learned)
    of_champion = right_answers(champion.predict(images), both)
    compared = compare(against, right_answers(answers, both), of_champion, notes)
    return judge(mean, bounds, compared, least, section.alpha)


def _run(context: Context[Params]) -> Headline:
    from stages.archive.report import build_report
    from stages.common.dataset import read_index

    manifests, out = context.manifests, context.out
    check_one_run(manifests)
    collect(context.inputs, out)
    write_json(out / "lineage.json", lineage(manifests))
    (out / "params.yaml").write_text(yaml.safe_dump(used_params(manifests), sort_keys=False))
    against = _identify(context.params, context.inputs, "registry")
    judgement = _judge(context, against)
    gate = {
        "model": manifests["train"]["key"],
        "champion": against,
        "forced": context.params.archive.force,
        "lots": sorted({row["lot"] for row in read_index(context.inputs["prepare_train"])}),
        **asdict(judgement),
    }
    write_json(out / GATE, gate)
    write_report(out / REPORT, build_report(context.params.archive.title, out))
    return {"mean_accuracy": round(judgement.mean_accuracy, 4), "fit": "yes" if judgement.fit else "no"}


def _deliver(delivery: Delivery[Params]) -> Delivered:
    from stages.archive.run_page import write_run

    section = delivery.params.archive
    registry = _registry(delivery.params, delivery.inputs)
    version = release(registry, delivery.artifact, delivery.key, force=section.force)
    champion = registry.champion()
    released = {"version": version.name, "champion": champion.name if champion else NONE}
    told = os.environ.get(RUN, "{}")
    report = write_run(
        delivery.inputs["runs"], section.title, delivery.artifact, delivery.key, json.loads(told), released,
        standing(registry, version),
    )  # fmt: skip
    return Delivered(released, report)


STAGE = Stage(
    name="archive",
    description=(
        "Collects model, metrics, plots, parameters and lineage of one run as one version, judges it against the "
        "champion, registers it, and releases it if it is fit."
    ),
    params=Params,
    inputs={
        "validate": Input("artifact of stage validate"),
        "prepare_train": Input("artifact of stage prepare_train"),
        "hyperopt": Input("artifact of stage hyperopt"),
        "train": Input("artifact of stage train"),
        "evaluate": Input("artifact of stage evaluate"),
        "label_doubt": Input("artifact of stage label_doubt"),
        "registry": Input(
            "folder of the registry: versions as commits of a git repository with DVC", False, created=True
        ),
        "runs": Input("folder that gets a page for each run", False, created=True),
    },
    outputs={
        "report": ("report.html", "one self-contained page about the version"),
        "gate": (GATE, "the candidate against the champion, and whether it is fit for release"),
        "validate": ("validate/report.html", "the report of validate and the files that it links; so for every input"),
        "model": ("model", "model.onnx and model.safetensors"),
        "metrics": ("metrics", "JSON metrics of every stage"),
        "plots": ("plots", "PNG plots of every stage"),
        "reference": ("reference", "what tells drift from the images that the model has not learned from"),
        "params": ("params.yaml", "the parameters that every stage really used"),
        "lineage": ("lineage.json", "keys, versions, inputs, images and cost, down to the raw files"),
    },
    run=_run,
    identify=_identify,
    deliver=_deliver,
)
