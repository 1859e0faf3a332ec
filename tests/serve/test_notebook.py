"""The notebook in docs/ runs, cell after cell, on what `make run ENGINE=none` has made."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.made_run import MadeRun
from tests.serve.serving import ROOT
from tests.waiting import PATIENCE_S, free_port

pytestmark = pytest.mark.slow
NOTEBOOK = "docs/first_look.ipynb"


def test_the_notebook_runs_after_a_first_run(made_run: MadeRun, tmp_path: Path) -> None:
    assert made_run.done.returncode == 0, made_run.done.stdout
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    folder = made_run.tree / "docs"
    folder.mkdir()
    port = str(free_port())
    command = [sys.executable, "-c", program]
    environment = os.environ | {"SERVE_PORT": port, "SERVE_INDEX": str(tmp_path / "index")}
    output = tmp_path / "output"
    with (
        output.open("w") as file,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            process.wait(PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # a cell that fails leaves the service running
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(folder)
    said = output.read_text()
    assert process.returncode == 0, said
    for told in ("report.html", "champion: v1", f"http://localhost:{port} v1", " images ["):
        assert told in said, said


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
