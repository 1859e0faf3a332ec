"""Fixtures: the real engine with the fake stage, and a real worker."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dags.worker import HERE, IMAGE, VOLUMES, Worker


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the container engine, with the fake stage built and volumes of its own."""
    import docker

    client = docker.from_env()
    base = subprocess.run([HERE.parents[1] / "images/base/build"], check=True, capture_output=True, text=True)
    client.images.build(path=str(HERE / "fake_stage"), tag=IMAGE, buildargs={"BASE_IMAGE": base.stdout.strip()})
    for volume in VOLUMES:
        client.volumes.create(volume)
    yield client
    for volume in VOLUMES:
        client.volumes.get(volume).remove(force=True)
    client.close()


@pytest.fixture(scope="session")
def airflow(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with a database of its own."""
    worker = Worker(tmp_path_factory.mktemp("airflow"))
    yield worker
    worker.close()
