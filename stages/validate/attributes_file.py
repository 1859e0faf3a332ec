"""attributes.yaml, in which people list the annotated attributes: it is read and checked here, and then is data."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import yaml

from stages.common.contract.errors import DataError, UsageError
from stages.common.contract.version import ROOT
from stages.common.images.statistics import STATISTICS
from stages.common.schema.annotations import CANNOT_TELL
from stages.common.schema.attributes import Attribute, Attributes
from stages.validate.forms.header import spelling

FILE = "attributes.yaml"
DEFAULT = ROOT / "data" / FILE
"""The attributes of data that have no such file."""

MOST_CLASSES = 1000

_CELEBA = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young
"""
CELEBA = frozenset(_CELEBA.split())
"""CelebA's 40 attributes."""

_NO_CLASSES = (CANNOT_TELL, "abstained")
"""Names beside the classes under which labels and answers are counted."""
_KEYS = ("name", "classes", "title", "column", "unknown_when", "celeba", "cartoon_set")
_TABLES = """
    ambiguous aspect_ratio candidates contradicts cropped digest duplicate_of embedding face_bottom face_left face_right
    face_top faces filename files format found given_group given_split group hash height image image_id images kind
    known_labels lot mean mode model_version near_duplicate_of other_format other_name path pixels problem reason row
    short shorter_side source split splits_of_picture std width
"""
_OURS = frozenset(_TABLES.split()) | set(STATISTICS)
"""Columns of stages' tables that also have columns of attributes."""
_SUFFIXES = ("_class", "_share", "_predicted", "_confidence", "_answered")
"""Endings of the columns that stages derive from an attribute."""


@dataclass(frozen=True)
class Variants:
    """Cartoon Set's encoding of an attribute.

    Attributes:
        attribute: the set's attribute.
        classes: class index of each of its variants.
    """

    attribute: str
    classes: tuple[int, ...]


@dataclass(frozen=True)
class AttributesFile:
    """The content of attributes.yaml.

    Attributes:
        attributes: the attributes.
        celeba: attribute -> class -> its conditions, all of which must hold: X for a CelebA attribute, -X for its no.
        cartoon_set: attribute -> classes of the variants.
    """

    attributes: Attributes
    celeba: Mapping[str, Mapping[str, tuple[str, ...]]]
    cartoon_set: Mapping[str, Variants]


def find_attributes_file(inputs: Mapping[str, Path]) -> Path:
    """The file beside the annotations, in their folder, or beside the raw folder; else that of the repository.

    Raises:
        UsageError: there are two different files, or a file has another name.
    """
    folders = [inputs["raw"].absolute().parent] if "raw" in inputs else []
    if "annotations" in inputs:
        annotations = inputs["annotations"].absolute()
        home = annotations if annotations.is_dir() else annotations.parent
        folders += [home, home.parent] if annotations.is_dir() or home.name == "annotations" else [home]
    for folder in folders:
        if (other := (folder / FILE).with_suffix(".yml")).is_file():
            raise UsageError(f"{other} is not read: call it {FILE}")
    found = [path for path in dict.fromkeys(folder / FILE for folder in folders) if path.is_file()]
    if len(found) > 1:
        raise UsageError(f"{found[0]} and {found[1]} both list the attributes: name one with --attributes")
    return found[0] if found else DEFAULT


def read_attributes_file(path: Path) -> AttributesFile:
    """Read attributes.yaml.

    Raises:
        DataError: it does not have the form of data/README.md; the message has file, line and remedy.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: save it as UTF-8") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder: name the file {FILE} in it") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(
            f"{path}, line {line}: not YAML ({error.problem}): correct it, or the indent of the line above"
        ) from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())}): correct it") from error
    entries = _Node(path, root).items("attributes") if root else []
    if not entries:
        raise DataError(f"{path}, line 1: it names no attribute: expected a list such as {_EXAMPLE}")
    found = [_read_attribute(entry) for entry in entries]
    _require_distinct(found)
    _require_tellable(found)
    _require_one_count(found)
    return AttributesFile(
        tuple(entry.attribute for entry in found),
        {entry.attribute.name: entry.celeba for entry in found if entry.celeba},
        {entry.attribute.name: entry.cartoon_set for entry in found if entry.cartoon_set},
    )


_EXAMPLE = '- {name: smile, classes: ["no", "yes"]}'


@dataclass(frozen=True)
class _Node:
    """A part of the file, with its place."""

    path: Path
    node: yaml.Node

    def refuse(self, told: str) -> NoReturn:
        raise DataError(f"{self.path}, line {self.node.start_mark.line + 1}: {told}")

    def text(self, what: str) -> str:
        """A text; without quotes, YAML would read `no` as false and `1` as a number."""
        kind, value = self.node.tag.rpartition(":")[2], self.node.value
        if not isinstance(self.node, yaml.ScalarNode) or not str(value).strip():
            self.refuse(f"{what} is missing or no text: write one")
        if kind != "str":
            self.refuse(f'{what}: YAML takes {value} without quotes for something else: quote it: "{value}"')
        if not (value.isprintable() and value == value.strip()):
            self.refuse(f"{what}: {value!r} has blanks around it or is not a printable line: correct it")
        return str(value)

    def number(self, what: str) -> int:
        """A whole number, 0 or more."""
        value = self.node.value
        if not (isinstance(self.node, yaml.ScalarNode) and re.fullmatch("[0-9]{1,4}", value)):
            self.refuse(f"{what} is not a whole number from 0 to 9999: write one without quotes")
        return int(value)

    def items(self, what: str) -> "list[_Node]":
        """The entries of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.refuse(f"{what}: expected a list, in brackets or with a - before each entry")
        return [_Node(self.path, entry) for entry in self.node.value]

    def pairs(self, what: str, known: Collection[str]) -> "dict[str, _Node]":
        """The entries of a mapping, whose keys are among `known`."""
        if not isinstance(self.node, yaml.MappingNode):
            self.refuse(f"{what}: expected keys with values, such as {{{next(iter(known))}: ...}}")
        found: dict[str, _Node] = {}
        for entry, value in self.node.value:
            key = _Node(self.path, entry)
            name = key.text(what)
            if name not in known:
                key.refuse(f"{what}: there is no {name!r}, only {', '.join(known)}")
            if name in found:
                key.refuse(f"{what}: {name} appears twice: keep one")
            found[name] = _Node(self.path, value)
        return found


