"""The attributes are data: nothing but data names one of them, one of its classes, or how many there are.

Prose about faces may say hair; what is looked for is what code and settings would have to spell. Tests are looked at,
too, but those of stage validate, which reads the sample data set and the file that describes it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.validate.attributes_file import DEFAULT, read_attributes_file

ROOT = Path(__file__).parents[1]
LOOKED_AT = (
    "stages", "expectations", "dags", "images", "scripts", "bench", "params.yaml", "dvc.yaml", "Makefile",
    "docker-compose.yml", "pyproject.toml", "CONTRIBUTING.md", "docs/make_pictures.py",
    *(f"tests/{name}" for name in ("browser", "dags", "images", "scripts", "serve", "stack")),
    *(f"tests/common/{name}.py" for name in ("onnx_models", "prepared", "samples")),
    *(f"tests/common/{wing}" for wing in ("checks", "contract", "images", "inference", "schema", "training")),
    *(f"tests/test_{name}.py" for name in ("bench", "contract", "dvc", "run", "wiring")),
)  # fmt: skip
OF_VALIDATE = re.compile(r"test_(validate\w*|raw_annotations)")
STAGES = sorted(path for path in (ROOT / "tests/stages").glob("*.py") if not OF_VALIDATE.fullmatch(path.stem))
"""Tests of stages that know no attribute, though numbers of images that may look like how many there are."""
SUFFIXES = {"", ".py", ".html", ".json", ".yaml", ".yml", ".cfg", ".conf", ".js", ".css"}

ALLOWED = {
    ("stages/validate/attributes_file.py", "Mustache"),  # a name of CelebA's own
    ("tests/serve/test_page.py", "dark"),  # a colour scheme
    ("tests/serve/test_search_gallery.py", "dark"),
}
"""File, and a word in it that is not the attribute's."""

ATTRIBUTES = read_attributes_file(DEFAULT).attributes
NAMES = {word for attribute in ATTRIBUTES for word in (attribute.name, attribute.column, attribute.title)}
CLASSES = {name for attribute in ATTRIBUTES for name in attribute.classes} - {"no", "yes", "short", "long", "red"}
"""Without words that have other meanings in code as well."""
WORDS = re.compile(
    rf"(?<![A-Za-z_])(?:{'|'.join(sorted(NAMES, key=len, reverse=True))})(?![a-z])"
    rf"|(?<=[\"'])(?:{'|'.join(sorted(CLASSES))})(?=[\"'])"
)
COUNTS = re.compile(
    r"\([A-Za-z]\w*, 5[,)]|\(5,\)|\b5 x \(|\brange\(5\)|\b(?:[Tt]he|[Aa]ll|[Oo]f) five(?! [a-z])"
    r"|\b[Ff]ive (?:attributes|columns|heads|labels|outputs)\b"
)


def files() -> Iterator[Path]:
    for name in LOOKED_AT:
        path = ROOT / name
        yield from [path] if path.is_file() else (file for file in path.rglob("*") if file.suffix in SUFFIXES)


def where(pattern: re.Pattern[str], *more: Path) -> dict[tuple[str, str], list[int]]:
    """File and what was found in it -> the lines."""
    found: dict[tuple[str, str], list[int]] = {}
    for path in filter(Path.is_file, (*files(), *more)):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for word in pattern.findall(line):
                found.setdefault((path.relative_to(ROOT).as_posix(), word), []).append(number)
    return found


def test_no_attribute_and_no_class_is_typed() -> None:
    typed = where(WORDS, *STAGES)
    assert {place: lines for place, lines in typed.items() if place not in ALLOWED} == {}
    assert set(typed) == ALLOWED  # what is allowed in vain is allowed no more


def test_nothing_knows_how_many_attributes_there_are() -> None:
    assert where(COUNTS) == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('table["beard"]', "beard"),
        ("{name: 1, hair_color_predicted: 2}", "hair_color"),
        ('Bars("Hair colour")', "Hair colour"),
        ("column glasses_binary", "glasses_binary"),
        ('== "bald"', "bald"),
        ("a bearded man with sunglasses, bald", None),
    ],
)
def test_it_finds_what_is_typed(line: str, said: str | None) -> None:
    assert WORDS.findall(line) == ([said] if said else [])


@pytest.mark.parametrize("line", ["(N, 5)", "float32 (5,)", "labels (n, 5, 2)", "tell of the five.", "five heads"])
def test_it_finds_a_count(line: str) -> None:
    assert COUNTS.findall(line)
