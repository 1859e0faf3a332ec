"""attributes.yaml: what it may say, how a wrong one is refused, and which one is taken."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError, UsageError
from stages.common.schema.attributes import Attribute, read_attributes
from stages.common.schema.dataset import read_split
from stages.prepare_train.stage import STAGE as PREPARE_TRAIN
from stages.validate.attributes_file import DEFAULT, Variants, find_attributes_file, read_attributes_file
from stages.validate.stage import STAGE

pytestmark = pytest.mark.slow

SMILE = '- {name: smile, classes: ["no", "yes"]}\n'


def test_the_default_file_has_the_attributes_of_the_samples() -> None:
    assert read_attributes_file(DEFAULT).attributes == (
        Attribute("beard", ("no", "yes"), "beard", "Beard"),
        Attribute("mustache", ("no", "yes"), "mustache", "Mustache"),
        Attribute("glasses", ("no", "yes"), "glasses_binary", "Glasses"),
        Attribute(
            "hair_color", ("blond", "brown", "red", "dark", "gray"), "hair_color_label", "Hair colour",
            unknown_when={"hair_length": "bald"},
        ),
        Attribute("hair_length", ("bald", "short", "long"), "hair_length", "Hair length"),
    )  # fmt: skip


def test_the_file_for_celeba_answers_each_of_its_attributes() -> None:
    """Those that stand in the list by themselves, and those that a condition names."""
    found = read_attributes_file(DEFAULT.with_name("attributes-celeba.yaml"))
    conditions = [item for rules in found.celeba.values() for items in rules.values() for item in items]
    assert len({item.removeprefix("-") for item in conditions}) == 40
    assert set(found.celeba) == {attribute.name for attribute in found.attributes}


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "attributes.yaml"
    path.write_text(
        """
        - {name: smile, classes: ["no", "yes"], celeba: Smiling}
        - name: eye_color
          classes: [brown, blue, green]
          column: Eyes
          cartoon_set: {attribute: eye_color, variants: 3}
        """
    )
    found = read_attributes_file(path)
    assert [(attribute.name, attribute.title, attribute.column) for attribute in found.attributes] == [
        ("smile", "Smile", "smile"), ("eye_color", "Eye color", "Eyes"),
    ]  # fmt: skip
    assert found.celeba == {"smile": {"no": ("-Smiling",), "yes": ("Smiling",)}}
    assert found.cartoon_set == {"eye_color": Variants("eye_color", (0, 1, 2))}


SET = "- {name: a, classes: [x, y, z], cartoon_set: %s}"
CELEBA = "- {name: a, classes: [x, y], celeba: %s}"
WRONG = {
    "empty": ("", 1, "it names no attribute: expected a list"),
    "only comments": ("# nothing\n", 1, "it names no attribute"),
    "an empty list": ("[]", 1, "it names no attribute"),
    "no list": ("attributes: 3", 1, "attributes: expected a list"),
    "no YAML": (SMILE + "- {name: [}", 2, "not YAML"),
    "an attribute that is a text": (SMILE + "- beard", 2, "an attribute: expected keys with values"),
    "an unknown key": (SMILE + "- name: a\n  clases: [x, y]", 3, "there is no 'clases', only name, classes, title"),
    "a key twice": ("- name: a\n  classes: [x, y]\n  name: b", 3, "name appears twice: keep one"),
    "no name": ("- {classes: [x, y]}", 1, "an attribute has no name: write, for instance"),
    "no classes": ("- {name: a}", 1, "an attribute has no classes"),
    "a name that is no identifier": (SMILE + "- {name: 'my smile', classes: [x, y]}", 2, "name 'my smile': use lower-"),
    "a name with a capital": ("- {name: Smile, classes: [x, y]}", 1, "name 'Smile': use lower-case letters"),
    "an empty name": ("- {name: , classes: [x, y]}", 1, "name is missing or no text"),
    "classes that are booleans": (
        "- name: a\n  classes: [no, yes]",
        2,
        'YAML takes no without quotes for something else: quote it: "no"',
    ),
    "classes that are numbers": ("- {name: a, classes: [0, 1]}", 1, 'quote it: "0"'),
    "a class like a number": ("- {name: a, classes: ['1', two]}", 1, "class '1' of a reads as a number"),
    "a class like a formula": ("- {name: a, classes: [=x, two]}", 1, "class '=x' of a reads as a number, a formula"),
    "a class abstained": ("- {name: a, classes: [one, abstained]}", 1, "class 'abstained' of a reads as"),
    "a class unknown": ("- {name: a, classes: [Unknown, two]}", 1, "class 'Unknown' of a reads as"),
    "a class with a line break": ('- {name: a, classes: ["x\\ny", two]}', 1, "is not a printable line"),
    "one class": ("- name: a\n  classes: [x]", 2, "a: number of classes 1: give it 2 to 1000"),
    "too many classes": (
        f"- {{name: a, classes: [{', '.join(f'c{n}' for n in range(1001))}]}}",
        1,
        "a: number of classes 1001",
    ),
    "a class twice": ("- name: a\n  classes:\n  - x\n  - y\n  - X", 5, "a has class 'X' twice: keep one"),
    "a name twice": (SMILE + SMILE, 2, "name smile is taken by smile already"),
    "a column twice": (
        SMILE + "- name: b\n  classes: [x, y]\n  column: Smile",
        4,
        "column smile is taken by smile already",
    ),
    "a column of ours": (
        SMILE + "- {name: split, classes: [x, y]}",
        2,
        "name split is reserved for a column of the stages",
    ),
    "a column that predictions have": (
        SMILE + "- {name: smile_confidence, classes: [x, y]}",
        2,
        "name smile_confidence is reserved for",
    ),
    "a class like another's column": (
        SMILE + "- name: b\n  classes:\n  - Smile\n  - c",
        4,
        "class 'Smile' of b has the name of",
    ),
    "unknown_when of nobody": (
        SMILE + "- {name: b, classes: [x, y], unknown_when: {hat: x}}",
        2,
        "no other attribute 'hat', only smile",
    ),
    "unknown_when of itself": (
        SMILE + "- {name: b, classes: [x, y], unknown_when: {b: x}}",
        2,
        "no other attribute 'b', only smile",
    ),
    "unknown_when of no class": (
        SMILE + "- {name: b, classes: [x, y], unknown_when: {smile: big}}",
        2,
        "no class 'big' of smile",
    ),
    "no attribute of CelebA": (
        CELEBA % "{x: [Smile]}",
        1,
        "'Smile' is none of CelebA's 40 attributes: spell it as in its list, such as Smiling",
    ),
    "a flag of CelebA for other classes": (CELEBA % "Smiling", 1, 'Smiling distinguishes only "no" and "yes"'),
    "a rule for no class": (CELEBA % "{w: [Smiling]}", 1, "there is no 'w', only x, y"),
    "a rule without conditions": (CELEBA % "{x: []}", 1, "no condition: name one of CelebA's attributes"),
    "no variants": (SET % "{attribute: hair}", 1, "cartoon_set of a: no variants"),
    "variants that are words": (SET % "{attribute: hair, variants: many}", 1, "is not a whole number"),
    "more variants than classes": (SET % "{attribute: hair, variants: 4}", 1, "4 variants for 3 classes"),
    "a variant that there is not": (
        SET % "{attribute: h, variants: 2, classes: {x: [2]}, others: y}",
        1,
        "variant 2 appears twice or is not in 0 to 1",
    ),
    "a variant twice": (
        SET % "{attribute: h, variants: 2, classes: {x: [0], y: [0]}, others: y}",
        1,
        "variant 0 appears twice",
    ),
    "a variant of no class": (SET % "{attribute: h, variants: 2, classes: {x: [0]}}", 1, "variant 1 shows no class"),
    "others of no class": (
        SET % "{attribute: h, variants: 2, classes: {x: [0]}, others: w}",
        1,
        "'w' is not a class of it",
    ),
    "two numbers of variants": (
        SET % "{attribute: h, variants: 3}"
        + "\n- {name: b, classes: [v, w], cartoon_set: {attribute: h, variants: 2}}",
        2,
        "h has 2 variants here and 3 above",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_that_names_file_line_and_remedy(case: str, tmp_path: Path) -> None:
    text, line, cause = WRONG[case]
    path = tmp_path / "attributes.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="^" + re.escape(f"{path}, line {line}: ")) as error:
        read_attributes_file(path)
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attributes.yaml").write_bytes(b"- \xff")
    for path, cause in ((tmp_path / "attributes.yaml", "not UTF-8 text"), (tmp_path, "is a folder: name the file")):
        with pytest.raises(DataError, match=cause):
            read_attributes_file(path)


def test_the_file_beside_the_data_is_taken(tmp_path: Path) -> None:
    annotations, raw = tmp_path / "labels" / "a.csv", tmp_path / "images" / "raw"
    for folder in (annotations.parent, raw):
        folder.mkdir(parents=True)
    assert find_attributes_file({"annotations": annotations, "raw": raw}) == DEFAULT
    (raw.parent / "attributes.yaml").write_text(SMILE)
    assert find_attributes_file({"annotations": annotations, "raw": raw}) == raw.parent / "attributes.yaml"
    (annotations.parent / "attributes.yaml").write_text(SMILE)
    assert find_attributes_file({"annotations": annotations}) == annotations.parent / "attributes.yaml"
    assert find_attributes_file({"annotations": annotations.parent}) == annotations.parent / "attributes.yaml"
    with pytest.raises(UsageError, match="both list the attributes: name one with --attributes"):
        find_attributes_file({"annotations": annotations, "raw": raw})


def test_one_of_several_annotation_files_finds_the_file_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "attributes.yaml").write_text(SMILE)
    for annotations in (tmp_path / "annotations", tmp_path / "annotations" / "labels.csv"):
        assert find_attributes_file({"annotations": annotations}) == tmp_path / "attributes.yaml"


def test_a_file_of_nearly_the_right_name_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "attributes.yml").write_text(SMILE)
    with pytest.raises(UsageError, match=r"attributes\.yml is not read: call it attributes\.yaml"):
        find_attributes_file({"annotations": tmp_path / "labels.csv"})


def test_the_stage_reads_annotations_by_the_file_and_another_one_makes_another_artifact(tmp_path: Path) -> None:
    table, store = tmp_path / "annotations.csv", tmp_path / "store"
    table.write_text("filename,smile,hat\n" + "".join(f"s1_{n}.png,{('no', 'YES')[n % 2]},{n}\n" for n in range(6)))
    (tmp_path / "attributes.yaml").write_text(SMILE)

    def validate(*arguments: str) -> tuple[int, list[Path]]:
        code = main(STAGE, ["--annotations", str(table), "--store", str(store), *arguments])
        return code, sorted((store / "validate").glob("[0-9a-f]*/annotations.csv"))

    code, (first,) = validate()
    assert code == 0
    assert read_attributes(first.parent) == read_attributes_file(tmp_path / "attributes.yaml").attributes
    assert first.read_text().splitlines()[:3] == [
        "filename,lot,path,digest,pixels,group,smile", "s1_0.png,s1,,,,,0", "s1_1.png,s1,,,,,1",
    ]  # fmt: skip
    assert "annotations.csv: columns that are not read: &#39;hat&#39;" in (first.parent / "report.html").read_text()

    other = tmp_path / "other.yaml"
    other.write_text('- {name: smile, classes: ["yes", "no"]}')
    code, artifacts = validate("--attributes", str(other))
    (second,) = set(artifacts) - {first}
    assert code == 0
    assert second.read_text().splitlines()[1:3] == ["s1_0.png,s1,,,,,1", "s1_1.png,s1,,,,,0"]
    other.write_text("- {name: smile}")
    assert validate("--attributes", str(other))[0] == 65


@pytest.mark.slow
@pytest.mark.parametrize(("attributes", "classes"), [(1, 200), (40, 2)])
def test_few_and_many_attributes_and_classes_are_prepared(attributes: int, classes: int, tmp_path: Path) -> None:
    raw, images = tmp_path / "raw", 200
    raw.mkdir()
    noise = np.random.default_rng(0)
    names = [f"s{number % 2}_{number}.png" for number in range(images)]
    for name in names:
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), np.uint8)).save(raw / name)
    asked = [{"name": f"a{at}", "classes": [f"c{n}" for n in range(classes)]} for at in range(attributes)]
    (tmp_path / "attributes.yaml").write_text(yaml.safe_dump(asked))
    labels = [[(number + at) % classes for at in range(attributes)] for number in range(images)]
    table = pd.DataFrame(labels, columns=[attribute["name"] for attribute in asked])
    table.insert(0, "filename", names)
    table.to_csv(tmp_path / "annotations.csv", index=False)

    validated, prepared = tmp_path / "out/validate", tmp_path / "out/prepare_train"
    given = ["--raw", str(raw), "--annotations", str(tmp_path / "annotations.csv"), "--out", str(validated)]
    assert main(STAGE, [*given, "--set", "validate.workers=1"]) == 0
    given = ["--raw", str(raw), "--validate", str(validated), "--out", str(prepared)]
    assert main(PREPARE_TRAIN, [*given, "--set", "prepare_train.workers=1", "--set", "data.image_size=16"]) == 0
    split = read_split(prepared, "train")
    found = dict(zip(split.filenames, split.labels.tolist(), strict=True))
    assert found == {name: label for name, label in zip(names, labels, strict=True) if name in found}
    with Image.open(prepared / "plots/data_distribution.png") as picture:
        assert picture.size == (1650, 450 * (attributes // 3 + 1))
    for page in (validated / "report.html", prepared / "report.html"):
        assert page.stat().st_size < 2_000_000
