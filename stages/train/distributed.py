"""Training in several processes, one per GPU: torchrun starts them, and the fit loop shares every batch among them.

Nothing but the checkpoint comes back: after its last epoch, `fit` in the stage's own process has only to read it.
`python -m stages.train.distributed JOB` is what each of them runs.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import distributed as dist

from stages.common.artifacts import write_json
from stages.common.cpus import available_cpus
from stages.common.dataset import read_split
from stages.common.device import choose_device
from stages.common.errors import ExitCode, StageError, UnavailableError
from stages.common.fit import FitSettings, fit
from stages.common.logs import log, start_logging
from stages.train.params import TrainSection
from stages.train.stage import EpochLog

SETTINGS = TypeAdapter(FitSettings)


class DistributedError(StageError):
    """What one of the processes said; it ends the stage as it would have ended that process."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = ExitCode(exit_code)


MIN_SHARE = 16
"""Images of a step for each process on a CPU: batch normalisation wants as many."""


def count_processes(section: TrainSection, batch_size: int) -> int:
    """How many processes are to train: as section `train` says, else one per visible GPU or, on a CPU, per core.

    On a CPU processes wait for each other once a step, threads of one process at every layer, spinning. On two cores
    that had other work too, two threads got through 20 to 40 images a second, two processes through 250 to 340.

    Args:
        section: asks for device and processes.
        batch_size: images of a step, over all processes.

    Raises:
        UnavailableError: there are fewer GPUs, or none though `cuda` is asked for.
    """
    wanted = section.processes
    if choose_device(section.device).type == "cpu":
        return wanted or max(1, min(available_cpus(), batch_size // MIN_SHARE))
    if wanted > torch.cuda.device_count():
        raise UnavailableError(
            f"train.processes asks for {wanted} GPUs, found {torch.cuda.device_count()}: offer more to the container, "
            "or set it to 0"
        )
    return wanted or torch.cuda.device_count()


def fit_in_processes(processes: int, prepared: Path, settings: FitSettings, checkpoint: Path) -> None:
    """Train in several processes, up to the checkpoint of the last epoch.

    Args:
        processes: how many. On CUDA each takes the GPU of its number, on a CPU its share of the cores.
        prepared: artifact of stage prepare_train.
        settings: as for `fit`.
        checkpoint: as for `fit`. Its folder also gets the job's description.

    Raises:
        DistributedError: one of the processes failed.
    """
    job, failure = checkpoint.with_name("job.json"), checkpoint.with_name("failure.json")
    write_json(
        job,
        {
            "stage": os.getpid(),
            "prepared": str(prepared.absolute()),
            "settings": SETTINGS.dump_python(settings),
            "checkpoint": str(checkpoint.absolute()),
            "failure": str(failure.absolute()),
        },
    )
    failure.unlink(missing_ok=True)
    # By its address, for without a network a container cannot look up its own name.
    torchrun = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "stages.train.distributed", str(job)]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, available_cpus() // processes)),  # torchrun would take 1 and say so at length
        "LOGLEVEL": "CRITICAL",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as running:
        try:
            assert running.stderr is not None  # noqa: S101 (for mypy)
            for line in running.stderr:
                if not failure.exists():  # after it come torchrun's tracebacks, which say less
                    sys.stderr.write(line)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    if failure.exists():
        raise DistributedError(**json.loads(failure.read_text(encoding="utf-8")))
    if running.returncode:
        raise UnavailableError(
            "a training process failed, the log says how above (exitcode -9 is nearly always memory that ran out: give "
            "the stage more, or lower train.processes)"
        )


def _follow(stage: int) -> None:
    """End with the stage, even if it is killed -9 and torchrun goes on."""
    while True:
        try:
            os.kill(stage, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)


def main(job: Path) -> None:
    """Be one of the processes."""
    told = json.loads(job.read_text(encoding="utf-8"))
    threading.Thread(target=_follow, args=(told["stage"],), daemon=True).start()
    start_logging()
    rank = int(os.environ["RANK"])
    if rank:
        log.setLevel("ERROR")  # the first speaks for all
    settings = SETTINGS.validate_python(told["settings"])
    on_gpu = choose_device(settings.device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    prepared = Path(told["prepared"])
    try:
        train, val = read_split(prepared, "train"), read_split(prepared, "val")
        fit(train, val, settings, on_epoch=EpochLog(settings.epochs), checkpoint=Path(told["checkpoint"]))
    except StageError as error:
        write_json(Path(told["failure"]), {"message": str(error), "exit_code": error.exit_code})
        os._exit(1)  # the others wait for this one; torchrun stops them
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
