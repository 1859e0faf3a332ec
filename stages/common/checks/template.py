"""Templates in suites: a repeated part is written once, and expanded to the plain form when the suite is read.

An object with `"each"` in a list, of expectations or of anything else, stands for several. Its other keys, or the
objects in its `"items"`, are repeated

    "each": "attribute"                            once for each attribute
    "each": "unknown_when"                         once for each class of another attribute that leaves one unknown
    "each": [{"split": "train"}, {"split": "val"}] once for each object of the list, which may hold templates itself

and placeholders such as `{split}` in its texts take their values from there. A text that consists of one placeholder
becomes the value itself, which may be a list or a number. The placeholders of an attribute are

    {name} {column}      as in attributes.yaml
    {title}              in small letters, as within a sentence
    {classes} {indices}  list of the names of its classes; of "0", "1", ...
    {legend}             the text "0 no, 1 yes"
    {count}              number of its classes

`unknown_when` has also {other_column} and {other_title} of the other attribute, {class} and {class_index}.

`notes` are a text. The `remedy` in the suite's own `meta` applies to all critical expectations that have none.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.contract.data_folder import read_suite_file
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import Attribute, Attributes

LINES = "lines"
"""Key of a suite that was read: for each expectation, the line of its entry in the file."""

LISTED = 12
"""Classes that a text lists; if there are more, it lists the first three and the last."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_ENTRIES = re.compile(r'"expectations"\s*:\s*\[\s*')

Values = Mapping[str, Any]
"""Placeholder -> its value."""


def read_suite(path: Path, attributes: Attributes) -> dict[str, Any]:
    """A suite in Great Expectations' own form, its templates expanded; `LINES` has the line of each in the file.

    Raises:
        DataError: it is not a suite in JSON, or an entry cannot be expanded; its line is named.
    """
    text = read_suite_file(path)
    suite = json.loads(text)
    if not (isinstance(suite, dict) and isinstance(suite.get("expectations"), list)):
        raise DataError(f'{path}: no suite: write {{"name": "{path.stem}", "expectations": [...]}}')
    lines = _lines(text)
    things = {
        "attribute": [_of(attribute) for attribute in attributes],
        "unknown_when": [values for attribute in attributes for values in _unknown_when(attribute, attributes)],
    }
    remedy = (suite.get("meta") or {}).get("remedy")
    expectations, found = [], []
    for line, entry in zip(lines, suite["expectations"], strict=True):
        try:
            expanded = _expand([entry], things, {})
        except _TemplateError as error:
            raise DataError(f"{path}, line {line}: {error}") from error
        for expectation in expanded:
            if not (isinstance(expectation, dict) and isinstance(expectation.get("meta", {}), dict)):
                raise DataError(f'{path}, line {line}: write an object with "type", "kwargs", "meta" and "severity"')
            _complete(expectation.get("meta", {}), remedy if expectation.get("severity") == "critical" else None)
        expectations += expanded
        found += [line] * len(expanded)
    return {**suite, "name": path.stem, "expectations": expectations, LINES: found}


def _lines(text: str) -> list[int]:
    """The line in which each entry of a suite begins."""
    start = _ENTRIES.search(text)
    at, lines = start.end() if start else len(text), []
    while at < len(text) and text[at] != "]":
        lines.append(text.count("\n", 0, at) + 1)
        _, end = json.JSONDecoder().raw_decode(text, at)
        at = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n,"))
    return lines


def _complete(meta: dict[str, Any], remedy: str | None) -> None:
    """Give `notes` the form that Data Docs show, and add the suite's remedy if there is none."""
    if isinstance(notes := meta.get("notes"), str):
        meta["notes"] = {"format": "string", "content": [notes]}
    if remedy:
        meta.setdefault("remedy", remedy)


class _TemplateError(Exception):
    """Why an entry cannot be expanded."""


def _of(attribute: Attribute) -> Values:
    count = len(attribute.classes)
    return {
        "name": attribute.name,
        "column": attribute.column,
        "title": attribute.title.lower(),
        "classes": list(attribute.classes),
        "indices": [str(index) for index in range(count)],
        "legend": ", ".join(_few([f"{index} {name}" for index, name in enumerate(attribute.classes)])),
        "count": count,
    }


def _unknown_when(attribute: Attribute, attributes: Attributes) -> Iterator[Values]:
    named = {attribute.name: attribute for attribute in attributes}
    for name, class_ in attribute.unknown_when.items():
        other = named[name]
        yield {
            **_of(attribute),
            "other_column": other.column,
            "other_title": other.title.lower(),
            "class": class_,
            "class_index": str(other.classes.index(class_)),
        }


def _few(words: Sequence[str]) -> Sequence[str]:
    return words if len(words) <= LISTED else [*words[:3], "\u2026", words[-1]]


def _expand(value: Any, things: Mapping[str, list[Values]], values: Values) -> Any:
    if isinstance(value, str):
        return _fill(value, values)
    if isinstance(value, dict):
        return {name: _expand(item, things, values) for name, item in value.items()}
    if isinstance(value, list):
        return [repeated for item in value for repeated in _repeat(item, things, values)]
    return value


def _repeat(item: Any, things: Mapping[str, list[Values]], values: Values) -> list[Any]:
    """Expand an item of a list: once, or once for each thing that it names."""
    if not (isinstance(item, dict) and "each" in item):
        return [_expand(item, things, values)]
    each = item["each"]
    repeated = {name: part for name, part in item.items() if name != "each"}
    items = repeated.get("items", [repeated])
    if "items" in repeated and (len(repeated) > 1 or not isinstance(items, list)):
        raise _TemplateError('"items" is a list, and beside it may stand only "each"')
    found = things.get(each) if isinstance(each, str) else _expand(each, things, values)
    if not isinstance(found, list) or not all(isinstance(thing, dict) for thing in found):
        raise _TemplateError(f'"each" is {json.dumps(each)}: write {", ".join(things)} or a list of objects')
    return [expanded for thing in found for expanded in _expand(items, things, {**values, **thing})]


def _fill(text: str, values: Values) -> Any:
    def value_of(found: re.Match[str]) -> Any:
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            remedy = f"write one of {known}" if known else 'placeholders need an "each"'
            raise _TemplateError(f"placeholder {found[0]} is unknown: {remedy}")
        return values[found[1]]

    def text_of(found: re.Match[str]) -> str:
        value = value_of(found)
        return ",".join(_few(value)) if isinstance(value, list) else str(value)

    whole = _PLACEHOLDER.fullmatch(text)
    return value_of(whole) if whole else _PLACEHOLDER.sub(text_of, text)
