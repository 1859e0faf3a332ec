"""`make serve` right after `make run ENGINE=none`, whether the release gate has let the version pass or not."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.registry.registry import Registry
from tests.scripts.made_run import MadeRun
from tests.serve.serving import ROOT
from tests.waiting import free_port, wait_until

pytestmark = pytest.mark.slow
RELEASE = "refs/tags/champion-0001"


@contextlib.contextmanager
def make_serve(tree: Path, folder: Path) -> Iterator[Callable[[str], Any]]:
    """The service as a user starts it; gives what asks it, whatever the status is."""
    shutil.copy(ROOT / "Makefile", tree)
    port = free_port()
    environment = os.environ | {"SERVE_PORT": str(port), "SERVE_INDEX": str(folder / "index")}

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}{path}") as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError:  # it is starting
            return {}

    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            ["make", "serve"], cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(lambda: ask("/health"), (folder / "log").read_text)
            yield ask
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_a_version_that_the_gate_has_refused_is_served_and_told(made_run: MadeRun, tmp_path: Path) -> None:
    assert made_run.done.returncode == 0, made_run.done.stdout
    kept = yaml.safe_load((made_run.tree / "params.yaml").read_text())["input"]["kept"]
    registry = Registry(made_run.tree / kept / "registry")
    (released,) = registry._git("rev-parse", RELEASE).split()
    registry._git("update-ref", "-d", RELEASE)
    try:
        with make_serve(made_run.tree, tmp_path) as ask:
            told = ask("/ready")
            assert (told["ready"], told["version"]) == (True, "v1")
            assert told["problem"] == f"v1, not released: {registry.version('v1').gate_verdict}"
            assert ask("/versions")["problem"] == told["problem"]
            wait_until(
                lambda: f"WARNING {told['problem']}" in (tmp_path / "log").read_text(), (tmp_path / "log").read_text
            )
            registry._git("update-ref", RELEASE, released)
            wait_until(lambda: ask("/ready")["problem"] is None, lambda: ask("/ready"))
    finally:
        registry._git("update-ref", RELEASE, released)
