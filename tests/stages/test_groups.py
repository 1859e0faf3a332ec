"""Images that belong together, by the command lines of validate and prepare_train: never in two splits or folds."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from stages.common.contract.command_line import main
from stages.label_doubt.folds import assign_folds
from stages.prepare_train.stage import STAGE as PREPARE_TRAIN
from stages.validate.attributes_file import CELEBA
from stages.validate.stage import STAGE as VALIDATE

pytestmark = pytest.mark.slow

PEOPLE, EACH = 30, 4
NAMES = [f"s{number % 2}_{number:03}.png" for number in range(PEOPLE * EACH)]
PERSON = {name: str(900 + number // EACH) for number, name in enumerate(NAMES)}
ATTRIBUTES = '- {name: hat, classes: ["no", "yes"], celeba: Wearing_Hat}\n'


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Data:
    """A data folder of 120 images of 30 people, and the two stages run on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.annotations = root, root / "annotations"
        self.annotations.mkdir()
        (root / "attributes.yaml").write_text(ATTRIBUTES)
        for name in NAMES:
            self.draw(name, name)

    def draw(self, name: str, seed: str) -> None:
        """Make an image of noise that follows from a seed."""
        noise = random.Random(seed).randbytes(40 * 40 * 3)  # noqa: S311 (not for cryptography)
        file = self.root / "raw" / name[:2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (40, 40), noise).save(file)

    def flat(self, header: str, rows: Sequence[str], name: str = "labels.csv") -> None:
        (self.annotations / name).write_text("\n".join([header, *rows, ""]))

    def labels(self, groups: dict[str, str] | None = None) -> None:
        """A flat CSV, with a column `group` if there are any."""
        column = "" if groups is None else ",group"
        cells = {name: "" if groups is None else f",{groups.get(name, '')}" for name in NAMES}
        self.flat(f"filename,hat{column}", [f"{name},{number % 2}{cells[name]}" for number, name in enumerate(NAMES)])

    def celeba(self) -> None:
        answers = [
            f"{name} {' '.join('1' if number % 2 else '-1' for _ in CELEBA)}" for number, name in enumerate(NAMES)
        ]
        lines = [str(len(NAMES)), " ".join(sorted(CELEBA)), *answers]
        (self.annotations / "list_attr_celeba.txt").write_text("\n".join(lines))

    def write(self, name: str, lines: dict[str, str], folder: Path | None = None) -> None:
        """A list of CelebA's."""
        text = "".join(f"{image} {number}\n" for image, number in lines.items())
        ((folder or self.annotations) / name).write_text(text)

    def validate(self, *overrides: str) -> int:
        items = [word for item in overrides for word in ("--set", item)]
        raw, out = self.root / "raw", self.root / "out" / "validate"
        return main(VALIDATE, ["--raw", str(raw), "--annotations", str(self.annotations), "--out", str(out), *items])

    def prepare(self, *overrides: str) -> int:
        items = [word for item in ("data.image_size=16", *overrides) for word in ("--set", item)]
        paths = ["--raw", str(self.root / "raw"), "--validate", str(self.root / "out" / "validate")]
        return main(PREPARE_TRAIN, [*paths, "--out", str(self.root / "out" / "prepare_train"), *items])

    @property
    def known(self) -> dict[str, dict[str, str]]:
        """File name -> its row of annotations.csv."""
        return {row["filename"]: row for row in read(self.root / "out" / "validate" / "annotations.csv")}

    def index(self, *overrides: str) -> dict[str, dict[str, str]]:
        """Run both stages: file name -> its row of the index."""
        assert (self.validate(), self.prepare(*overrides)) == (0, 0)
        return {row["filename"]: row for row in read(self.root / "out" / "prepare_train" / "index.csv")}

    def found(self, stage: str) -> dict[str, object]:
        file = {"validate": "validation.json", "prepare_train": "data_stats.json"}[stage]
        return json.loads((self.root / "out" / stage / "metrics" / file).read_text())  # type: ignore[no-any-return]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def splits_of(index: dict[str, dict[str, str]], person: dict[str, str]) -> dict[str, set[str]]:
    """Person -> the splits that images of them are in."""
    found: dict[str, set[str]] = {}
    for name, row in index.items():
        found.setdefault(person[name], set()).add(row["split"])
    return found


