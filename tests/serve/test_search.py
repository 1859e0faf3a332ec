"""The search over HTTP, on what stage predict has written: queries, files, history, and what changes meanwhile."""

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from images.serve import search as search_module
from images.serve.search_files import RawFolder, Thumbnails, open_below
from stages.common.images.settings import ImagesSection
from stages.common.registry.registry import Registry
from stages.common.schema.annotations import annotation_columns
from stages.common.schema.attributes import write_attributes
from tests.common.onnx_models import SIDE, save_model
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.serve.search_service import Served, predict, serving
from tests.serve.serving import TOKEN, register
from tests.serve.serving import serving as running
from tests.stages.test_predict import Data, draw
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ABSTAINED_FROM, *REST = SAMPLE_ATTRIBUTES
ONE = REST[2]
A, B = (1, 0, 1, 3, 2), (0, 1, 0, 0, 1)
IMAGES = ImagesSection(near_white=245, max_megapixels=50)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Two lots, of 10 and 5 images, predicted by v3."""
    data = Data(tmp_path_factory.mktemp("data"))
    data.add("a", 10, A)
    data.add("b", 5, B)
    predict(data, "v3")
    return data


@pytest.fixture(scope="module")
def served(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(data.store, data.raw, tmp_path_factory.mktemp("index")) as served:
        served.wait_for("v3")
        yield served


@pytest.fixture
def mine(data: Data, tmp_path: Path) -> Data:
    """The same, to be changed."""
    own = Data(tmp_path)
    for name in ("raw", "champion", "store"):
        shutil.copytree(getattr(data, name), getattr(own, name))
    return own


def test_it_finds_and_counts(served: Served) -> None:
    found = served.get("/search", **{ONE.name: ONE.classes[A[3]]})
    assert (found["version"], found["champion"], found["problem"]) == ("v3", "v3", None)
    assert (found["images"], found["total"], found["lots"]) == (15, 10, {"a": 10, "b": 0})
    told = next(told for told in found["attributes"] if told["name"] == ONE.name)
    assert told["title"] == ONE.title
    assert told["counts"] == {name: {A[3]: 10, B[3]: 5}.get(k, 0) for k, name in enumerate(ONE.classes)} | {
        "abstained": 0
    }
    assert found["attributes"][0]["counts"]["abstained"] == 10
    assert found["rows"][0]["answers"][ABSTAINED_FROM.name] == {
        "class": ABSTAINED_FROM.classes[A[0]], "confidence": 0.8, "answered": False,
    }  # fmt: skip
    assert served.get("/search", min_confidence=0.81)["total"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("hat=yes", "parameter: there is no 'hat', only "),
        ("lot=c", "lot: there is no 'c', only a, b"),
        ("page=2", "page: expected a whole number from 1 to 1, found 2"),
        ("sort=%00%0A%F0%9F%98%80", "sort: there is no '\\x00\\n\U0001f600', only file, "),
        ("min_confidence=1e999", "min_confidence: expected a number from 0 to 1, found '1e999'"),
        ("page=%D9%A1%F0%9D%9F%97" + "9" * 5000, "page: expected a whole number from 1 to "),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(served: Served, words: str, said: str) -> None:
    assert served.refusal(f"/search?{words}", 422).startswith(said)


def test_a_file_comes_as_it_is_and_small(served: Served, data: Data) -> None:
    (row,) = served.get("/search", file="a_3.png")["rows"]
    answer = served.client.get(f"/images/{row['id']}")
    assert answer.content == (data.raw / "a/a_3.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''a_3.png"
    small = served.client.get(f"/thumbnails/{row['id']}")
    with Image.open(io.BytesIO(small.content)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (SIDE, SIDE))


HOSTILE = [
    "../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "%2fetc%2fpasswd", "a%2fa_3.png",
    "a_3.png",
    "%00", "0" * 16, "0" * 4000, "-1", "1e5", "0x00000000000000", "%f0%9f%98%80" * 16, "..", ".", "a_3.png%00.txt",
]  # fmt: skip


@pytest.mark.parametrize("path", ["images", "thumbnails", "history"])
@pytest.mark.parametrize("image", HOSTILE)
def test_an_id_that_is_none_finds_nothing(served: Served, path: str, image: str) -> None:
    answer = served.client.get(f"/{path}/{image}")
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "\n" not in answer.text


def test_nothing_but_a_regular_file_in_the_raw_folder_is_handed_out(mine: Data, tmp_path: Path) -> None:
    (secret := tmp_path / "secret.png").write_bytes(b"secret")
    with serving(mine.store, mine.raw, tmp_path / "index") as served:
        served.wait_for("v3")
        ids = {row["filename"]: row["id"] for row in served.get("/search")["rows"]}
        places = {name: mine.raw / name[0] / name for name in ids}
        for name in ("a_0.png", "a_1.png", "a_2.png", "a_4.png"):
            places[name].unlink()
        places["a_0.png"].symlink_to(secret)
        os.mkfifo(places["a_1.png"])
        places["a_2.png"].mkdir()
        gone = {
            name: served.refusal(f"/images/{ids[name]}", 404) for name in ("a_0.png", "a_1.png", "a_2.png", "a_4.png")
        }
        assert gone["a_0.png"] == "'a_0.png' of lot a is not in the raw folder any more"
        (mine.raw / "b").rename(tmp_path / "outside")
        (mine.raw / "b").symlink_to(tmp_path / "outside")
        served.refusal(f"/images/{ids['b_0.png']}", 404)
        served.refusal(f"/thumbnails/{ids['b_0.png']}", 404)
        places["a_3.png"].write_bytes(b"<script>alert(1)</script>")
        answer = served.client.get(f"/images/{ids['a_3.png']}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert served.refusal(f"/thumbnails/{ids['a_3.png']}", 415) != ""


def test_similar_images_come_with_their_likeness(served: Served) -> None:
    ids = {row["filename"]: row["id"] for row in served.get("/search")["rows"]}
    found = served.get("/similar", image=ids["a_3.png"], size=9)
    assert found["image"]["filename"] == "a_3.png"
    assert sorted(row["filename"] for row in found["rows"]) == [
        f"a_{number}.png" for number in range(10) if number != 3
    ]
    likeness = [row["likeness"] for row in found["rows"]]
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[0] == pytest.approx(1, abs=1e-3)
    assert {row["lot"] for row in served.get("/similar", image=ids["a_3.png"], lot="b")["rows"]} == {"b"}
    assert served.refusal("/similar", 404).startswith("there is no image ''")
    assert served.refusal(f"/similar?image={ids['a_3.png']}&hat=yes", 422).startswith("parameter: there is no 'hat'")


def test_the_history_of_an_image_tells_its_label_and_what_each_version_said(mine: Data, tmp_path: Path) -> None:
    labelled = mine.store / "validate" / ("0" * 64)
    labelled.mkdir(parents=True)
    write_attributes(labelled, SAMPLE_ATTRIBUTES)
    (labelled / "manifest.json").write_text('{"created": "2026-01-01T00:00:00Z", "headline": {}}')
    with (labelled / "annotations.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, annotation_columns(SAMPLE_ATTRIBUTES), restval="")
        rows.writeheader()
        rows.writerow({"filename": "a_3.png", "lot": "a", "path": "a/a_3.png", ONE.name: 1})
    draw(mine.raw / "a" / (odd := 'a_"\r;=3.png'), A)
    predict(mine, "v4", confidence=0.7)
    with serving(mine.store, mine.raw, tmp_path / "index", "v4") as served:
        served.wait_for("v4")
        (row,) = served.get("/search", file="a_3.png")["rows"]
        told = served.get(f"/history/{row['id']}")
        assert (told["lot"], told["filename"]) == ("a", "a_3.png")
        assert told["answers"][ONE.name]["label"] == ONE.classes[1]
        assert [version["version"] for version in told["versions"]] == ["v4", "v3"]
        assert [version["answers"][ONE.name]["confidence"] for version in told["versions"]] == [0.7, 0.8]
        assert told["versions"][1]["answers"][ONE.name]["class"] == ONE.classes[A[3]]
        assert told["versions"][0]["predicted"] >= told["versions"][1]["predicted"]
        assert served.get("/search", label="differs")["total"] == 1
        (row,) = served.get("/search", file=odd)["rows"]
        told = served.get(f"/history/{row['id']}")
        assert [version["version"] for version in told["versions"]] == ["v4"]


def test_other_predictions_take_their_place_and_nobody_is_refused_meanwhile(mine: Data, tmp_path: Path) -> None:
    with serving(mine.store, mine.raw, tmp_path / "index") as served:
        served.wait_for("v3")
        answers: list[tuple[int, Any]] = []
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                answer = served.client.get("/search", params={ONE.name: ONE.classes[A[3]]})
                answers.append((answer.status_code, answer.json()))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            served.wait(lambda: answers)
            mine.add("c", 2, A)
            predict(mine, "v4")
            served.champion.name = "v4"
            served.wait_for("v4")
            served.wait(lambda: answers and answers[-1][1]["version"] == "v4")
        finally:
            ended.set()
            asking.join()
        assert {status for status, _ in answers} == {200}
        assert {(told["version"], told["total"]) for _, told in answers} == {("v3", 10), ("v4", 12)}
        served.wait(lambda: len([*(tmp_path / "index").iterdir()]) == 1)
        new = served.get("/search", lot="c")["rows"][0]
        assert served.client.get(f"/images/{new['id']}").status_code == 200
        served.champion.name = "v3"  # a rollback
        served.wait_for("v3")


def test_predictions_of_some_lots_give_way_when_those_of_all_are_taken_again(mine: Data, tmp_path: Path) -> None:
    some, _ = mine.result("predict.lots=['b']")
    search = search_module.Search(mine.store, mine.raw, tmp_path / "index", IMAGES)
    assert search.predictions()[0].folder == some
    every, _ = mine.result()
    assert [prediction.folder for prediction in search.predictions()] == [every, some]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_told(mine: Data, tmp_path: Path) -> None:
    (small := tmp_path / "index").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", small], check=True)
    try:
        search = search_module.Search(mine.store, mine.raw, small, IMAGES)
        search.look()
        assert re.fullmatch(
            rf"{small}/\S+: No space left on device \(.* free\): free space or inodes there", search.problem
        )
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_what_cannot_be_indexed_is_told_and_what_was_there_stays(mine: Data, tmp_path: Path) -> None:
    with serving(mine.store, mine.raw, tmp_path / "index") as served:
        served.wait_for("v3")
        mine.add("c", 2, A)
        artifact, _ = mine.result()
        damaged = artifact / "outputs" / "predictions_c.csv"
        damaged.write_text(damaged.read_text().replace("0.8", "0.9", 1))
        served.wait(lambda: served.search.problem)
        found = served.get("/search")
        assert found["total"] == 15
        assert found["problem"].endswith("predictions_c.csv is damaged: remove it and run stage predict again")
        assert len([*(tmp_path / "index").iterdir()]) == 1


def test_the_service_asks_for_its_token_and_searches_for_its_champion(mine: Data, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        predict(mine, version, confidence=0.7)
    registry = Registry(mine.store / "registry")
    register(registry, tmp_path / "content-1")
    with running(tmp_path, mine.store, TOKEN, RAW=str(mine.raw)) as server:
        server.wait_for(ready=True)
        for path in ("/search", "/similar", "/history/x", "/images/x", "/thumbnails/x"):
            assert httpx.get(server.url + path).status_code == 401
        assert httpx.get(server.url + "/gallery").status_code == 200

        def said() -> Any:
            answer = server.get("/search")
            return answer.json.get("version") if answer.status == 200 else answer.json["error"]

        wait_until(lambda: said() == "v1", said)
        server.wait_for(search=None)
        image = server.get("/search").json["rows"][0]["id"]
        assert server.get(f"/thumbnails/{image}").status == 200
        register(registry, tmp_path / "content-2", partial(save_model, confidence=0.7))
        wait_until(lambda: said() == "v2", said)
        assert "/search" in server.get("/openapi.json").json["paths"]


def test_before_any_prediction_it_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "store", tmp_path / "raw", tmp_path / "index") as served:
        served.wait(lambda: served.search.problem == search_module.NOTHING)
        assert served.refusal("/search", 503) == search_module.NOTHING
        assert served.client.get("/search").headers["retry-after"] == "2"


def test_the_next_process_goes_on_with_the_index(mine: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(mine.store, mine.raw, tmp_path / "index") as served:
        served.wait_for("v3")
    (tmp_path / "index" / "index-killed").mkdir()
    monkeypatch.setattr(search_module.Search, "_make", None)  # which cannot be called
    with serving(mine.store, mine.raw, tmp_path / "index") as served:
        served.wait_for("v3")
        assert served.get("/search")["total"] == 15
        assert len([*(tmp_path / "index").iterdir()]) == 1


def test_while_another_process_makes_the_index_it_is_waited_for_and_made_after_all_if_that_is_killed(
    mine: Data, tmp_path: Path
) -> None:
    (folder := tmp_path / "index").mkdir()
    (folder / "index-being-made").mkdir()
    with subprocess.Popen(
        ["flock", "--no-fork", folder, "sh", "-c", "echo made; exec sleep 60"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as other:
        assert other.stdout
        other.stdout.readline()
        search = search_module.Search(mine.store, mine.raw, folder, IMAGES)
        search.open_made()
        search.look()
        assert (search.index, search.problem) == (None, search_module.STARTING)
        assert [path.name for path in folder.iterdir()] == ["index-being-made"]
        os.killpg(other.pid, signal.SIGKILL)
    search.look()
    assert search.index is not None
    assert (search.index.about.images, search.problem) == (15, "")
    assert len([*folder.iterdir()]) == 1


def test_an_image_is_found_in_whatever_folder_it_is_called_from(tmp_path: Path) -> None:
    odd = os.fsdecode(b"s_\xff.png")
    for path in ("a/1.png", "b/1.png", "deep/er/s_1.png", "x/t_1.png", "y/t_1.png", f"x/{odd}", ".hidden/u_1.png"):
        draw(tmp_path / path, A)
    raw = RawFolder(tmp_path)
    places = {
        ("a", "1.png"): "a/1.png", ("b", "1.png"): "b/1.png", ("s", "s_1.png"): "deep/er/s_1.png",
        ("t", "y/t_1.png"): "y/t_1.png", ("s", "s_\\xff.png"): f"x/{odd}",
    }  # fmt: skip
    for (lot, filename), path in places.items():
        file = raw.open(lot, filename)
        assert file is not None, path
        with file:
            assert os.path.samestat(os.fstat(file.fileno()), (tmp_path / path).stat())
    for lot, filename in (
        ("c", "1.png"),
        ("u", "u_1.png"),
        ("s", "../s_1.png"),
        ("s", "/etc/passwd"),
        ("s", "s_\0.png"),
    ):
        assert raw.open(lot, filename) is None
    assert open_below(tmp_path / "gone", "1.png") is None


def test_the_memory_of_thumbnails_is_bounded(tmp_path: Path) -> None:
    thumbnails = Thumbnails(ImagesSection(near_white=245, max_megapixels=1), most=3000)
    for number in range(20):
        draw(tmp_path / f"{number}.png", A)
        with (tmp_path / f"{number}.png").open("rb") as file:
            made = thumbnails.make(file)
        with (tmp_path / f"{number}.png").open("rb") as file:
            assert thumbnails.make(file) is made
    assert 0 < thumbnails.held <= 3000
