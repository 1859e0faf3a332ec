"""The page of all versions and runs, on which any two versions can be compared: `<registry>/page/`.

    versions.html   data and one script of ours; the policy of the page and Airflow's reports plugin name the script by
                    its digest; the page opens anywhere without a network
    pictures/       thumbnails of the test images on which versions are compared, by the digest of the picture

The page is written anew from the registry whenever that changes. The browser finds the differing answers of any two
versions: each version keeps its answers (`stages.archive.record`), and the picture decides the split of an image, so
versions mostly have the same test images.
"""

import base64
import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.archive.release import MODEL_CARD, RECORD
from stages.common.contract.artifacts import MANIFEST, read_json
from stages.common.inference.compared import PICTURES
from stages.common.registry.registry import PAGE, Registry, Version, now
from stages.common.reports.report import REPORT, page_templates, script_digest

SCRIPT = Path(__file__).with_name("versions.js")

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_PICTURE = "data:image/jpeg;base64,"


def write_versions(registry: Registry, runs: Path) -> Path:
    """Write the page, while the registry is locked, and return it.

    Args:
        registry: with the versions.
        runs: the folder with a page for each run.
    """
    from markupsafe import Markup  # which comes with Jinja; not needed for --help

    page = registry.home / PAGE
    page.parent.mkdir(exist_ok=True)
    script = SCRIPT.read_text(encoding="utf-8")
    data = json.dumps(collect_versions(registry, runs), separators=(",", ":"), allow_nan=False)
    text = page_templates(Path(__file__).parent).get_template("versions.html").render(
        script=Markup(script),  # noqa: S704 (ours)
        digest=script_digest(script),
        data=Markup(data.replace("<", "\\u003c")),  # noqa: S704 (so that no text ends the element)
    )  # fmt: skip
    _write(page, text.encode())
    return page


