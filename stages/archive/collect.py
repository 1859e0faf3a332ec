"""Files that an archive takes from a run: the model, metrics and plots, and reports with the files that they link."""

import html
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from stages.common.contract.artifacts import copy_folder
from stages.common.registry.seen import SEEN, pictures
from stages.common.reports.report import REPORT
from stages.common.schema.annotations import annotation_rows
from stages.common.schema.attributes import FILE as ATTRIBUTES_FILE
from stages.common.schema.dataset import index_rows

REJECTED = "rejected.csv"
HARDEST = "hardest.json"

_LINK = re.compile(r'\bhref="([^"#?:]+)')


def linked_files(artifact: Path) -> set[Path]:
    """The report of an artifact, its rejects, and all files that they link, relative to the artifact.

    Links that lead out of the artifact or nowhere are left out.
    """
    found: set[Path] = set()
    pages = [Path(REPORT), Path(REJECTED)]
    while pages:
        path = pages.pop()
        if path in found or not (artifact / path).is_file():
            continue
        found.add(path)
        if path.suffix == ".html":
            links = _LINK.findall((artifact / path).read_text(encoding="utf-8"))
            targets = [Path(os.path.normpath(path.parent / unquote(html.unescape(link)))) for link in links]
            pages += [target for target in targets if not target.is_absolute() and target.parts[0] != ".."]
    return found


def collect(inputs: Mapping[str, Path], out: Path) -> None:
    """Copy the model, its attributes, its reference for drift, the pictures that it knows, and pages for people.

    Names of metrics and plots are unique across stages.

    Args:
        inputs: stage name -> artifact.
        out: gets `model/`, `reference/`, `metrics/`, `plots/`, and per stage a folder with its report and the linked
            files.
    """
    for folder in ("model", "metrics", "plots"):
        (out / folder).mkdir()
    for name, artifact in inputs.items():
        for folder, pattern in (("metrics", "*.json"), ("plots", "*.png")):
            for file in sorted((artifact / folder).glob(pattern)):
                shutil.copy(file, out / folder / file.name)
        for path in sorted(linked_files(artifact)):
            (out / name / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(artifact / path, out / name / path)
    copy_folder(inputs["evaluate"] / "reference", out / "reference")
    np.save(out / "reference" / SEEN, pictures(_known_pictures(inputs["validate"], inputs["prepare_train"])))
    shutil.copy(inputs["prepare_train"] / ATTRIBUTES_FILE, out)
    shutil.copy(inputs["evaluate"] / HARDEST, out / HARDEST)
    for name in ("model.onnx", "model.safetensors"):
        shutil.copy(inputs["train"] / name, out / "model" / name)


def _known_pictures(validate: Path, prepare_train: Path) -> set[str]:
    """Digests of the pictures in the prepared data, and of near duplicates that were left out there."""
    groups, known = set[str](), set[str]()
    for row in index_rows(prepare_train):
        groups.add(row["group"])
        known.add(row["pixels"])
    return known | {row["pixels"] for row in annotation_rows(validate, "pixels", "group") if row["group"] in groups}
