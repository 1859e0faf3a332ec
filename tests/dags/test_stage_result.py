"""Checks of a stage's result, without a container.

Airflow configures the process that imports it, so the code under test runs in a process of its own.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

KEY = "0" * 64
ARTIFACT = f"/artifacts/fake/{KEY}"
GOOD = {
    "stage": "fake",
    "path": ARTIFACT,
    "key": KEY,
    "outputs": {"model": f"{ARTIFACT}/model"},
    "report": f"{ARTIFACT}/report.html",
    "cached": False,
    "seconds": 1,
    "headline": {},
}

Call = Callable[..., Any]


def configure(home: str) -> None:
    os.environ["AIRFLOW_HOME"] = home


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Calls a function in a process that may import Airflow."""
    home = str(tmp_path_factory.mktemp("airflow"))
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=configure, initargs=(home,)) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()


class Engine:
    """Gives the archive that it is made of, as the SDK's client does, and counts what was taken of it."""

    def __init__(self, packed: bytes, size: int) -> None:
        self.packed, self.size, self.taken = packed, size, 0

    def get_archive(self, *_: str) -> tuple[Iterator[bytes], dict[str, int]]:
        return self._chunks(), {"size": self.size}

    def _chunks(self) -> Iterator[bytes]:
        while self.taken < len(self.packed):
            self.taken += 2048
            yield self.packed[self.taken - 2048 : self.taken]


def loaded(packed: bytes, size: int) -> tuple[Any, int]:
    """The value read from an archive, or the line that refuses it; and the bytes taken."""
    from airflow.sdk.exceptions import AirflowFailException
    from stage_operator.result import load

    engine: Any = Engine(packed, size)
    try:
        return load(engine, "container", "fake"), engine.taken
    except AirflowFailException as error:
        return str(error), engine.taken


def believed(result: dict[str, Any], kind: str) -> Any:
    """The result as it is accepted, or the line that refuses it."""
    from airflow.sdk.exceptions import AirflowFailException
    from stage_operator.result import Keys, checked

    try:
        return checked(result, getattr(Keys, kind), "fake")
    except AirflowFailException as error:
        return str(error)


def shared_out(lots: Any, groups: int) -> Any:
    """Groups of lots, or the line that refuses them."""
    from airflow.sdk.exceptions import AirflowFailException
    from stage_operator.result import share_out

    try:
        return share_out("fake", lots, groups)
    except AirflowFailException as error:
        return str(error)


def archive(content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    """An archive of one entry, as `docker cp` has it."""
    packed = io.BytesIO()
    entry = tarfile.TarInfo("result.json")
    entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_a_result_is_read_as_it_was_written(airflow: Call) -> None:
    content = json.dumps(GOOD | {"headline": {"name": "é" * 1000}}).encode()
    assert airflow(loaded, archive(content), len(content))[0] == json.loads(content)


@pytest.mark.parametrize(
    ("packed", "size"),
    [
        (archive(b"\xff\xfe"), 2),
        (archive(b"[1]"), 3),
        (archive(b"[" * 100_000), 100_000),
        (archive(kind=tarfile.SYMTYPE), 11),
        (archive(kind=tarfile.DIRTYPE), 4096),
        (b"no archive", 10),
        (b"", 0),
    ],
    ids=["no UTF-8", "a list", "too deep", "a link", "a folder", "no archive", "nothing"],
)
def test_what_is_no_object_is_refused_in_a_line(airflow: Call, packed: bytes, size: int) -> None:
    refused, _ = airflow(loaded, packed, size)
    assert refused.startswith("fake: /result/result.json holds no JSON object (")
    assert "\n" not in refused


def test_a_large_result_is_refused_and_not_read(airflow: Call) -> None:
    content = json.dumps(GOOD | {"headline": {"text": "x" * 2_000_000}}).encode()
    refused, taken = airflow(loaded, archive(content), len(content))
    assert refused == f"fake: its result is too large: {len(content)} bytes, at most 1048576"
    assert taken == 0
    _, taken = airflow(loaded, archive(content), 100)  # the engine's word is no reason to read on for ever
    assert taken < len(content) / 1.5


def test_what_the_contract_names_is_believed_and_nothing_else(airflow: Call) -> None:
    more = {"lots": {"s1": 3}, "digest": "x", "text": "y"}
    assert airflow(believed, GOOD | more, "ARTIFACT") == GOOD
    lots = {"stage": "fake", "lots": ["s1"], "seconds": 0.5, "headline": {}}
    assert airflow(believed, lots | {"path": "/etc"}, "LOTS") == lots
    check = {"stage": "fake", "checked": True, "headline": {"rows": 3}}
    assert airflow(believed, check, "CHECKED") == check
    command = {"stage": "fake", "report": f"/artifacts/clean_up/{'0' * 64}/report.html", "seconds": 1, "headline": {}}
    assert airflow(believed, command | {"counts": {}}, "COMMAND") == command
    assert "not /artifacts/" in airflow(believed, command | {"report": "/etc/passwd"}, "COMMAND")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stage": "other"}, "wrong or missing: stage"),
        ({"path": 7, "key": None}, "wrong or missing: path, key"),
        ({"path": f"{ARTIFACT}/.."}, "not /artifacts/fake/<64 hex digits>"),
        ({"path": ARTIFACT.replace("fake", "other")}, "not /artifacts/fake/<64 hex digits>"),
        ({"path": f"/artifacts/fake/failed-{'0' * 12}", "key": f"failed-{'0' * 12}"}, "not /artifacts/fake/<64 hex"),
        ({"key": "../../x"}, "the key is not that of"),
        ({"report": f"{ARTIFACT}/../../report.html"}, "not /artifacts/<stage>/<64 hex digits>"),
        ({"outputs": {"model": "/artifacts/fake/../model"}}, "not /artifacts/<stage>/<64 hex digits>"),
        ({"outputs": {"model": ARTIFACT.replace("fake", "other")}}, "is not in"),
        ({"outputs": {"model": f"{ARTIFACT}0"}}, "not /artifacts/<stage>/<64 hex digits>"),
    ],
)
def test_a_result_that_breaks_the_contract_is_refused(airflow: Call, changes: dict[str, Any], problem: str) -> None:
    refused = airflow(believed, GOOD | changes, "ARTIFACT")
    assert problem in refused
    assert "\n" not in refused


@pytest.mark.parametrize(
    ("lots", "groups", "shares"),
    [
        ({"s1": 500, "s2": 500}, 2, [["s1"], ["s2"]]),
        ({"a": 9, "b": 1, "c": 5, "d": 3}, 2, [["a"], ["b", "c", "d"]]),
        ({"a": 9, "b": 1}, 32, [["a"], ["b"]]),
        ({"a": 9, "b": 1}, 0, []),
        ({}, 2, []),
        (None, 2, []),
        ("s1", 2, "the lots from fake are 's1', not lot -> images"),
        ({"s1": True}, 2, "the lots from fake are {'s1': True}, not lot -> images"),
        (["s1"], 2, "the lots from fake are ['s1'], not lot -> images"),
    ],
)
def test_lots_are_shared_out_by_their_images(airflow: Call, lots: Any, groups: int, shares: Any) -> None:
    assert airflow(shared_out, lots, groups) == shares
