"""Which version answers: promotions, rollbacks, and stores that are empty or damaged."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from images.serve.champion import Champion, ReadOnlyRegistry
from images.serve.search import NOTHING
from images.serve.settings import read_settings
from stages.common.contract.errors import DataError, UnavailableError
from stages.common.registry.registry import MODEL, Registry, now
from tests.common.onnx_models import save_model
from tests.serve.pictures import drawn
from tests.serve.serving import Server, register, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

PROMISED_S = 5.0  # README.md
CONFIDENCE = {"v1": 0.8, "v2": 0.9}


@pytest.fixture
def store(two_versions: Registry) -> Path:
    return two_versions.home.parent


def models_in(registry: Registry) -> list[Path]:
    """The kept models, of all versions: the large files of the store."""
    return [path for path in (registry.home / "remote").rglob("*") if path.is_file() and path.stat().st_size > 2000]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def promote(registry: Registry, version: str) -> None:
    with registry.locked():
        registry.promote(version, "of the tests")


@contextmanager
def asking(server: Server, clients: int = 4) -> Iterator[list[tuple[float, int, str, float]]]:
    """Clients that ask all the time: when they asked, and the status, version and highest confidence of the answer."""
    picture, ended = drawn(), threading.Event()
    answers: list[tuple[float, int, str, float]] = []

    def ask() -> None:
        while not ended.is_set():
            asked = time.monotonic()
            answer = server.predict(picture, picture)
            told = answer.json
            given = [attribute["confidence"] for image in told["images"] for attribute in image["attributes"].values()]
            answers.append((asked, answer.status, told["version"], max(given)))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_promotion_and_a_rollback_are_served_soon_and_no_request_fails(
    two_versions: Registry, tmp_path: Path
) -> None:
    with serving(tmp_path, two_versions.home.parent) as server:
        server.wait_for(version="v2")
        with asking(server) as answers:
            wait_until(lambda: answers, server.log.read_text)
            for version in ("v1", "v2"):
                promote(two_versions, version) if version == "v1" else roll_back(two_versions)
                server.wait_for(version=version)
                since = time.monotonic()
                wait_until(lambda: sum(asked > since for asked, *_ in answers) > 3, server.log.read_text)  # noqa: B023
                assert {name for asked, _, name, _ in answers if asked > since} == {version}
        assert {status for _, status, _, _ in answers} == {200}
        assert {(name, round(highest, 4)) for _, _, name, highest in answers} == set(CONFIDENCE.items())
        told = server.get("/versions").json
        assert told["serving"] == "v2"
        assert [version["name"] for version in told["versions"]] == ["v1", "v2"]
        assert [(release["version"], release["action"]) for release in told["releases"]][-2:] == [
            ("v1", "promote"),
            ("v2", "rollback"),
        ]


def roll_back(registry: Registry) -> None:
    with registry.locked():
        registry.rollback("of the tests")


def test_the_service_looks_for_a_promotion_often_enough_to_serve_it_when_promised(
    store: Path, two_versions: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = Champion(read_settings({"SERVE_ARTIFACTS": str(store)}))
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        """No time passes. There is a promotion in the second rest, and the test ends with what comes of it."""
        if champion.served and champion.served.name == "v1":
            raise asyncio.CancelledError
        rests.append(seconds)
        if len(rests) == 2:
            promote(two_versions, "v1")
        assert sum(rests[1:]) < PROMISED_S

    monkeypatch.setattr("images.serve.champion.asyncio.sleep", rest)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(champion.follow())


def test_a_newer_version_that_is_refused_is_served_only_to_who_tries_his_own_and_told(
    two_versions: Registry, tmp_path: Path
) -> None:
    registry = two_versions
    wait_a_second_after(registry)
    register(registry, tmp_path / "content", partial(save_model, confidence=0.7), fit=False)
    told = "v3, not released: not fit: of the tests"
    with serving(tmp_path, registry.home.parent) as server:
        server.wait_for(ready=True, version="v2", problem=None)
    with serving(tmp_path, registry.home.parent, UNRELEASED="yes") as server:
        server.wait_for(ready=True, version="v3", problem=told)
        assert server.get("/versions").json["problem"] == told
        assert server.predict(drawn()).json["version"] == "v3"
        assert told in server.log.read_text()
        wait_a_second_after(registry)
        promote(registry, "v1")
        server.wait_for(version="v1", problem=None)
        promote(registry, "v3")
        server.wait_for(version="v3", problem=None)


def wait_a_second_after(registry: Registry) -> None:
    """Wait until what comes now is later than the last release, as the registry counts."""
    wait_until(lambda: now() > registry.releases()[-1].time, "the next second")


def test_before_any_release_it_says_so_and_then_serves_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "artifacts" / "registry")
    with serving(tmp_path, tmp_path / "artifacts") as server:
        told = server.get("/ready")
        assert (told.status, told.json["ready"], told.json["version"]) == (503, False, None)
        server.wait_for(
            problem=f"no version is released in {registry.home} yet: run the pipeline until a model passes the gate"
        )
        for answer in (server.predict(b"x"), server.get("/attributes"), server.get("/v2/health/ready")):
            assert answer.status == 503
        assert "no version is released" in server.predict(b"x").json["error"]
        assert server.get("/versions").json["versions"] == []
        server.wait_for(search=NOTHING)
        assert server.get("/health").status == 200
        register(registry, tmp_path / "content")
        server.wait_for(ready=True, version="v1", problem=None)


@pytest.mark.parametrize("spoil", [flip_a_bit, Path.unlink], ids=["a bit is flipped", "it is gone"])
def test_a_champion_that_cannot_be_read_leaves_the_version_before(
    two_versions: Registry, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    promote(two_versions, "v1")
    with serving(tmp_path, two_versions.home.parent) as server:
        server.wait_for(version="v1")
        for path in models_in(two_versions):
            shutil.copy(path, path.with_name(f"{path.name}.whole"))
            spoil(path)
        promote(two_versions, "v2")
        problem = wait_until(lambda: server.ready["problem"], server.log.read_text)
        assert problem.startswith("v1 is still served, not the champion: model.onnx of v2 ")
        answer = server.predict(drawn())
        assert (answer.status, answer.json["version"], server.get("/ready").status) == (200, "v1", 200)
        for path in (two_versions.home / "remote").rglob("*.whole"):
            path.replace(path.with_suffix(""))
        server.wait_for(version="v2", problem=None)


def test_a_damaged_champion_and_none_before_it(two_versions: Registry, tmp_path: Path) -> None:
    for path in models_in(two_versions):
        flip_a_bit(path)
    with serving(tmp_path, two_versions.home.parent) as server:
        wait_until(lambda: "is damaged" in (server.ready["problem"] or ""), server.log.read_text)
        assert server.get("/ready").status == 503
        refused = server.predict(b"x")
        assert refused.status == 503
        assert "model.onnx of v2 is damaged" in refused.json["error"]


def test_a_store_that_goes_away_leaves_what_is_served(two_versions: Registry, tmp_path: Path) -> None:
    with serving(tmp_path, two_versions.home.parent) as server:
        server.wait_for(version="v2")
        aside = two_versions.home.rename(tmp_path / "aside")
        two_versions.home.write_text("no folder")
        problem = wait_until(lambda: server.ready["problem"], server.log.read_text)
        assert problem.startswith("v2 is still served, not the champion: ")
        assert server.predict(drawn()).status == 200
        two_versions.home.unlink()
        aside.rename(two_versions.home)
        server.wait_for(version="v2", problem=None)


def test_the_registry_is_read_as_git_reads_it(two_versions: Registry) -> None:
    read = ReadOnlyRegistry(two_versions.home)
    for number in range(9):  # champion-0010 is behind champion-0009
        promote(two_versions, f"v{1 + number % 2}")
    for packed in (False, True):
        if packed:
            two_versions._git("gc", "--quiet")
        assert read.versions() == two_versions.versions()
        assert read.releases() == two_versions.releases()
        assert read.champion() == two_versions.champion()
        assert read.text("v1", "lineage.json") == two_versions.text("v1", "lineage.json")


def test_a_killed_service_comes_back_with_the_same_version(store: Path, tmp_path: Path) -> None:
    with serving(tmp_path, store) as server:
        server.wait_for(version="v2")
        half = server.connect()
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n half")
        server.process.kill()
        server.process.wait()
        half.close()
    with serving(tmp_path, store) as server:
        server.wait_for(version="v2", ready=True)


def test_where_the_registry_keeps_its_files_elsewhere_the_model_is_that_of_the_archive(
    two_versions: Registry, tmp_path: Path
) -> None:
    read = ReadOnlyRegistry(two_versions.home, "s3://bucket/models")
    version = two_versions.version("v1")
    with pytest.raises(UnavailableError, match=r"model\.onnx of v1 cannot be read below"):
        read.find_model(version)
    kept = tmp_path / "artifacts" / "archive" / version.archive / MODEL
    kept.parent.mkdir(parents=True)
    shutil.copy(ReadOnlyRegistry(two_versions.home).find_model(version), kept)
    assert read.find_model(version) == kept
    flip_a_bit(kept)
    with pytest.raises(DataError, match=r"model\.onnx of v1 is damaged"):
        read.find_model(version)


def test_a_clock_that_was_set_back_lets_nobody_read_all_tags_again_and_again(tmp_path: Path) -> None:
    tags = tmp_path / "git/refs/tags"
    tags.mkdir(parents=True)
    registry = ReadOnlyRegistry(tmp_path)
    hour = 3600 * 10**9
    assert registry.changed() == ()  # it was written just now
    for moment in (time.time_ns() - hour, time.time_ns() + hour):
        os.utime(tags, ns=(moment, moment))
        assert registry.changed() == (tags.stat().st_mtime_ns, 0)