def test_a_group_is_in_one_split_and_in_one_fold_and_new_images_move_none(data: Data) -> None:
    data.labels({name: f"{person}.0" for name, person in PERSON.items()})  # as pandas writes numbers with gaps
    index = data.index()
    found = splits_of(index, PERSON)
    assert len(index) == len(NAMES)
    assert all(len(splits) == 1 for splits in found.values())
    assert {split for splits in found.values() for split in splits} == {"train", "val", "test"}
    assert {row["group"] for row in index.values()} == set(PERSON.values())
    folds = assign_folds([row["group"] for row in index.values()], 5, 0)
    assert len({(row["group"], fold) for row, fold in zip(index.values(), folds, strict=True)}) == PEOPLE
    assert data.found("validate")["groups"] == {
        "groups": PEOPLE, "images": PEOPLE * EACH, "alone": 0, "largest": EACH, "joined": [],
    }  # fmt: skip
    counts = data.found("prepare_train")["groups"]
    assert isinstance(counts, dict)
    assert sum(counts.values()) == PEOPLE
    for stage in ("validate", "prepare_train"):
        assert "Groups" in (data.root / "out" / stage / "report.html").read_text()

    data.draw("s0_new.png", "new")
    with (data.annotations / "labels.csv").open("a") as file:
        file.write(f"s0_new.png,1,{PERSON[NAMES[0]]}\n")
    later = data.index()
    assert later.pop("s0_new.png")["split"] == index[NAMES[0]]["split"]
    assert {name: row["split"] for name, row in later.items()} == {name: row["split"] for name, row in index.items()}


def test_without_groups_nothing_is_said_of_them_and_pictures_decide(data: Data) -> None:
    data.labels()
    index = data.index()
    assert next(iter(data.known.values())).keys() == {"filename", "lot", "path", "digest", "pixels", "group", "hat"}
    assert all(row["group"] == row["pixels"] for row in data.known.values())
    assert any(len(splits) > 1 for splits in splits_of(index, PERSON).values())
    before = (data.root / "out" / "validate" / "annotations.csv").read_bytes()
    data.labels({})  # a column of groups without any
    assert data.index() == index
    assert (data.root / "out" / "validate" / "annotations.csv").read_bytes() == before
    assert "Groups" not in (data.root / "out" / "validate" / "report.html").read_text()


