"""Fixtures: registries with hand-made models, and services that serve from them."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from stages.common.registry.registry import Registry
from tests.common.onnx_models import save_model
from tests.serve.serving import TOKEN, Server, register, save_sensitive_model, serving


@pytest.fixture(scope="session")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one released version, whose answers depend on every pixel; no test changes it."""
    folder = tmp_path_factory.mktemp("sensitive")
    register(Registry(folder / "artifacts" / "registry"), folder / "v1", save_sensitive_model)
    return folder / "artifacts"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the registry that `two_versions` is a copy of."""
    folder = tmp_path_factory.mktemp("made")
    for number, confidence in enumerate((0.8, 0.9)):
        save = partial(save_model, confidence=confidence)
        register(Registry(folder / "registry"), folder / f"content-{number}", save)
    return folder / "registry"


@pytest.fixture
def two_versions(made: Path, tmp_path: Path) -> Registry:
    """A registry in which v2 is the champion: v1 answers with a confidence of .8, v2 with .9."""
    return Registry(shutil.copytree(made, tmp_path / "artifacts" / "registry"))


@pytest.fixture(scope="module")
def server(sensitive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that asks for a token, with limits that a test can reach."""
    limits = {"BODY_BYTES": "1000000", "HEAD_BYTES": "20000", "IMAGES": "24"}
    with serving(tmp_path_factory.mktemp("serving"), sensitive, TOKEN, **limits) as server:
        server.wait_for(ready=True)
        yield server
