"""The index over predictions: what it finds and counts, what it takes over, and what it refuses."""

import csv
import json
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.predictions import ATTRIBUTES, make_predictions
from images.serve import search_index
from images.serve.search_index import ABSTAINED, OWN, WORD, Index, Query, build, ids_of
from stages.common.contract.errors import DataError, UsageError
from stages.common.inference.features import load_features
from stages.common.inference.predictions import read_predictions
from stages.common.schema.annotations import annotation_columns
from stages.common.schema.attributes import Attributes, names, write_attributes
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.stages.test_predict import Data

LOTS = {"a": 150, "b": 64, "c": 1}
A, B = ATTRIBUTES[0].name, ATTRIBUTES[3].name
TWO_LINES = 'b_"two\n lines".png'


def index_of(folder: Path, artifact: Path, validated: Path | None = None, earlier: Path | None = None) -> Index:
    folder.mkdir()
    build(artifact, validated, folder, earlier)
    return Index(folder)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_predictions(tmp_path_factory.mktemp("store"), LOTS)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, artifact: Path) -> Index:
    return index_of(tmp_path_factory.mktemp("index") / "index", artifact)


@pytest.fixture(scope="module")
def table(artifact: Path) -> "pd.DataFrame":
    """The predictions, as another program reads them."""
    files = {lot: artifact / "outputs" / f"predictions_{lot}.csv" for lot in LOTS}
    return pd.concat([read_predictions(ATTRIBUTES, file, lot) for lot, file in files.items()], ignore_index=True)


def find(index: Index, **words: Any) -> dict[str, Any]:
    """Search; a list stands for a word that is there several times."""
    pairs = [
        (name, str(value)) for name, given in words.items() for value in (given if isinstance(given, list) else [given])
    ]
    return index.search(index.parse(pairs))


def chosen(table: "pd.DataFrame", words: dict[str, Any]) -> "pd.DataFrame":
    """Rows that a query must find, selected with pandas."""
    asked = [attribute.name for attribute in ATTRIBUTES if attribute.name in words]
    mask = pd.Series(data=True, index=table.index)
    for name in asked:
        shown = table[f"{name}_predicted"].where(table[f"{name}_answered"] == "yes", ABSTAINED)
        mask &= shown.isin(words[name])
    for name in asked or names(ATTRIBUTES):
        mask &= table[f"{name}_confidence"] >= words.get("min_confidence", 0)
    if "lot" in words:
        mask &= table["lot"].isin(words["lot"])
    if "answered" in words:
        all_of_them = (table[[f"{name}_answered" for name in names(ATTRIBUTES)]] == "yes").all(axis=1)
        mask &= all_of_them if words["answered"] == "yes" else ~all_of_them
    return table[mask]


def queries(count: int) -> list[dict[str, Any]]:
    draw = random.Random(1)  # noqa: S311
    found = []
    for _ in range(count):
        words: dict[str, Any] = {}
        for attribute in draw.sample(ATTRIBUTES, draw.randint(0, 2)):
            words[attribute.name] = draw.sample([*attribute.classes, ABSTAINED], draw.randint(1, 2))
        if draw.random() < 0.5:
            words["min_confidence"] = draw.choice([0.5, 0.6, 0.73, 0.9])
        if draw.random() < 0.3:
            words["lot"] = draw.sample(sorted(LOTS), draw.randint(1, 2))
        if draw.random() < 0.3:
            words["answered"] = draw.choice(["yes", "no"])
        found.append(words)
    return found


@pytest.mark.parametrize("words", queries(40), ids=str)
def test_it_finds_what_pandas_finds_and_counts_what_every_choice_would_find(
    index: Index, table: "pd.DataFrame", words: dict[str, Any]
) -> None:
    found = find(index, **words, size=200)
    expected = chosen(table, words)
    assert found["total"] == len(expected)
    assert [(row["lot"], row["filename"]) for row in found["rows"]] == [
        *zip(expected["lot"], expected["filename"], strict=True)
    ][:200]
    for told, attribute in zip(found["attributes"], ATTRIBUTES, strict=True):
        for value in (*attribute.classes, ABSTAINED):
            assert told["counts"][value] == len(chosen(table, {**words, attribute.name: [value]})), (
                attribute.name,
                value,
            )
    assert found["lots"] == {lot: len(chosen(table, {**words, "lot": [lot]})) for lot in LOTS}
    assert found["answered"] == {said: len(chosen(table, {**words, "answered": said})) for said in ("yes", "no")}


