"""Registers an archived candidate as a version, and releases it if that is due."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.common.contract.artifacts import copy_folder, read_json
from stages.common.contract.errors import TryAgainError
from stages.common.contract.logs import log
from stages.common.contract.run import told_run
from stages.common.registry.registry import LINEAGE, Registry, Version, now
from stages.common.reports.report import REPORT
from stages.common.schema.attributes import FILE as ATTRIBUTES_FILE

GATE = "gate.json"
RECORD = "compare.json"
"""The record by which a version is compared with any other (`stages.archive.record`)."""
MODEL_CARD, DATA_CARD = "model_card", "data_card"
"""Files of a version (`stages.archive.cards`), before .md and .html."""
NONE = "none"
"""Stands for a champion's name before any release."""


def baseline(registry: Registry, model_digest: str) -> str:
    """The version with which the gate compares a model: the champion, or that at the registration of the model.

    A model, identified by the digest of its model.onnx, goes through the gate once. So a rerun changes nothing after
    the model has become the champion, and neither the next day's run nor a training with the same weights as result
    undoes a person's rollback.
    """
    if known := registry.find(model_digest):
        return known.champion or NONE
    champion = registry.champion()
    return champion.name if champion else NONE


def release(registry: Registry, artifact: Path, key: str, *, force: bool) -> Version:
    """Register the candidate in an archive artifact, and make it the champion if that is due. It is idempotent.

    Args:
        registry: gets the version.
        artifact: the published artifact of stage archive.
        key: its key.
        force: make it the champion even if the gate refuses it.

    Raises:
        TryAgainError: another version became the champion since the comparison.
    """
    gate = read_json(artifact / GATE)
    with registry.locked():
        champion = registry.champion()
        version = registry.find(gate["model_digest"])
        known = version is not None
        if not version:
            present = champion.name if champion else NONE
            if present != gate["against"]:
                raise TryAgainError(
                    f"the champion changed from {gate['against']} to {present} after this was compared: try again, to "
                    f"compare it with {present}"
                )
            name = registry.next_name()
            version = Version(
                name=name,
                model_digest=gate["model_digest"],
                archive=key,
                mean_accuracy=gate["means"]["accuracy"],
                mean_balanced_accuracy=gate["means"]["balanced_accuracy"],
                metric=gate["metric"],
                champion="" if gate["against"] == NONE else gate["against"],
                best=gate["best_after"] or name,
                fit=gate["fit"],
                reasons=gate["reasons"],
                lots=gate["lots"],
                created=now(),
            )
            content = registry.home / f".adding-{version.name}"
            try:
                write_content(artifact, content, version)
                registry.register(content, version)
            finally:
                shutil.rmtree(content, ignore_errors=True)
            log.info("%s registered: %s", version.name, version.means)
        # Fit, but the run was killed before the release; by now there may be another champion.
        unfinished = version.fit and not any(release.version == version.name for release in registry.releases())
        due = unfinished and (champion.name if champion else "") == version.champion
        if due or (force and champion != version):
            reason = "; ".join(version.reasons)
            by = "" if due else told_run().get("by", "")
            registry.promote(version.name, reason if due else f"forced; the gate said: {reason}", by)
            log.info("%s is the champion now", version.name)
        elif champion != version:
            before = "it was compared before, so only `archive promote` or force releases it; " if known else ""
            log.warning("%s is not released: %s%s", version.name, before, version.gate_verdict)
    return version


def released(registry: Registry, version: Version) -> dict[str, str]:
    """A version and the champion, by name, for headlines."""
    champion = registry.champion()
    return {"version": version.name, "champion": champion.name if champion else NONE}


def standing(registry: Registry, version: Version) -> str:
    """The state of a version and of the champion in the registry, in a line or two for the page of a run."""
    last = next(reversed(registry.releases()), None)
    if last and last.version == version.name:
        return f"{version.name} is the champion ({last.told})."
    champion = f"The champion is {last.version} ({last.told})." if last else "No version is released."
    return f"{version.name} is archived. Release gate: {version.gate_verdict}. {champion}"


def write_content(artifact: Path, content: Path, version: Version) -> None:
    """Write the files of a version for the registry.

    Args:
        artifact: of stage archive.
        content: a folder to make.
        version: its description.
    """
    for name in ("model", "metrics", "plots", "reference"):
        copy_folder(artifact / name, content / name)
    for name in ("params.yaml", LINEAGE, ATTRIBUTES_FILE, GATE, RECORD):
        shutil.copy(artifact / name, content)
    report = content / "report"
    report.mkdir()
    shutil.copy(artifact / REPORT, report)
    for card in (MODEL_CARD, DATA_CARD):
        shutil.copy(artifact / f"{card}.md", content)
        shutil.copy(artifact / f"{card}.html", report)
    for stage in read_json(artifact / LINEAGE):
        if (artifact / stage).is_dir():
            copy_folder(artifact / stage, report / stage)
    (content / "README.md").write_text(_README.format(name=version.name, means=version.means), encoding="utf-8")
    pipeline: Mapping[str, Any] = {
        "metrics": sorted(f"metrics/{path.name}" for path in (content / "metrics").iterdir()),
        "params": ["params.yaml"],
        "plots": sorted(f"plots/{path.name}" for path in (content / "plots").iterdir()),
    }
    (content / "dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")


_README = """# {name}

On the test images: {means}. model_card.md says what the model is for and what its limits are, data_card.md what it has
learned from. Each commit is a version; `git tag` lists them (v1, v2, ...) and the releases
(champion-0001, ...), `git tag --list -n1 'champion-*'` says why. Both with `--sort=version:refname` in their order.

    dvc pull                       # model, plots, reference, report; it refuses damaged files
    dvc metrics diff v1 {name}
    dvc params diff v1 {name}
    dvc plots diff v1 {name}
"""
