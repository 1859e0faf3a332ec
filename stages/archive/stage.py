"""The wiring of stage `archive`: put a version together, apply the gate, register it, and release it if it is fit."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from stages.archive.cards import OWN, read_own, write_cards
from stages.archive.collect import collect
from stages.archive.lineage import check_one_run, lineage, used_params
from stages.archive.params import Params
from stages.archive.release import DATA_CARD, GATE, MODEL_CARD, NONE, RECORD, baseline, release, released
from stages.common.contract.artifacts import file_digest, write_json
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Delivered, Delivery, Headline, Input, RawFiles, Stage
from stages.common.registry.registry import LINEAGE, MODEL, PAGE, Registry
from stages.common.reports.report import REPORT, write_report
from stages.common.schema.attributes import FILE as ATTRIBUTES_FILE

if TYPE_CHECKING:
    from stages.archive.gate import GateVerdict
    from stages.archive.meeting import Candidate

SLICES_KEPT = 20
"""Number of slices in which the candidate has wrong answers where the champion is right."""


def _registry(params: Params, inputs: Mapping[str, Path]) -> Registry:
    return Registry(inputs["registry"], params.registry.remote)


def _identify(params: Params, inputs: Mapping[str, Path], _name: str) -> str:
    """The version with which the candidate is compared: the part of the registry that decides the artifact.

    The best version follows from it.
    """
    return baseline(_registry(params, inputs), file_digest(inputs["train"] / MODEL.name))


def _apply_gate(context: Context[Params], candidate: "Candidate", against: str) -> "tuple[GateVerdict, str | None]":
    """Compare the candidate with the champion `against`, and with the best version, on the test split.

    Returns:
        The verdict; and the version that is the best one once the candidate is released, None for itself.
    """
    # not needed for --help
    from stages.archive.gate import GateVerdict, apply_gate, compare, interval, means_by_metric
    from stages.archive.meeting import IncomparableError
    from stages.common.inference.measures import cells_of
    from stages.common.inference.slices import compare_slices, fallen

    section, least = context.params.archive, context.params.monitor.min_accuracy
    metric = context.params.evaluate.metric
    right, labels, groups = candidate.right, candidate.labels, candidate.groups
    found = GateVerdict(metric, means_by_metric(right, labels), interval(cells_of(right, labels, metric), groups))

    def decide(measured: GateVerdict, refused: Sequence[str] = ()) -> GateVerdict:
        return apply_gate(measured, least, section.alpha, section.margin, refused)

    if against == NONE:
        return decide(found), None
    registry = _registry(context.params, context.inputs)
    try:
        champion = candidate.meet(registry, against, context.state / "champion")
    except IncomparableError as error:
        unfair = f"it cannot be compared with {against}, {error}: archive.force releases it anyway"
        return decide(found, [unfair]), None
    notes, best = champion.notes, None
    if (name := registry.version(against).best) != against:
        try:
            best = candidate.meet(registry, name, context.state / "best")
        except IncomparableError as error:
            notes = [*notes, f"The best version so far was {name}, {error}, so {against} takes its place"]
    against_one = partial(compare, candidate.attributes, metric, labels, groups=groups)
    to_champion = against_one(champion.name, right, champion.right, notes)
    to_best = against_one(best.name, right, best.right, best.notes) if best else None
    between = against_one(best.name, champion.right, best.right) if best else None
    changes = compare_slices(candidate.attributes, labels, candidate.lots, right, champion.right, groups, section.alpha)
    falls = fallen(changes, section.alpha, section.slice_margin)
    warnings = [f"against {champion.name}, {fall.text}" for fall in falls]
    changes = sorted(changes, key=lambda change: (change.p, change.candidate - change.version))[:SLICES_KEPT]
    met = replace(
        found, champion=to_champion, best=to_best, champion_to_best=between, slices=changes, warnings=warnings
    )
    measure = to_best or to_champion
    return decide(met, champion.objections), None if measure.better else measure.version


def _run(context: Context[Params]) -> Headline:
    from stages.archive.meeting import Candidate
    from stages.archive.record import write_record
    from stages.archive.report import build_report
    from stages.common.registry.seen import read_seen
    from stages.common.schema.dataset import index_rows

    manifests, out, prepared = context.manifests, context.out, context.inputs["prepare_train"]
    check_one_run(manifests)
    collect(context.inputs, out)
    model_digest = file_digest(out / MODEL)
    chain = lineage(manifests)
    chain["train"]["model_digest"] = model_digest
    write_json(out / LINEAGE, chain)
    (out / "params.yaml").write_text(yaml.safe_dump(used_params(manifests), sort_keys=False))
    against = _identify(context.params, context.inputs, "registry")
    data, seen = manifests["prepare_train"]["params"]["data"], read_seen(out / "reference")
    candidate = Candidate(context.inputs["train"] / MODEL.name, prepared, data, seen)
    verdict, best_after = _apply_gate(context, candidate, against)
    gate = {
        "model_digest": model_digest,
        "against": against,
        "best_after": best_after,
        "forced": context.params.archive.force,
        "lots": sorted({row["lot"] for row in index_rows(prepared)}),
        **asdict(verdict),
    }
    write_json(out / GATE, gate)
    write_record(out, candidate)
    write_cards(out, manifests, read_own(context.inputs.get("card")))
    versions = os.path.relpath(context.inputs["registry"] / PAGE, out)
    write_report(out / REPORT, build_report(context.params.archive.title, out, versions))
    for line in verdict.warnings:
        log.warning("a slice fell: %s", line)
    means = {f"mean_{name}": round(mean, 4) for name, mean in verdict.means.items() if mean is not None}
    warned = {"warnings": "; ".join(verdict.warnings)} if verdict.warnings else {}
    return {**means, "fit": "yes" if verdict.fit else "no", **warned}


def _raw_files(_params: Params, inputs: Mapping[str, Path], name: str) -> RawFiles:
    """Text of people for the cards, if the folder has one."""
    return RawFiles([OWN] if (inputs[name] / OWN).is_file() else [])


def _deliver(delivery: Delivery[Params]) -> Delivered:
    from stages.archive.run_page import write_run
    from stages.archive.versions_page import keep_pictures, write_versions

    section = delivery.params.archive
    registry = _registry(delivery.params, delivery.inputs)
    version = release(registry, delivery.artifact, delivery.key, force=section.force)
    report = write_run(delivery.inputs["runs"], section.title, delivery.artifact, registry, version)
    with registry.locked():
        keep_pictures(registry, delivery.inputs["evaluate"])
        write_versions(registry, delivery.inputs["runs"])
    refused = {} if version.fit else {"why": "; ".join(version.reasons)}
    return Delivered(released(registry, version) | refused, report)


STAGE = Stage(
    name="archive",
    description=(
        "Collects model, metrics, plots, parameters and lineage of one run as one version, compares it with the "
        "champion, registers it, and releases it if it passes the gate."
    ),
    params=Params,
    inputs={
        "validate": Input("artifact of stage validate"),
        "prepare_train": Input("artifact of stage prepare_train"),
        "hyperopt": Input("artifact of stage hyperopt"),
        "train": Input("artifact of stage train"),
        "evaluate": Input("artifact of stage evaluate"),
        "label_doubt": Input("artifact of stage label_doubt"),
        "card": Input(f"folder with {OWN} (optional), your own text for the cards", False, required=False),
        "registry": Input(
            "folder of the registry: versions as commits of a git repository with DVC", False, created=True
        ),
        "runs": Input("folder that gets a page for each run", False, created=True),
    },
    outputs={
        "report": ("report.html", "one self-contained page about the version"),
        "model_card": (f"{MODEL_CARD}.md", "what the model is for, how good it is, and its limits; .html for people"),
        "data_card": (f"{DATA_CARD}.md", "what the data are and where they come from; likewise"),
        "gate": (GATE, "the candidate against the champion, and whether it is fit for release"),
        "validate": ("validate/report.html", "the report of validate and the files that it links; so for every input"),
        "model": ("model", "model.onnx and model.safetensors"),
        "metrics": ("metrics", "JSON metrics of every stage"),
        "plots": ("plots", "PNG plots of every stage"),
        "reference": (
            "reference",
            "reference for drift: features of images outside training, and the pictures it knows",
        ),
        "attributes": (ATTRIBUTES_FILE, "what the model answers: name, classes and title of each"),
        "params": ("params.yaml", "the parameters that every stage used"),
        "compare": (RECORD, "data for the page of all versions: figures, parameters, answers to test images"),
        "lineage": (LINEAGE, "keys, versions, inputs, images and cost, down to the raw files"),
    },
    run=_run,
    raw_files=_raw_files,
    identify=_identify,
    deliver=_deliver,
)
