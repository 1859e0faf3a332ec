"""A run of the slow stage, which works until the test releases it, and tells who has worked."""

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

from tests.stack.stack import Stack
from tests.waiting import wait_until

HERE = Path(__file__).parent
IMAGE = "face-attributes/slow_stage"
CACHE = "/artifacts/slow_stage/.cache"
LONGEST_S = 1800  # of work that nobody releases


def build_slow_stage() -> None:
    """Build its image on that of a real stage, which must be there."""
    command = ["docker", "build", "--quiet", f"--tag={IMAGE}", str(HERE / "slow_stage")]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)


def with_slow_stage(folder: Path) -> Path:
    """An addition to docker-compose.yml, written to `folder`: the DAGs of the slow stage."""
    dags = folder / "slow_stages.py"  # a copy, which Airflow's user can read wherever the repository is
    dags.write_text((HERE / "dags/slow_stages.py").read_text(encoding="utf-8"), encoding="utf-8")
    dags.chmod(0o644)
    service = {"volumes": [f"{dags}:/app/dags/slow_stages.py:ro"]}
    file = folder / "with_slow_stage.yml"
    names = ("airflow-scheduler", "airflow-dag-processor", "airflow-worker")
    file.write_text(json.dumps({"services": dict.fromkeys(names, service)}))  # JSON is YAML
    return file


class SlowRun:
    """A run that was triggered, of one task or (DAG `slow_lots`) of lots.

    Attributes:
        word: that it writes; runs of the same word make the same artifact.
        run_id: Airflow's name of it.
    """

    def __init__(self, stack: Stack, word: str = "", dag_id: str = "slow_stage", seconds: float = LONGEST_S) -> None:
        """Trigger it."""
        self._stack = stack
        self._dag_id = dag_id
        self.word = word or uuid.uuid4().hex[:8]
        self.run_id = stack.trigger(dag_id, word=self.word, seconds=seconds)

    def writers(self, lot: str = "") -> list[str]:
        """The container (12 digits of its id) of every write so far, of the whole artifact or of a lot."""
        return self._in_store(f"cat {CACHE}/trace-{self._piece(lot)} 2>/dev/null || true").split()

    def writers_of_lots(self) -> dict[str, list[str]]:
        """Lot -> the same, of the lots that anybody has written so far."""
        begin = f"{CACHE}/trace-{self.word}-"
        found: dict[str, list[str]] = {}
        for line in self._in_store(f"grep -H . {begin}* 2>/dev/null || true").splitlines():
            path, _, writer = line.partition(":")
            found.setdefault(path.removeprefix(begin), []).append(writer)
        return found

    def wait_for_writer(self, lot: str = "", beside: str = "") -> str:
        """The container that writes, as soon as it does; `beside` is one that does not count."""

        def writer() -> str:
            last = next(iter(self.writers(lot)[-1:]), beside)
            return "" if last == beside else last

        return str(wait_until(writer, f"work in {self.run_id}"))

    def release(self, *lots: str) -> None:
        """Let the work end."""
        self._in_store("touch " + " ".join(f"{CACHE}/release-{self._piece(lot)}" for lot in lots or [""]))

    def wait(self) -> str:
        """The state in which the run ends."""
        return self._stack.wait_for_run(self.run_id, dag_id=self._dag_id)

    def tasks(self, task_id: str = "") -> list[dict[str, Any]]:
        """Its task instances, all or those of one task."""
        return [task for task in self._stack.tasks(self.run_id, self._dag_id) if task_id in {"", task["task_id"]}]

    def result(self, task_id: str = "slow_stage", map_index: int = -1) -> dict[str, Any]:
        """Return value of a task."""
        path = f"/dags/{self._dag_id}/dagRuns/{self.run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return dict(self._stack.api(f"{path}?map_index={map_index}&deserialize=true")["value"])

    def _piece(self, lot: str) -> str:
        return f"{self.word}-{lot}" if lot else self.word

    def _in_store(self, script: str) -> str:
        volume = f"--volume={self._stack.artifacts}:/artifacts"
        command = ["docker", "run", "--rm", "--network=none", volume, "--entrypoint=sh", IMAGE]
        return subprocess.run([*command, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout


def one_after_the_other(writers: list[str]) -> list[str]:
    """The containers that wrote, in order; it fails if one wrote again when another had begun."""
    order = list(dict.fromkeys(writers))
    assert writers == [writer for writer in order for _ in range(writers.count(writer))]
    return order
