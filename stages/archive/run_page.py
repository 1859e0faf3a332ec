"""A page per run: computed and cached stages, and the resulting version."""

import os
import shutil
from pathlib import Path

from stages.archive.release import DATA_CARD, GATE, MODEL_CARD, released, standing
from stages.archive.report import build_report, stages_table
from stages.common.contract.artifacts import MANIFEST, json_digest, making, publish, read_json, write_manifest
from stages.common.contract.run import told_run
from stages.common.registry.registry import LINEAGE, PAGE, Registry, Version, now
from stages.common.reports.report import REPORT, write_report

STAGE = "run"
"""Stands for a stage's name in the manifest of a run's page."""


def write_run(runs: Path, title: str, archive: Path, registry: Registry, version: Version) -> Path:
    """Write the page of this run (`told_run`) into its own folder, as an artifact; a second call replaces it.

    Args:
        runs: gets the folder `<digest of the run's id>/`.
        title: headline.
        archive: the artifact of stage archive at the end of the run.
        registry: the registry of the version.
        version: the version of that artifact.

    Returns:
        The page.
    """
    run, key = told_run(), read_json(archive / MANIFEST)["key"]
    name = run.get("run_id", "")
    digest = json_digest({"run": name, "archive": key})
    final = runs / digest
    with making(final) as partial:
        base = f"{os.path.relpath(archive, final)}/"
        subtitle = f"Run {name}, {now()}. " if name else ""
        versions = os.path.relpath(registry.home / PAGE, final)
        chain, state = read_json(archive / LINEAGE), standing(registry, version)
        told = stages_table("This run", chain, archive, base, run.get("stages"), state)
        report = build_report(f"{title}: {version.name}", archive, versions, [told], subtitle, base)
        write_report(partial / REPORT, report)
        for card in (MODEL_CARD, DATA_CARD):
            if (page := archive / f"{card}.html").exists():
                shutil.copy(page, partial)
        gate = read_json(archive / GATE)
        means = {f"mean_{metric}": round(mean, 4) for metric, mean in gate["means"].items() if mean is not None}
        headline = {**released(registry, version), **means, "run": name}
        write_manifest(partial, stage=STAGE, key=digest, inputs={"archive": {"key": key}}, headline=headline)
        publish(partial, final)
    return final / REPORT
