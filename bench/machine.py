"""Machine and time of a measurement, and the memory of a program; shared by the benches.

    python -m bench.machine [COMMAND ...]

prints the lines above the figures of COMMAND.
"""

import argparse
import contextlib
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from stages.common.contract.cpus import available_cpus
from stages.common.contract.version import ROOT

SAMPLED_S = 0.25
"""Seconds between two readings of a program's memory; Linux keeps the peak of each process."""


def describe(command: str) -> list[str]:
    """The lines above figures: machine, time, commit, command."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = next(iter(re.findall(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)), platform.machine())
    formats = [name for name in ("amx_bf16", "avx512_bf16") if re.search(rf"\b{name}\b", cpuinfo)]
    cores, memory = available_cpus(), psutil.virtual_memory().total / 2**30
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()
    commit = _output("git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*") or "unknown"
    return [
        f"machine: {model.strip()} ({', '.join(formats) or 'without bfloat16'}), {cores} cores used, {memory:.0f} GiB",
        f"GPU: {'; '.join(gpus) or 'none'}",
        f"system: {system}, Linux {platform.release()}, Python {platform.python_version()}",
        f"date: {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, load before {os.getloadavg()[0]:.1f}",
        f"commit: {commit}",
        f"command: `{command}`",
    ]


def _output(*command: str) -> str:
    """Standard output of a command in the repository, "" when it fails or is absent."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table whose columns are aligned, so that it can also be read as it is."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


@dataclass(frozen=True)
class Memory:
    """Peak memory of a program with all its processes, in MB (2**20 bytes), mapped files and libraries included.

    Attributes:
        resident: sum of the peaks of the processes (RSS); memory shared by two processes counts twice.
        proportional: shared memory is divided among the processes (PSS), so this is the memory that the machine needs.
    """

    resident: float
    proportional: float


def run_measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, Memory]:
    """Run a program and watch the memory of all its processes.

    Args:
        command: the program; its stderr is shown.
        environment: variables besides those of this process.

    Returns:
        Its stdout, and its peak memory.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    resident = proportional = 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, env=os.environ | dict(environment or {}))
        try:
            while process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    program = psutil.Process(process.pid)
                    running = [process.pid for process in (program, *program.children(recursive=True))]
                    resident = max(resident, sum(peak_memory(pid) for pid in running))
                    proportional = max(proportional, sum(memory_of(pid) for pid in running))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SAMPLED_S)
        except BaseException:
            process.kill()
            raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command))
        output.seek(0)
        return output.read(), Memory(resident, proportional)


def cpu_seconds() -> float:
    """CPU seconds that this process and those that it has started have taken so far, to a hundredth."""
    program = psutil.Process()
    taken = [process.cpu_times() for process in (program, *program.children(recursive=True))]
    return float(sum(times.user + times.system for times in taken))


def peak_memory(pid: int) -> float:
    """Peak resident set of a process in MB (2**20 bytes), 0 if it has ended."""
    return _megabytes(pid, "status", "VmHWM")


def memory_of(pid: int) -> float:
    """Memory of a process in MB now; what it shares is divided among those that do (PSS). 0 if it has ended."""
    return _megabytes(pid, "smaps_rollup", "Pss")


def _megabytes(pid: int, file: str, name: str) -> float:
    with contextlib.suppress(OSError):
        if found := re.search(rf"^{name}:\s*(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE):
            return int(found[1]) / 1024
    return 0.0  # it has ended


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="*", default=["python -m bench.machine"], help="what is about to be measured")
    for line in describe(" ".join(parser.parse_args().command)):
        print(f"- {line}")


if __name__ == "__main__":
    main()
