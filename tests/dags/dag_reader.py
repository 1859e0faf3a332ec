"""Airflow as it reads DAGs, in a process of its own, for it configures what imports it.

It is imported once, which takes seconds; each piece of code runs in a fork, with its own environment and folder.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[2]
AHEAD = (  # of Airflow alone: modules of dags/ read the environment
    "airflow.dag_processing.dagbag",
    "airflow.providers.docker.operators.docker",
    "airflow.providers.standard.decorators.python",
    "airflow.serialization.serialized_objects",
)
Done = subprocess.CompletedProcess[str]


class DagReader:
    """Runs code that needs Airflow.

    Usage:
        dag_reader.describe("clean_up")["upstream"]
        dag_reader.run_with("clean_up", "print(dag.task_ids)").stdout
    """

    def __init__(self, home: Path) -> None:
        """Start the process; `home` becomes AIRFLOW_HOME."""
        self._process = ProcessPoolExecutor(1, get_context("spawn"), initializer=_import, initargs=(str(home),))

    def run(self, code: str, cwd: Path = ROOT, environment: Mapping[str, str] = MappingProxyType({})) -> Done:
        """Run code as `python -c` does; `environment` adds to that of the process."""
        return self._process.submit(_run, code, cwd, dict(environment)).result()

    def run_with(self, dag_id: str, code: str, **environment: str) -> Done:
        """Run code that knows `dag` and the `module` that it is of."""
        known = f"import json, {dag_id} as module; dag = module.{dag_id}()"
        return self.run(f"{known}\n{code}", environment=environment)

    def describe(self, dag_id: str, *confs: dict[str, Any]) -> Any:
        """Description of a DAG by `describe_dag`; `confs` are parameters, as a user hands them over with a run."""
        code = f"from tests.dags.describe_dag import described\nprint(json.dumps(described(dag, {confs!r})))"
        done = self.run_with(dag_id, code)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


def _import(home: str) -> None:
    os.environ["AIRFLOW_HOME"] = home
    for name in AHEAD:
        importlib.import_module(name)


def _run(code: str, cwd: Path, environment: dict[str, str]) -> Done:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if not (child := os.fork()):
            status = 1
            try:
                os.dup2(out.fileno(), sys.stdout.fileno())
                os.dup2(err.fileno(), sys.stderr.fileno())
                os.chdir(cwd)
                os.environ.update(environment)
                exec(code, {})  # noqa: S102 (of a test)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(code, os.waitstatus_to_exitcode(ended), out.read(), err.read())
