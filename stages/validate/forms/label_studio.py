"""Label Studio's JSON: the list of tasks that it exports as "JSON", with a block of choices per attribute."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.images.listing import SUFFIXES, as_text
from stages.validate.forms.header import Header, spelling
from stages.validate.forms.part import Broken, Form, Part, taken_as_unknown, with_places
from stages.validate.forms.text import brief, read_text
from stages.validate.forms.words import read_words

_TASKS = re.compile(r"\s*\[\s*\{")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""Prefix that Label Studio gives to the name of an uploaded file."""


def is_export(start: str) -> bool:
    """Whether a file is such a list, by its beginning."""
    return bool(_TASKS.match(start)) and '"annotations"' in start and '"data"' in start


class LabelStudio(Form):
    """A task per image, whose choices have the name of an attribute or of its column.

    The newest of several annotations of a task counts; skipped ones do not. Other results are reported.
    """

    name = "Label Studio's JSON"
    answers: ClassVar[bool] = True

    @property
    def expected(self) -> str:
        """Its name."""
        return f"an export of {self.name}"

    def recognises(self, _header: Header, start: str) -> bool:
        """Whether it is a list of tasks."""
        return is_export(start)

    def read(self, folder: Path, files: Sequence[Path], _header: Header) -> Part:
        """Read the one file; the row of an annotation is the number of its task, from 1."""
        path, source = folder / files[0], as_text(files[0])
        try:
            tasks = json.loads(read_text(path, "a list of tasks"))
        except (ValueError, RecursionError) as error:
            line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(f"{path}{line}: not JSON ({error}): export it from Label Studio again") from error
        if not isinstance(tasks, list):
            raise DataError(f"{path}: no list of tasks: export it from Label Studio as JSON")
        called = {spelling(attribute.name): attribute.column for attribute in self.asked.attributes}
        called |= {spelling(attribute.column): attribute.column for attribute in self.asked.attributes}
        broken: list[Broken] = []
        others, without, several = Counter[str](), list[str](), 0
        lines, rows = list[int](), list[dict[str, str]]()
        for number, task in enumerate(tasks, 1):
            name = _image_of(task.get("data")) if isinstance(task, dict) else ""
            if not name:
                broken.append(Broken(source, number, "", "a task without the name of an image: give data a filename"))
                continue
            annotations = list(_annotations(task))
            several += len(annotations) > 1
            if not annotations:
                without.append(name)
                continue
            newest = max(
                annotations,
                key=lambda annotation: str(annotation.get("updated_at") or annotation.get("created_at") or ""),
            )
            labels = {}
            for block, choice in _choices(newest):
                if column := called.get(spelling(block)):
                    labels[column] = choice
                else:
                    others[block] += 1
            lines.append(number)
            rows.append({"filename": name, **labels})
        columns = [name for name in self.columns if name == "filename" or any(name in row for row in rows)]
        table = pd.DataFrame(rows, columns=pd.Index(columns), dtype="str").fillna("")
        cells, unknown = read_words(self.asked.attributes, table, answers=self.answers)
        notices = taken_as_unknown(source, unknown)
        if without:
            notices.append(
                f"{source}: {len(without):,} of {len(tasks):,} tasks are not annotated, such as {brief(without[0])}"
            )
        if several:
            notices.append(f"{source}: {several:,} tasks have several annotations, of which the newest counts")
        if others:
            notices.append(f"{source}: results that are not read: {brief(', '.join(sorted(others)), 200)}")
        return Part(self.name, tuple(columns), with_places(self.columns, cells, source, lines), broken, notices)


def _annotations(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The submitted annotations."""
    found = task.get("annotations")
    for annotation in found if isinstance(found, list) else ():
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            yield annotation


def _choices(annotation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name of a block, and the choice in it; several choices become one text, which is not the name of a class."""
    found = annotation.get("result")
    for result in found if isinstance(found, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict):
            chosen = value.get("choices")
            told = " and ".join(map(str, chosen)) if isinstance(chosen, list) else ""
            block = str(result.get("from_name", ""))
            yield (block, told) if isinstance(chosen, list) else (f"{block} ({result.get('type')})", "")


def _image_of(data: object) -> str:
    """Name or path of a task's image: `filename`, as in tasks of label_doubt, or else from a URL."""
    if not isinstance(data, dict):
        return ""
    if isinstance(name := data.get("filename"), str) and name:
        return name
    texts = [data.get("image"), *data.values()]
    found = (_path_of(text) for text in texts if isinstance(text, str) and not text.startswith("data:"))
    return next((path for path in found if PurePosixPath(path).suffix.lower() in SUFFIXES), "")


def _path_of(address: str) -> str:
    """The path in a URL: parameter d of a local file, or the original name of an upload."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    if local := parse_qs(parts.query).get("d"):
        return local[0].lstrip("/")
    path = unquote(parts.path).lstrip("/")
    return _UPLOADED.sub("", PurePosixPath(path).name) if "/upload/" in f"/{path}" else path
