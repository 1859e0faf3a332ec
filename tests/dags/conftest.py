"""Fixtures: the real engine with the fake stage, and a real worker."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dags.worker import HERE, IMAGE, VOLUMES, Worker


@pytest.fixture(scope="session")
def engine(docker: Any) -> Iterator[Any]:
    """A client of the container engine, with the fake stage built and volumes of its own."""
    base = subprocess.run([HERE.parents[1] / "images/base/build"], check=True, capture_output=True, text=True)
    docker.images.build(
        path=str(HERE / "fake_stage"), tag=IMAGE, buildargs={"BASE_IMAGE": base.stdout.strip()}, rm=True
    )
    for volume in VOLUMES:
        docker.volumes.create(volume)
    yield docker
    for volume in VOLUMES:
        docker.volumes.get(volume).remove(force=True)


@pytest.fixture(scope="session")
def airflow(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with a database of its own."""
    worker = Worker(tmp_path_factory.mktemp("airflow"))
    yield worker
    worker.close()
