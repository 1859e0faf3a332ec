"""Fixtures that tests of several folders use."""

import gc
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture(scope="session")
def docker() -> "Iterator[DockerClient]":
    """A client of the container engine. Without one the test is skipped, but fails in CI."""
    import docker

    client, reason = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves its socket open when nothing answers
        try:
            client = docker.from_env()
        except docker.errors.DockerException as error:
            reason = f"no container engine answers, start one with `make engine`: {error}"
        gc.collect()
    if client is None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if client is None:
        pytest.skip(reason)
    yield client
    client.close()