def keep_pictures(registry: Registry, evaluate: Path) -> None:
    """Add the thumbnails of an artifact of stage evaluate to those beside the page."""
    folder = registry.home / PAGE.parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for digest, uri in read_json(evaluate / PICTURES, "evaluate").items():
        path = folder / f"{digest}.jpg"
        if _DIGEST.fullmatch(digest) and uri.startswith(_PICTURE) and not path.exists():
            _write(path, base64.b64decode(uri.removeprefix(_PICTURE)))


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Numbered:
    """Numbers for repeated values: each value is stored once, and a number stands for it."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.values: list[Any] = []

    def __call__(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self.numbers:
            self.numbers[key] = len(self.values)
            self.values.append(value)
        return self.numbers[key]


def collect_versions(registry: Registry, runs: Path) -> dict[str, Any]:
    """The content of the page, JSON-like; `versions.js` reads it.

    Lots, attributes, values of parameters and sets of test images are stored once, and versions have their numbers. Of
    the answers, only differences from `base` are stored: from the label of an image, or, if that is unknown, from the
    answer of the newest version.
    """
    versions, releases = registry.versions(), registry.releases()
    records = {name: json.loads(text) for name, text in registry.texts(RECORD).items()}
    pages = _runs(runs, registry.home / PAGE.parent)
    page_of = {run["archive"]: {"report": run["page"], "card": run["card"]} for run in pages}
    attributes, lots, values, sets = (_Numbered() for _ in range(4))
    names = sorted({name for record in records.values() for name in record["params"]})
    images = _Images()
    for version in reversed(versions):  # the newest version decides name and labels of an image
        if version.name in records:
            images.add(records[version.name], attributes)
    released = {release.version for release in releases}
    told: list[dict[str, Any]] = []
    for version in versions:
        state = "released" if version.name in released else ""
        if releases and releases[-1].version == version.name:
            state = "champion"
        entry = {**_of_version(version, lots), "state": state, **page_of.get(version.archive, {})}
        if record := records.get(version.name):
            entry |= {name: record[name] for name in _AS_IT_IS}
            entry["by_lot"] = {lots(lot.removeprefix("lot ")): figures for lot, figures in record["by_lot"].items()}
            entry["attributes"] = {attributes(_attribute(of)): _figures(of) for of in record["attributes"]}
            entry["params"] = [values(record["params"][name]) if name in record["params"] else -1 for name in names]
            entry["set"] = sets(images.numbers(record))
            entry["unlike"] = images.unlike(record, attributes)
        told.append(entry)
    return {
        "made": now(),
        "versions": told,
        "attributes": attributes.values,
        "lots": lots.values,
        "params": {"names": names, "values": values.values},
        "sets": sets.values,
        "images": images.rows(),
        "releases": [{"version": of.version, "action": of.done, "reason": of.reason, "time": of.time}
                     for of in releases],
        "runs": [{name: value for name, value in run.items() if name not in {"archive", "card"}} for run in pages],
    }  # fmt: skip


_AS_IT_IS = ("test_images", "worst_slice", "images", "splits", "labels", "inputs", "seconds", "curves")


def _of_version(version: Version, lots: _Numbered) -> dict[str, Any]:
    return {
        "name": version.name, "created": version.created, "model": version.model_digest[:12], "metric": version.metric,
        "accuracy": version.mean_accuracy, "balanced": version.mean_balanced_accuracy, "fit": version.fit,
        "reasons": list(version.reasons), "against": version.champion, "lots": [lots(lot) for lot in version.lots],
    }  # fmt: skip


def _attribute(of: Mapping[str, Any]) -> dict[str, Any]:
    """Properties that identify an attribute in two versions, and its title."""
    return {name: of[name] for name in ("name", "title", "classes")}


def _figures(of: Mapping[str, Any]) -> dict[str, Any]:
    return {name: of[name] for name in ("labels", "accuracy", "balanced_accuracy", "interval", "per_class")}


class _Images:
    """The test images of all versions, by the digests of their pictures."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._names: list[str] = []
        self._labels: list[dict[int, int]] = []
        self._base: list[dict[int, int]] = []

    def add(self, record: Mapping[str, Any], attributes: _Numbered) -> None:
        """Add the images of a version that are not known yet."""
        columns = [attributes(_attribute(of)) for of in record["attributes"]]
        answers = record["answers"]
        for picture, name, labels, said in zip(
            answers["pictures"], answers["filenames"], answers["labels"], answers["answers"], strict=True
        ):
            number = self._number.setdefault(picture, len(self._number))
            if number == len(self._names):
                self._names.append(name)
                self._labels.append({})
                self._base.append({})
            for column, label, answer in zip(columns, labels, said, strict=False):
                self._labels[number].setdefault(column, label)
                self._base[number].setdefault(column, label if label >= 0 else answer)

    def numbers(self, record: Mapping[str, Any]) -> list[int]:
        """The images of a version."""
        return [self._number[picture] for picture in record["answers"]["pictures"]]

    def unlike(self, record: Mapping[str, Any], attributes: _Numbered) -> list[int]:
        """Answers of a version that differ from the base, three numbers each: image, attribute, class or -1."""
        columns = [attributes(_attribute(of)) for of in record["attributes"]]
        return [
            cell
            for number, said in zip(self.numbers(record), record["answers"]["answers"], strict=True)
            for column, answer in zip(columns, said, strict=False)
            if self._base[number][column] != answer
            for cell in (number, column, answer)
        ]

    def rows(self) -> list[list[Any]]:
        """A row per image: digest, name, and by attribute its label (-1 if unknown) and the base."""
        everything = zip(self._number, self._names, self._labels, self._base, strict=True)
        return [[picture, name, labels, base] for picture, name, labels, base in everything]


def _runs(runs: Path, seen_from: Path) -> list[dict[str, Any]]:
    """Every run that has a page, the oldest first; a page that cannot be read is left out."""
    found = []
    for manifest in runs.glob(f"*/{MANIFEST}"):
        try:
            told = json.loads(manifest.read_text(encoding="utf-8"))
            headline, moment = told["headline"], (manifest.parent / REPORT).stat().st_mtime
            run = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
                "run": headline["run"],
                "version": headline["version"],
                "champion": headline["champion"],
                "accuracy": headline.get("mean_accuracy"),
                "page": os.path.relpath(manifest.parent / REPORT, seen_from),
                "card": os.path.relpath(card, seen_from)
                if (card := manifest.with_name(f"{MODEL_CARD}.html")).exists()
                else "",
                "archive": told["inputs"]["archive"]["key"],
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(run)
    return sorted(found, key=lambda entry: str(entry["time"]))