def test_a_row_tells_what_the_predictions_tell(index: Index, table: "pd.DataFrame") -> None:
    (row,) = find(index, file="a_0000007.png")["rows"]
    (expected,) = table[table["filename"] == "a_0000007.png"].to_dict("records")
    assert row["lot"] == "a"
    for attribute in ATTRIBUTES:
        assert row["answers"][attribute.name] == {
            "class": expected[f"{attribute.name}_predicted"],
            "confidence": expected[f"{attribute.name}_confidence"],
            "answered": expected[f"{attribute.name}_answered"] == "yes",
        }


@pytest.mark.parametrize("sort", ["file", "confidence", B])
def test_pages_hold_every_image_once_in_the_order_that_is_asked_for(
    index: Index, table: "pd.DataFrame", sort: str
) -> None:
    def pages(sort: str) -> list[str]:
        pages = range(1, find(index, size=40)["pages"] + 1)
        return [row["filename"] for page in pages for row in find(index, sort=sort, size=40, page=page)["rows"]]

    of = names(ATTRIBUTES) if sort == "confidence" else [B]
    key = table[[f"{name}_confidence" for name in of]].min(axis=1) if sort != "file" else table.index.to_series()
    filenames = table["filename"].to_numpy()
    assert pages(sort) == filenames[np.argsort(key.to_numpy(), kind="stable")].tolist()
    assert pages(f"-{sort}") == filenames[np.argsort(-key.to_numpy(), kind="stable")].tolist()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"hat": "yes"}, f"parameter: there is no 'hat', only {', '.join((*names(ATTRIBUTES), *OWN))}"),
        ({A: "kind_9"}, f"{A}: there is no 'kind_9', only kind_0, kind_1, abstained"),
        ({A: ""}, f"{A}: there is no '', only kind_0, kind_1, abstained"),
        ({"lot": "z\n"}, "lot: there is no 'z\\n', only a, b, c"),
        ({"label": "wrong"}, "label: there is no 'wrong', only agrees, differs, none"),
        ({"answered": "maybe"}, "answered: there is no 'maybe', only yes, no"),
        ({"sort": "age"}, f"sort: there is no 'age', only file, confidence, {', '.join(names(ATTRIBUTES))}, "
         "each with a - before it for the other direction"),
        ({"min_confidence": "90%"}, "min_confidence: expected a number from 0 to 1, found '90%'"),
        ({"min_confidence": "nan"}, "min_confidence: expected a number from 0 to 1, found 'nan'"),
        ({"page": "5"}, "page: expected a whole number from 1 to 4, found 5"),
        ({"page": "0"}, "page: expected a whole number from 1 to 1000000000, found '0'"),
        ({"page": ["1", "2"]}, "page: expected once, found 2 times"),
        ({"size": "1000"}, "size: expected a whole number from 1 to 200, found '1000'"),
        ({A: "x" * 10**6}, f"{A}: there is no '{'x' * 79}…', only kind_0, kind_1, abstained"),
    ],
)  # fmt: skip
def test_a_word_that_means_nothing_is_told_in_one_line_with_what_there_is(
    index: Index, words: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        find(index, **words)
    assert str(refused.value) == said


def test_an_attribute_that_is_called_like_a_word_of_the_query_is_asked_for_with_an_underscore(tmp_path: Path) -> None:
    attributes: Attributes = (replace(ATTRIBUTES[0], name="page"), *ATTRIBUTES[1:])
    index = index_of(tmp_path / "index", make_predictions(tmp_path / "store", {"a": 20}, attributes))
    found = find(index, page_="kind_1", page=1)
    assert found["attributes"][0]["parameter"] == "page_"
    assert 0 < found["total"] == found["attributes"][0]["counts"]["kind_1"] < 20


def test_an_image_keeps_its_id_whatever_else_is_predicted(index: Index, tmp_path: Path) -> None:
    other = index_of(tmp_path / "index", make_predictions(tmp_path / "store", {"0": 3, "a": 150}, version="v2"))
    ids = {row["filename"]: row["id"] for row in find(index, lot="a", size=200)["rows"]}
    assert {row["filename"]: row["id"] for row in find(other, lot="a", size=200)["rows"]} == ids
    for filename, image in ids.items():
        position = index.position(image)
        assert position is not None
        assert index.rows([position])[0]["filename"] == filename
    for nothing in ("", "0" * 16, "f" * 16, "x" * 16, "../../etc/passwd", "\x00" * 16, "½" * 16, "0" * 10**6):
        assert index.position(nothing) is None


def test_lots_that_have_not_changed_are_taken_over_and_not_read(index: Index, artifact: Path, tmp_path: Path) -> None:
    earlier = index_of(tmp_path / "earlier", artifact)
    later = make_predictions(tmp_path / "store", {"0": 70, **LOTS, "d": 3})
    for lot in LOTS:
        (later / "outputs" / f"predictions_{lot}.csv").write_text("not read")
    found = index_of(tmp_path / "later", later, earlier=tmp_path / "earlier")
    words = {"lot": [*LOTS], "min_confidence": 0.5, A: ["kind_1", ABSTAINED], "size": 200}
    assert find(found, **words)["rows"] == find(index, **words)["rows"]
    assert find(found)["total"] == 70 + 215 + 3
    shutil.rmtree(tmp_path / "earlier")
    assert find(earlier, **words)["rows"] == find(index, **words)["rows"]  # a query that is under way goes on


def test_several_processes_make_what_one_makes(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index_of(tmp_path / "one", artifact)
    monkeypatch.setattr(search_index, "WORTH", 1)
    monkeypatch.setattr(search_index, "ROWS", WORD)
    monkeypatch.setattr(search_index, "available_cpus", lambda: 2)
    index_of(tmp_path / "several", artifact)
    one, several = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "several")
    )
    assert several == one


