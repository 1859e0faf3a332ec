"""Answers of /predict: the same as of stage predict, in every form of a request."""

import csv
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stages.champion.stage import STAGE as CHAMPION
from stages.common.contract.command_line import main
from stages.common.images.preprocess import content_of
from stages.common.images.settings import Preprocessing
from stages.common.registry.registry import Registry
from stages.predict.stage import STAGE as PREDICT
from tests.common.onnx_models import PREPROCESSING
from tests.common.photograph import on_canvas, photograph
from tests.common.samples import SAMPLE_NAMES
from tests.serve.pictures import encoded, no_pictures, pictures
from tests.serve.serving import Server, register, save_sensitive_model, serving

pytestmark = pytest.mark.slow


def table(*paths: Path) -> dict[str, dict[str, str]]:
    """The rows of some tables by file name."""
    rows: dict[str, dict[str, str]] = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            rows |= {row["filename"]: row for row in csv.DictReader(file)}
    return rows


@pytest.fixture(scope="module")
def predicted(sensitive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of stage predict for files of every kind, with the champion that stage champion takes."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "raw" / "a").mkdir(parents=True)
    for name, content in (pictures() | no_pictures()).items():
        (folder / "raw" / "a" / name).write_bytes(content)
    steps: list[tuple[Any, list[str | Path]]] = [
        (CHAMPION, ["--registry", sensitive / "registry"]),
        (PREDICT, ["--raw", folder / "raw", "--champion", folder / "champion"]),
    ]
    for stage, inputs in steps:
        assert main(stage, [*map(str, inputs), "--out", str(folder / stage.name)]) == 0
    return folder / "predict"


def answers(server: Server, files: dict[str, bytes]) -> dict[str, Any]:
    """Name -> what is said about the file; many in a request."""
    found: dict[str, Any] = {}
    left = list(files.items())
    while left:
        some, left = left[:20], left[20:]
        answer = server.predict(*(content for _, content in some), names=[name for name, _ in some])
        assert answer.status in {200, 422}
        found |= {image["name"]: image for image in answer.json["images"]}
    return found


def test_every_kind_of_file_gets_the_answer_of_stage_predict(server: Server, predicted: Path) -> None:
    rows = table(*predicted.glob("outputs/*.csv"))
    said = answers(server, pictures())
    assert said.keys() == rows.keys()
    for name, row in rows.items():
        for attribute in SAMPLE_NAMES:
            answer = said[name]["attributes"][attribute]
            assert answer["class"] == row[f"{attribute}_predicted"], (name, attribute)
            assert answer["confidence"] == pytest.approx(float(row[f"{attribute}_confidence"]), abs=1e-4), (
                name,
                attribute,
            )
            assert answer["answered"] == (row[f"{attribute}_answered"] == "yes"), (name, attribute)
    # it would not do if all were answered alike
    assert len({row[f"{attribute}_confidence"] for row in rows.values() for attribute in SAMPLE_NAMES}) > 100


def test_what_stage_predict_refuses_is_refused_for_the_same_reason(server: Server, predicted: Path) -> None:
    rows = table(predicted / "undecodable.csv")
    small = {name: content for name, content in no_pictures().items() if len(content) < 400_000}
    said = answers(server, small)
    assert {name: image["error"] for name, image in said.items()} == {name: rows[name]["reason"] for name in small}


def test_one_image_can_be_the_body(server: Server) -> None:
    picture = encoded(photograph(), "JPEG")
    (of_form,) = server.predict(picture).json["images"]
    for kind in ("image/jpeg", "image/png", "application/octet-stream"):
        answer = server.ask("POST", "/predict", picture, {"Content-Type": kind})
        assert answer.status == 200
        (image,) = answer.json["images"]
        assert image == of_form | {"name": ""}
        assert 0 < answer.json["seconds"] < 60


def test_an_image_that_cannot_be_used_does_not_keep_the_others_from_their_answers(server: Server) -> None:
    answer = server.predict(encoded(photograph()), b"junk", encoded(photograph(), "JPEG"))
    assert answer.status == 200
    assert [sorted(image) for image in answer.json["images"]] == [
        ["attributes", "name"],
        ["error", "name"],
        ["attributes", "name"],
    ]
    alone = server.predict(b"junk")
    assert (alone.status, alone.json["images"]) == (422, [{"name": "0", "error": "not a PNG or JPEG image"}])


def test_many_at_once_get_each_its_own_answer(server: Server) -> None:
    files = list(pictures().items())
    one_by_one = [server.predict(content).json["images"] for _, content in files]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda file: server.predict(file[1]).json["images"], files * 3))
    for number, images in enumerate(together):
        for attribute, said in images[0]["attributes"].items():
            expected = one_by_one[number % len(files)][0]["attributes"][attribute]
            assert said["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
            assert said["class"] == expected["class"]


def test_attributes_are_those_of_the_model(server: Server) -> None:
    told = server.get("/attributes").json
    assert told["version"] == "v1"
    assert tuple(attribute["name"] for attribute in told["attributes"]) == SAMPLE_NAMES
    first = told["attributes"][0]
    assert first["thresholds"] == dict.fromkeys(first["classes"], 0.8001)


def test_a_model_of_cut_out_faces_says_which_face_it_has_looked_at(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "artifacts" / "registry")
    register(registry, tmp_path / "content", partial(save_sensitive_model, crop="face"))
    files = [encoded(on_canvas(*places)) for places in ([(40, 100, 200), (400, 60, 400)], [(100, 100, 300)], [])]
    settings = Preprocessing(**PREPROCESSING | {"image_size": 32, "crop": "face"})
    with serving(tmp_path, tmp_path / "artifacts") as server:
        server.wait_for(ready=True)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda file: server.predict(file).json["images"][0], files * 4))
    faces = [content_of(file, settings).face for file in files[:2]]
    assert [answer["face"] for answer in answers if "face" in answer] == [face._asdict() for face in faces if face] * 4
    assert [answer["error"].partition(" (")[0] for answer in answers if "error" in answer] == ["no face found"] * 4
