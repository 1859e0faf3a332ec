"""The container of a stage: its owner, its contents, its limits, and the meaning of its end."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from docker import APIClient
from docker.types import DeviceRequest, LogConfig
from docker.utils import parse_bytes

from stage_operator.engine import NAME, TRY, containers, leftovers, remove
from stage_operator.log import LogLines, tail_of

USER = "10001:10001"
PROCESSES = 512  # and threads, in a container
FENCE_S = 30  # to wait for another try's container to disappear; the engine takes under 3 s unless it hangs

PERMANENT = {
    64: "wrong usage or parameters",
    65: "the data are bad",
    69: "something needed is absent",
    70: "a defect in the stage",
}
TRANSIENT = {75: "a passing fault", 137: "killed from outside (SIGKILL)", 143: "stopped from outside (SIGTERM)"}
NO_PROCESS = ("can't start new thread", "Resource temporarily unavailable", "Cannot fork", "pthread_create failed")
"""Messages of programs to which the engine allows no further process or thread."""


@dataclass(frozen=True)
class Try:
    """One try of a task, and the identity of its container.

    Attributes:
        stage: name of the stage.
        task: labels of the containers of all tries of this task instance.
        number: of this try, from 1.
    """

    stage: str
    task: Mapping[str, str]
    number: int

    @classmethod
    def of(cls, stage: str, instance: Any) -> Self:
        """The current try of a task instance of Airflow."""
        labels = {
            f"{NAME}.dag": instance.dag_id,
            f"{NAME}.run": instance.run_id,
            f"{NAME}.task": instance.task_id,
            f"{NAME}.map_index": str(-1 if instance.map_index is None else instance.map_index),
        }
        return cls(stage, labels, instance.try_number)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the container of this try."""
        return {**self.task, TRY: str(self.number)}

    @property
    def name(self) -> str:
        """Name of the container, one per task instance: the engine itself refuses a second writer."""
        digest = hashlib.sha256(json.dumps(self.task, sort_keys=True).encode()).hexdigest()[:16]
        return f"{NAME}-{self.stage}-{digest}"

    def fence(self, client: APIClient, now: str, log: Any) -> None:
        """End containers of other tries, and wait until they are gone; remove leftovers that no task tries again.

        `now` is the engine's time.

        It works within one engine. A stage ends by itself when its task is gone, which closes its standard input. If
        that signal is lost, and the next try is on another engine, the lock of their key in the store separates them:
        the second waits, and takes the artifact of the first, or makes it if the first is gone.

        Raises:
            AirflowFailException: a later try runs already.
            AirflowException: a container cannot be removed.
        """
        deadline = time.monotonic() + FENCE_S
        while others := containers(client, self.task):
            for other in others:
                other_try = other["Labels"].get(TRY, "0")
                # An ended one is a leftover, perhaps of a deleted run with the same id.
                if int(other_try) > self.number and other["State"] == "running":
                    raise AirflowFailException(
                        f"{self.stage}: try {other_try} of this task is running already: "
                        f"wait for it, or end it with `docker rm -f {other['Id'][:12]}`"
                    )
                log.warning("Ending the container that try %s left behind: %s", other_try, other["Id"][:12])
                remove(client, other["Id"])
            if time.monotonic() > deadline:
                raise AirflowException(
                    f"{self.stage}: a container of an earlier try cannot be removed: {others[0]['Id']}"
                )
            time.sleep(0.1)
        for leftover in leftovers(client, now):
            log.warning("Removing the container of a task that is not retried: %s", leftover[:12])
            remove(client, leftover)

    def remove(self, client: APIClient) -> None:
        """Remove the container of this try, if there is one."""
        for container in containers(client, self.labels):
            remove(client, container["Id"])


def create(
    client: APIClient,
    attempt: Try,
    command: Sequence[str],
    *,
    engine: Mapping[str, Any],
    image: str,
    image_id: str,
    environment: Mapping[str, str],
    mem_limit: Any,
    cpus: float,
    gpu: bool,
    **host: Any,
) -> str:
    """Make the container of a try, which is not started yet.

    Args:
        client: of the engine.
        attempt: the try.
        command: arguments of the stage.
        engine: information of the engine; it starts programs for that, so it is asked once.
        image: name of its image.
        image_id: its id, for the stage.
        environment: further variables beside those of every stage.
        mem_limit: as of `StageOperator`, like `cpus` and `gpu`; the engine grants no more than it has.
        cpus: 0 for all.
        gpu: hand over all GPUs, if the engine can.
        **host: mounts, network_mode and shm_size.

    Returns:
        Its id.

    Raises:
        APIError: the engine refuses it.
    """
    cpus = min(cpus, engine["NCPU"])  # the engine refuses a higher number
    threads = str(max(1, int(cpus or engine["NCPU"])))
    memory = min(parse_bytes(str(mem_limit)), engine["MemTotal"])  # a higher limit would be no limit
    devices = None
    if gpu and "nvidia" in engine.get("Runtimes", {}):
        devices = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    container = client.create_container(
        image=image,
        command=list(command),
        name=attempt.name,
        labels=attempt.labels,
        user=USER,
        stdin_open=True,  # for the first client that attaches; when it goes, the stage ends by itself
        environment={
            "FACE_ATTRIBUTES_IMAGE": image_id,
            "FACE_ATTRIBUTES_ENDS_WITH_STDIN": "1",
            "HOME": "/tmp",  # noqa: S108 (the only writable place, for caches of libraries)
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
            **environment,
        },
        host_config=client.create_host_config(
            **host,
            tmpfs={"/tmp": "size=1g,mode=1777"},  # noqa: S108
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=True,  # forwards SIGTERM to the stage and reaps its children
            mem_limit=memory,
            memswap_limit=memory,  # the same: no swap
            nano_cpus=int(cpus * 1e9) or None,
            pids_limit=PROCESSES,
            device_requests=devices,
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "3"}),
        ),
    )
    return str(container["Id"])


def failure(stage: str, state: Mapping[str, Any], log: LogLines, mem_limit: Any) -> AirflowException | None:
    """Why an ended container counts as failed, None if it does not; `state` is from the engine."""
    code = state["ExitCode"]
    if state["OOMKilled"]:  # also set when only a child was killed and the stage ended with 0
        return AirflowFailException(
            f"{stage}: out of memory, limit {mem_limit}: "
            f"give the task more (mem_limit) or the stage less to do{tail_of(log)}"
        )
    if code == 0:
        return None
    cause = log.cause()
    if any(words in line for line in (cause, *log.tail) for words in NO_PROCESS):
        cause += f" (a stage may have {PROCESSES} processes and threads)"
    if code in TRANSIENT:
        return AirflowException(f"{stage}: {TRANSIENT[code]}, exit code {code}: {cause}{tail_of(log)}")
    meaning = PERMANENT.get(code, "an exit code that no stage has, a defect")
    return AirflowFailException(f"{stage}: {meaning}, exit code {code}: {cause}{tail_of(log)}")