def test_a_lot_that_has_changed_is_read_again(artifact: Path, tmp_path: Path) -> None:
    index_of(tmp_path / "earlier", artifact)
    later = make_predictions(tmp_path / "store", LOTS, version="v2")
    found = index_of(tmp_path / "later", later, earlier=tmp_path / "earlier")
    assert found.about.version == "v2"
    anew = index_of(tmp_path / "anew", later)
    assert find(found, size=200)["rows"] == find(anew, size=200)["rows"]


def test_what_is_damaged_is_refused_with_the_remedy(artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    file = copy / "outputs" / "predictions_a.csv"
    file.write_bytes(file.read_bytes().replace(b"yes", b"yfs", 1))
    with pytest.raises(DataError, match=r"predictions_a.csv is damaged: remove it and run stage predict again"):
        index_of(tmp_path / "index", copy)
    file.unlink()
    with pytest.raises(
        DataError, match=r"cannot read .*predictions_a.csv \(No such file or directory\): run stage predict"
    ):
        index_of(tmp_path / "index_2", copy)


def test_the_most_alike_are_those_with_the_nearest_embeddings(index: Index, artifact: Path) -> None:
    features = [load_features(artifact / "features" / f"{lot}.npz") for lot in LOTS]
    embeddings = np.concatenate([feature.embeddings for feature in features])
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    filenames = [name for feature in features for name in feature.filenames]
    likeness = embeddings @ embeddings[160]
    nearest = [number for number in np.argsort(-likeness) if number != 160][:5]
    position = index.position(f"{ids_of('b', [filenames[160]])[0]:016x}")
    assert position is not None
    found = index.similar(position, Query(), 5)
    assert [row["filename"] for row in found] == [filenames[number] for number in nearest]
    assert [row["likeness"] for row in found] == pytest.approx(likeness[nearest], abs=1e-3)
    among = index.similar(position, index.parse([("lot", "c")]), 5)
    assert [row["filename"] for row in among] == ["c_0000000.png"]


def test_labels_stand_beside_the_answers(artifact: Path, table: "pd.DataFrame", tmp_path: Path) -> None:
    validated = tmp_path / "validate"
    validated.mkdir()
    reordered = tuple(
        replace(attribute, classes=attribute.classes[::-1]) for attribute in reversed(ATTRIBUTES)
    )  # numbers are another's
    write_attributes(validated, reordered)
    labelled = table[table["lot"] == "a"].head(20)
    with (validated / "annotations.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, annotation_columns(reordered), restval="")
        rows.writeheader()
        for number, row in enumerate(labelled.to_dict("records")):
            kinds = ATTRIBUTES[0].classes[::-1]
            label = kinds.index(row[f"{A}_predicted"])
            rows.writerow(
                {
                    "filename": row["filename"],
                    "lot": "a",
                    "path": f"x/{row['filename']}",
                    A: 1 - label if number < 8 else label,
                }
            )
        rows.writerow({"filename": "gone.png", "lot": "a", "path": "gone.png", A: 0})
    found = index_of(tmp_path / "index", artifact, validated)
    given = labelled[f"{A}_answered"] == "yes"
    expected = {"agrees": int(given[8:].sum()), "differs": int(given[:8].sum())}
    assert find(found)["labels"] == {**expected, "none": 215 - sum(expected.values())}
    for row in find(found, label="differs")["rows"]:
        assert row["answers"][A]["label"] not in {None, row["answers"][A]["class"]}
        assert "label" not in row["answers"][B]


def test_it_reads_what_stage_predict_writes(tmp_path: Path) -> None:
    """Also odd names, an attribute that is never answered, and a lot without a picture."""
    data = Data(tmp_path)
    data.add("a", 3)
    data.add("b", 2, (0, 1, 0, 0, 1))
    (data.raw / "=1+1_x.png").write_bytes((data.raw / "a/a_0.png").read_bytes())
    (data.raw / TWO_LINES).write_bytes((data.raw / "b/b_0.png").read_bytes())
    (data.raw / "z_broken.png").write_bytes(b"nothing")
    never = SAMPLE_ATTRIBUTES[1]
    data.release(never=[never.name])
    artifact, _ = data.result()
    index = index_of(tmp_path / "index", artifact)
    metrics = json.loads((artifact / "metrics/predictions.json").read_text())
    found = find(index)
    assert {told["name"]: told["counts"] for told in found["attributes"]} == metrics["classes"]
    assert (
        found["lots"]
        == {lot: told["images"] for lot, told in metrics["lots"].items()}
        == {"=1+1": 1, "a": 3, "b": 3, "z": 0}
    )
    assert [row["filename"] for row in find(index, file=TWO_LINES)["rows"]] == [TWO_LINES]
    assert find(index, lot="=1+1")["rows"][0]["filename"] == "=1+1_x.png"
    assert [told["name"] for told in found["attributes"] if not told["learned"]] == [never.name]
    assert find(index, min_confidence=0.7)["total"] == 7
    assert find(index, sort="confidence")["rows"][0]["answers"][never.name]["class"] is None
    position = index.position(found["rows"][0]["id"])
    assert position is not None
    likest = index.similar(position, Query(), 9)
    assert likest[0]["likeness"] == pytest.approx(1, abs=1e-3)
    assert len(likest) == 6


def test_nothing_released_is_told(tmp_path: Path) -> None:
    data = Data(tmp_path)
    data.add("a", 1)
    data.release(version=None)
    artifact, _ = data.result()
    with pytest.raises(DataError, match="holds no predictions: no version was released then; run stage predict again"):
        index_of(tmp_path / "index", artifact)


def test_many_ask_at_once(index: Index) -> None:
    expected = find(index, **{A: "kind_1", "size": 100})
    found: list[bool] = []

    def ask() -> None:
        found.extend(find(index, **{A: "kind_1", "size": 100}) == expected for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