@dataclass(frozen=True)
class _Entry:
    """An attribute, its rules, and its keys in the file."""

    node: _Node
    keys: Mapping[str, _Node]
    attribute: Attribute
    celeba: Mapping[str, tuple[str, ...]]
    cartoon_set: Variants | None

    def at(self, key: str) -> _Node:
        """The place of `key`, or the beginning of the entry."""
        return self.keys.get(key, self.node)


def _read_attribute(node: _Node) -> _Entry:
    keys = node.pairs("an attribute", _KEYS)
    if missing := [key for key in ("name", "classes") if key not in keys]:
        node.refuse(f"an attribute has no {missing[0]}: write, for instance, {_EXAMPLE}")
    name = keys["name"].text("name")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        keys["name"].refuse(
            f"name {name!r}: use lower-case letters, digits and _, a letter first; title may be any text"
        )
    classes = _read_classes(keys["classes"], name)
    attribute = Attribute(
        name=name,
        classes=classes,
        column=keys["column"].text(f"column of {name}") if "column" in keys else name,
        title=keys["title"].text(f"title of {name}") if "title" in keys else name.replace("_", " ").capitalize(),
        unknown_when=_read_unknown_when(keys["unknown_when"], name) if "unknown_when" in keys else {},
    )
    celeba = _read_celeba(keys["celeba"], attribute) if "celeba" in keys else {}
    cartoon_set = _read_cartoon_set(keys["cartoon_set"], attribute) if "cartoon_set" in keys else None
    return _Entry(node, keys, attribute, celeba, cartoon_set)


def _read_classes(node: _Node, name: str) -> tuple[str, ...]:
    found: list[str] = []
    for item in node.items(f"classes of {name}"):
        class_ = item.text(f"a class of {name}")
        if re.fullmatch(r"[0-9.,+-]+", class_) or class_[0] in "=+-@'" or class_.casefold() in _NO_CLASSES:
            item.refuse(
                f"class {class_!r} of {name} reads as a number, a formula, no label or no answer: choose another name"
            )
        if class_.casefold() in map(str.casefold, found):
            item.refuse(f"{name} has class {class_!r} twice: keep one")
        found.append(class_)
    if not 2 <= len(found) <= MOST_CLASSES:
        node.refuse(f"{name}: number of classes {len(found)}: give it 2 to {MOST_CLASSES}")
    return tuple(found)


def _read_unknown_when(node: _Node, name: str) -> dict[str, str]:
    if not isinstance(node.node, yaml.MappingNode):
        node.refuse(f'unknown_when of {name}: expected another attribute and its class, such as {{hat: "yes"}}')
    others = [_Node(node.path, key).text(f"unknown_when of {name}") for key, _ in node.node.value]
    return {other: pair.text(f"unknown_when of {name}") for other, pair in node.pairs("unknown_when", others).items()}


def _read_celeba(node: _Node, attribute: Attribute) -> dict[str, tuple[str, ...]]:
    what = f"celeba of {attribute.name}"
    if isinstance(node.node, yaml.ScalarNode):
        name = _celeba_name(node, what)
        if set(attribute.classes) != {"no", "yes"}:
            node.refuse(f'{what}: {name} distinguishes only "no" and "yes": write the conditions of each class')
        return {"no": (f"-{name}",), "yes": (name,)}
    rules = {}
    for class_, conditions in node.pairs(what, attribute.classes).items():
        rules[class_] = tuple(_celeba_condition(item, what) for item in conditions.items(f"{what}, {class_}"))
        if not rules[class_]:
            conditions.refuse(f"{what}, {class_}: no condition: name one of CelebA's attributes")
    if not rules:
        node.refuse(f"{what}: no class: leave celeba out, or write the conditions of a class")
    return rules


