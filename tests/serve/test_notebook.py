"""The notebook in docs/ runs, cell after cell, on what `make run ENGINE=none` has made."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.scripts.made_run import MadeRun
from tests.serve.serving import ROOT

pytestmark = pytest.mark.slow
NOTEBOOK = "docs/first_look.ipynb"


def test_the_notebook_runs_after_a_first_run(made_run: MadeRun) -> None:
    assert made_run.done.returncode == 0, made_run.done.stdout
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    folder = made_run.tree / "docs"
    folder.mkdir()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=os.environ | {"SERVE_PORT": port}, check=False,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    for told in ("report.html", "champion: v1", f"http://localhost:{port} v1", " images ["):
        assert told in done.stdout, done.stdout


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
