"""Counts for Prometheus: requests, images and versions, of all processes together."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from images.serve.metrics import PLACE, PREFIX
from stages.common.registry.registry import Registry
from tests.serve.pictures import drawn
from tests.serve.serving import TOKEN, Server, serving
from tests.serve.test_champion import promote
from tests.serve.test_workers import ASKED, WORKERS, kill_one, listening
from tests.stack.test_metrics import asked_for
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def told(server: Server) -> dict[str, float]:
    """Series -> value, as whichever process is asked tells it."""
    answer = server.get("/metrics")
    assert (answer.status, answer.headers["content-type"][:24]) == (200, "text/plain; version=1.0.")
    return {name: float(value) for name, value in re.findall(r"^(face_\S+) (\S+)$", answer.body.decode(), re.MULTILINE)}


@contextmanager
def counting(registry: Registry, folder: Path, workers: int) -> Iterator[Server]:
    """A service that has so many processes."""
    with serving(folder, registry.home.parent, TOKEN, WORKERS=str(workers)) as server:
        wait_until(lambda: workers == 1 or len(listening(server)) == workers, server.log.read_text)
        yield server


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_requests_images_and_the_version_are_counted_wherever_they_were_answered(
    two_versions: Registry, tmp_path: Path, workers: int
) -> None:
    with counting(two_versions, tmp_path, workers) as server:
        count(server, workers)
        promote(two_versions, "v1")
        serving = [f'face_attributes_serving{{version="{name}"}}' for name in ("v1", "v2")]
        wait_until(lambda: [told(server).get(version) for version in serving] == [workers, 0], lambda: told(server))


def count(server: Server, workers: int) -> None:
    for _ in range(ASKED):
        assert server.predict(drawn(), b"junk").status == 200
    assert server.get("/history/x").status in {404, 503}
    server.token = "wrong"  # noqa: S105
    assert server.get("/attributes").status == server.get("/metrics").status == 401
    server.token = TOKEN
    found = told(server)
    assert found['face_attributes_request_seconds_count{path="/predict",status="200"}'] == ASKED
    assert 0 < found['face_attributes_request_seconds_sum{path="/predict",status="200"}'] < 60 * ASKED
    assert found['face_attributes_request_seconds_count{path="",status="401"}'] == 2
    assert any('path="/history/{image}"' in name for name in found)
    assert found['face_attributes_images_total{result="answered",version="v2"}'] == ASKED
    assert found['face_attributes_images_total{result="refused",version="v2"}'] == ASKED
    assert found["face_attributes_batch_images_sum"] == 2 * ASKED
    assert found['face_attributes_batch_images_bucket{le="1.0"}'] <= found["face_attributes_batch_images_count"]
    assert found['face_attributes_serving{version="v2"}'] == workers
    assert asked_for("face_attributes") <= {name.partition("{")[0] for name in found}


def test_a_killed_process_serves_no_more_and_what_it_counted_stays(two_versions: Registry, tmp_path: Path) -> None:
    with counting(two_versions, tmp_path, WORKERS) as server:
        for _ in range(ASKED):
            server.predict(drawn())
        kill_one(server)
        name = 'face_attributes_serving{version="v2"}'
        wait_until(lambda: len(listening(server)) == WORKERS, server.log.read_text)
        wait_until(lambda: told(server)[name] == WORKERS, lambda: told(server))
        assert told(server)['face_attributes_request_seconds_count{path="/predict",status="200"}'] == ASKED
        server.process.send_signal(signal.SIGHUP)  # all are replaced
        wait_until(lambda: told(server)[name] == WORKERS, lambda: told(server))
        assert len([*PLACE.glob(f"{PREFIX}{server.process.pid}-*")]) == 1
    assert [*PLACE.glob(f"{PREFIX}{server.process.pid}-*")] == []