def _celeba_condition(node: _Node, what: str) -> str:
    sign = "-" if node.text(what).startswith("-") else ""
    return sign + _celeba_name(node, what)


def _celeba_name(node: _Node, what: str) -> str:
    name = node.text(what).removeprefix("-")
    if name not in CELEBA:
        near = get_close_matches(name, CELEBA, 1) or ["Smiling"]
        node.refuse(f"{what}: {name!r} is none of CelebA's 40 attributes: spell it as in its list, such as {near[0]}")
    return name


def _read_cartoon_set(node: _Node, attribute: Attribute) -> Variants:
    what = f"cartoon_set of {attribute.name}"
    keys = node.pairs(what, ("attribute", "variants", "classes", "others"))
    if missing := [key for key in ("attribute", "variants") if key not in keys]:
        node.refuse(f"{what}: no {missing[0]}: write, for instance, {{attribute: eye_color, variants: 5}}")
    source, count = keys["attribute"].text(what), keys["variants"].number(f"variants in {what}")
    if "classes" not in keys:
        if count != len(attribute.classes):
            keys["variants"].refuse(
                f"{what}: {count} variants for {len(attribute.classes)} classes: say which show which"
            )
        return Variants(source, tuple(range(count)))
    shown: dict[int, int] = {}
    for class_, variants in keys["classes"].pairs(what, attribute.classes).items():
        for item in variants.items(f"{what}, {class_}"):
            variant = item.number(f"a variant in {what}")
            if variant >= count or variant in shown:
                item.refuse(f"{what}: variant {variant} appears twice or is not in 0 to {count - 1}: correct it")
            shown[variant] = attribute.classes.index(class_)
    others = keys["others"].text(f"others in {what}") if "others" in keys else ""
    if others and others not in attribute.classes:
        keys["others"].refuse(f"{what}: {others!r} is not a class of it: there are {', '.join(attribute.classes)}")
    if rest := [variant for variant in range(count) if variant not in shown]:
        if not others:
            keys["classes"].refuse(f"{what}: variant {rest[0]} shows no class: list it, or name the class of others")
        shown |= dict.fromkeys(rest, attribute.classes.index(others))
    return Variants(source, tuple(shown[variant] for variant in range(count)))


def _require_distinct(entries: list[_Entry]) -> None:
    """Refuse names, columns and classes that are ambiguous in a header or in a table of a stage."""
    taken: dict[str, _Entry] = {}
    for entry in entries:
        for key in ("name", "column"):
            spelt = spelling(getattr(entry.attribute, key))
            if spelt in _OURS or spelt.startswith("embedding_"):
                entry.at(key).refuse(f"{key} {spelt} is reserved for a column of the stages: choose another name")
            if (other := taken.setdefault(spelt, entry)) is not entry:
                entry.at(key).refuse(f"{key} {spelt} is taken by {other.attribute.name} already: choose another name")
    for entry in entries:
        name = entry.attribute.name
        for derived in (f"{name}{suffix}" for suffix in _SUFFIXES):
            if derived in taken:
                key = "name" if taken[derived].attribute.name == derived else "column"
                taken[derived].at(key).refuse(f"{key} {derived} is reserved for a column of {name}: rename it")
        for item in entry.keys["classes"].items("classes"):
            if (other := taken.get(spelling(item.node.value), entry)) is not entry:
                item.refuse(
                    f"class {item.node.value!r} of {name} has the name of attribute {other.attribute.name} or its "
                    "column: rename one of the two"
                )


def _require_tellable(entries: list[_Entry]) -> None:
    """Refuse an `unknown_when` with an unknown attribute or class."""
    known = {entry.attribute.name: entry.attribute for entry in entries}
    for entry in entries:
        for other, class_ in entry.attribute.unknown_when.items():
            told = f"unknown_when of {entry.attribute.name}: there is no "
            if other not in known or other == entry.attribute.name:
                others = ", ".join(name for name in known if name != entry.attribute.name)
                entry.at("unknown_when").refuse(f"{told}other attribute {other!r}, only {others or 'this one'}")
            if class_ not in known[other].classes:
                classes = ", ".join(known[other].classes)
                entry.at("unknown_when").refuse(f"{told}class {class_!r} of {other}, only {classes}")


def _require_one_count(entries: list[_Entry]) -> None:
    """Refuse different numbers of variants of the same attribute of Cartoon Set."""
    counts: dict[str, int] = {}
    for entry in entries:
        if rule := entry.cartoon_set:
            count = len(rule.classes)
            if (before := counts.setdefault(rule.attribute, count)) != count:
                entry.at("cartoon_set").refuse(
                    f"{rule.attribute} has {count} variants here and {before} above: give both the right number"
                )