@pytest.mark.parametrize("beside", [False, True], ids=["in the folder", "in the data folder"])
def test_celebas_identities_are_groups(
    data: Data, beside: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.celeba()
    data.write("identity_CelebA.txt", PERSON | {"other.png": "5"}, data.root if beside else None)
    index = data.index()
    assert {name: row["group"] for name, row in index.items()} == PERSON
    assert all(len(splits) == 1 for splits in splits_of(index, PERSON).values())
    assert "identity_CelebA.txt: 1 of its 121 images are not annotated, such as 'other.png'" in caplog.text
    caplog.clear()
    assert data.validate() == 0  # and the list is part of the key
    assert ": cached (" in caplog.text
    data.write("identity_CelebA.txt", PERSON | {NAMES[0]: "7"}, data.root if beside else None)
    assert data.index()[NAMES[0]]["group"] == "7"
    monkeypatch.setenv("DVC_STAGE", "validate")
    caplog.clear()
    assert data.validate() == (65 if beside else 0)
    assert ("where DVC does not see that it changes: move it into that folder" in caplog.text) is beside


def test_near_duplicates_are_part_of_the_group_and_join_two(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    one, other, alone = NAMES[0], NAMES[EACH], NAMES[2 * EACH]
    data.draw(other, one)
    data.draw(alone, NAMES[3 * EACH])
    groups = {name: person for name, person in PERSON.items() if name != alone}
    data.labels(groups)
    index = data.index()
    family = [name for name, person in PERSON.items() if person in {PERSON[one], PERSON[other]}]
    assert {index[name]["group"] for name in family} == {PERSON[one]}
    assert index[alone]["group"] == index[NAMES[3 * EACH]]["group"] == PERSON[NAMES[3 * EACH]]
    assert all(len({index[name]["split"] for name in names}) == 1 for names in (family, [alone, NAMES[3 * EACH]]))
    assert len(index) == len(NAMES)  # who is in one split with it need not be left out
    line = f"1 times given groups are merged, because they share a picture or a near duplicate: '{PERSON[one]}' and "
    assert line + f"'{PERSON[other]}'" in caplog.text


def test_what_is_no_name_of_a_group_and_two_groups_of_an_image_are_rejected(data: Data) -> None:
    data.labels(PERSON | {NAMES[0]: "=cmd()", NAMES[1]: "-1", NAMES[2]: "NA"})
    with (data.annotations / "labels.csv").open("a") as file:
        file.write(f"{NAMES[9]},1,other\n")
    assert data.validate("validate.max_rejected_fraction=0.1") == 0
    reasons = {row["filename"]: row["reason"] for row in read(data.root / "out" / "validate" / "rejected.csv")}
    assert reasons == {
        NAMES[0]: "group not a plain name (found '=cmd()')",
        NAMES[1]: "group not a plain name (found '-1')",
        NAMES[9]: "image named more than once with different labels",
    }
    assert data.known[NAMES[2]]["group"] == data.known[NAMES[2]]["pixels"]
    assert data.known[NAMES[2]]["given_group"] == ""


def test_a_list_that_names_an_image_twice_or_lines_that_are_none(data: Data) -> None:
    data.labels()
    lines = [f"{name},{person}" for name, person in PERSON.items()]
    text = "\n".join(["image_id,identity", *lines, f"{NAMES[0]},1", f"{NAMES[1]},=1", "what"])
    (data.annotations / "celeba_identity.csv").write_text(text)
    assert data.validate() == 0
    reasons = [(row["filename"], row["reason"]) for row in read(data.root / "out" / "validate" / "rejected.csv")]
    line = "not an image and the number of its identity (found "
    twice = (NAMES[0], "image named more than once with different labels")
    assert sorted(reasons) == sorted([twice, twice, (NAMES[1], f"{line}'{NAMES[1]},=1')"), ("", f"{line}'what')")])


def test_lists_that_tell_nothing_are_said(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.labels()
    data.write("people.txt", PERSON)
    assert data.validate() == 0
    assert "'people.txt' is not read: a number an image: with identity in its name it would tell groups" in caplog.text
    (data.annotations / "people.txt").rename(data.annotations / "identity.txt")
    data.write("identity.txt", {name.replace("_", "-"): person for name, person in PERSON.items()})
    assert data.validate() == 65
    assert (
        "identity.txt says where images belong, and none of its 120 is annotated, such as 's0-000.png'" in caplog.text
    )
    (data.annotations / "labels.csv").unlink()
    assert data.validate() == 65
    assert "holds no annotations" in caplog.text


def test_given_splits_are_taken_where_the_parameter_says_so(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.labels(PERSON)
    part = {name: str(min(2, int(PERSON[name]) % 4)) for name in NAMES}
    data.write("list_eval_partition.txt", part)
    by_digest = {name: row["split"] for name, row in data.index().items()}
    given = {name: row["split"] for name, row in data.index("data.split=given").items()}
    assert given == {name: ("train", "val", "test")[int(number)] for name, number in part.items()} != by_digest

    data.draw(NAMES[0], NAMES[-2])  # a picture of the first person, who is in train, and of the last, who is in val
    assert (part[NAMES[0]], part[NAMES[-2]]) == ("0", "1")
    assert data.index("data.split=given").keys() == set(NAMES) - {
        name for name in NAMES if PERSON[name] == PERSON[NAMES[-2]]
    }
    data.write("list_eval_partition.txt", part | {NAMES[1]: "2"})
    assert data.validate() == 0
    assert data.prepare("data.split=given") == 65
    told = f"group '{PERSON[NAMES[0]]}' stands in two splits, {NAMES[0]} in train and {NAMES[1]} in test"
    assert told in caplog.text
    data.write("list_eval_partition.txt", {name: number for name, number in part.items() if name != NAMES[3]})
    assert data.validate() == 0
    assert data.prepare("data.split=given") == 65
    assert f"1 of 120 images are in no given split, the first {NAMES[3]}: name them in list_eval" in caplog.text
