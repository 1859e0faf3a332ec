"""How fast the network trains, in how much memory, against the number of images, processes, and on a GPU the batch.

    python -m bench.train --data FOLDER [--images N ...] [--seconds S] [--repeat N] [--parts PART ...]
                          [--device auto|cpu|cuda] [--set train.KEY=VALUE ...] [--plot FILE]

FOLDER holds raw/ and annotations.csv. They are validated and prepared as the pipeline does it, and repeated on disk until
there are as many training images as wanted; the validation images are other pictures. Every line of a table is a process
of its own that trains with section train of params.yaml:

    size     rate and memory against the number of images: whole epochs until S seconds have passed, one at least
    threads  on a CPU, the same epochs with one thread, with all, and in two processes, in turns; medians
    batch    on a GPU, rate and memory by images a step, resident on the GPU or read ahead from the disk
    target   on a GPU, seconds to train the largest number of images once, and the accuracy that it gives

The first epoch of several warms up and is not in the rate; validation never is. Peak memory is that of the whole process
with its libraries and mapped files; `GPU MB` is what PyTorch had allocated there. Set TMPDIR to a disk with room for
12 kB an image (a tmpfs would count as memory).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import run_measured, table
from stages.common.cpus import available_cpus
from stages.common.hyperparameters import Hyperparameters
from stages.common.logs import log, start_logging
from stages.common.params import load_params
from stages.common.version import ROOT
from stages.train.params import Params

if TYPE_CHECKING:
    from stages.common.fit import Epoch

BASELINE = 41
"""Images a second that the users' earlier system trains on 2 cores, as they told; it was not measured here."""

PARTS = ("size", "threads", "batch", "target")
BATCHES = (64, 256, 1024, 4096)
THREADS_EPOCHS = 8
UNLIMITED = 10_000  # epochs
COLORS = {"cpu": "#4269d0", "cuda": "#ff725c"}


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        prepared: artifact of prepare_train, or what looks like one.
        images: how many it trains on, for the table.
        device: cpu or cuda.
        batch_size: images a step.
        epochs: of the learning-rate cycle; all are run, unless time is up.
        hyperparameters: of the fit.
        seed: likewise.
        seconds: no epoch starts after so many; None for no limit.
        processes: more than one are started by torchrun.
        resident: False keeps images off the GPU until they are needed.
    """

    prepared: str
    images: int
    device: str
    batch_size: int
    epochs: int
    hyperparameters: dict[str, Any]
    seed: int
    seconds: float | None = None
    processes: int = 1
    resident: bool = True


@dataclass(frozen=True)
class Found:
    """What a training gave.

    Attributes:
        rate: training images a second.
        epochs: how many were run.
        seconds: of the fit, with validation and warming up, without imports.
        accuracy: mean over attributes, of validation images.
        gpu_mb: peak of what PyTorch allocated on the GPU (2**20 bytes), None on a CPU.
        device: `cpu` or the GPU's name.
        peak_mb: peak memory of the process and its children (2**20 bytes); filled in by who measures it.
    """

    rate: float
    epochs: int
    seconds: float
    accuracy: float
    gpu_mb: float | None
    device: str
    peak_mb: float = 0.0


def rate_of(history: Sequence["Epoch"], images: int) -> float:
    """Training images a second, of the epochs after the first if there are any."""
    timed = history[1:] or history
    return images * len(timed) / sum(images / epoch.images_per_s for epoch in timed)


def train(job: Job) -> Found:
    """Do a job; this is what its process runs."""
    import torch

    from stages.common import loader
    from stages.common.dataset import read_split
    from stages.common.fit import FitSettings, fit
    from stages.train.distributed import fit_in_processes

    if not job.resident:
        loader.RESIDENT_SHARE = 0
    prepared = Path(job.prepared)
    settings = FitSettings(
        Hyperparameters(**job.hyperparameters), job.epochs, job.batch_size, job.seed, device=job.device
    )
    splits = read_split(prepared, "train"), read_split(prepared, "val")
    started = time.monotonic()

    def time_is_up(_epoch: "Epoch") -> bool:
        return job.seconds is not None and time.monotonic() - started >= job.seconds

    if job.processes == 1:
        result = fit(*splits, settings, on_epoch=time_is_up)
    else:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder, "checkpoint.safetensors")
            fit_in_processes(job.processes, prepared, settings, checkpoint)
            result = fit(*splits, settings, checkpoint=checkpoint)  # nothing is left to do but to read it
    return Found(
        rate=rate_of(result.history, len(splits[0])),
        epochs=len(result.history),
        seconds=time.monotonic() - started,
        accuracy=result.history[-1].val_mean_accuracy,
        gpu_mb=None if result.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20,
        device=result.device,
    )


def measure(job: Job, environment: Mapping[str, str] | None = None) -> Found:
    """Do a job in a process of its own."""
    log.info(
        "%d images on %s, %d a step, %d process(es)%s",
        job.images, job.device, job.batch_size, job.processes, "" if job.resident else ", read ahead",
    )  # fmt: skip
    command = [sys.executable, "-m", "bench.train", "--job", json.dumps(asdict(job))]
    output, peak_mb = run_measured(command, environment)
    found = Found(**json.loads(output.splitlines()[-1]) | {"peak_mb": peak_mb})
    log.info("%.0f images/s, %d epochs in %.0f s, %.0f MB", found.rate, found.epochs, found.seconds, peak_mb)
    return found


def compare_sizes(jobs: Sequence[Job]) -> list[Found]:
    """Print the table of part `size`."""
    results = [measure(job) for job in jobs]
    rows = [
        (
            job.device, f"{job.images:,}", job.batch_size, f"{found.rate:,.0f}", f"{found.rate / BASELINE:.1f}",
            f"{found.peak_mb:,.0f}", _megabytes(found.gpu_mb), found.epochs, f"{found.seconds:.0f}",
        )
        for job, found in zip(jobs, results, strict=True)
    ]  # fmt: skip
    print("\nRate and memory against the number of images\n")
    print(
        table(
            ("device", "images", "batch", "images/s", f"x {BASELINE}", "peak MB", "GPU MB", "epochs", "seconds"), rows
        )
    )
    print(
        f"\n{BASELINE} images/s is what the users' earlier system trains on 2 cores, as they told; not measured here."
    )
    return results


def compare_threads(job: Job, repeat: int) -> None:
    """Print the table of part `threads`: the same work in several ways, which take turns."""
    cores = available_cpus()
    ways = {
        f"{threads} thread{'s' * (threads > 1)}": (job, {"OMP_NUM_THREADS": str(threads)})
        for threads in dict.fromkeys((1, cores))
    }
    ways[f"2 processes (gloo), {max(1, cores // 2)} thread(s) each"] = (replace(job, processes=2), {})
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, (work, environment) in ways.items():
            found[name].append(measure(work, environment))
    first = statistics.median(one.rate for one in next(iter(found.values())))
    rows = []
    for name, results in found.items():
        rates = sorted(one.rate for one in results)
        rows.append(
            (
                name, f"{statistics.median(rates):,.0f}", f"{rates[0]:,.0f} to {rates[-1]:,.0f}",
                f"{statistics.median(rates) / first:.2f}", f"{statistics.median(one.peak_mb for one in results):,.0f}",
                f"{statistics.median(one.accuracy for one in results):.4f}",
            )
        )  # fmt: skip
    print(f"\nThreads and processes: {job.images:,} images, {job.epochs} epochs, medians of {repeat} in turns\n")
    print(table(("on the CPU", "images/s", "range", "x the first", "peak MB", "accuracy"), rows))


def compare_batches(job: Job) -> None:
    """Print the table of part `batch`."""
    rows = []
    for batch_size in BATCHES:
        for resident in (True, False):
            found = measure(replace(job, batch_size=batch_size, resident=resident))
            where = "resident on the GPU" if resident else "read ahead"
            rows.append(
                (
                    batch_size,
                    where,
                    f"{found.rate:,.0f}",
                    f"{found.peak_mb:,.0f}",
                    _megabytes(found.gpu_mb),
                    found.epochs,
                )
            )
    print(f"\n{found.device}, {job.images:,} images\n")
    print(table(("batch", "images", "images/s", "peak MB", "GPU MB", "epochs"), rows))


def reach_target(job: Job, target: float) -> None:
    """Print the table of part `target`: a whole learning-rate cycle for every batch size."""
    rows = []
    for batch_size in BATCHES:
        found = measure(replace(job, batch_size=batch_size))
        reached = "yes" if found.accuracy >= target else "no"
        rows.append((batch_size, job.epochs, f"{found.seconds:.1f}", f"{found.accuracy:.4f}", reached))
    print(f"\n{found.device}, {job.images:,} images to a mean accuracy of {target:g}\n")
    print(table(("batch", "epochs", "seconds", "accuracy", "reached"), rows))


def plot(path: Path, jobs: Sequence[Job], results: Sequence[Found]) -> None:
    """Rate and, below, memory against the number of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=110, layout="constrained")
    rates, memory = figure.subplots(2, 1, sharex=True)
    for device in dict.fromkeys(job.device for job in jobs):
        points = [(job.images, found) for job, found in zip(jobs, results, strict=True) if job.device == device]
        images, found = [count for count, _ in points], [one for _, one in points]
        name, color = found[0].device if device == "cuda" else "CPU", COLORS[device]
        rates.plot(images, [one.rate for one in found], "o-", color=color, label=name)
        memory.plot(images, [one.peak_mb for one in found], "o-", color=color, label=f"{name}: the whole process")
        if device == "cuda":
            memory.plot(images, [one.gpu_mb or 0 for one in found], "o--", color=color, label=f"{name}: on the GPU")
    counts = sorted({job.images for job in jobs})
    memory.plot(counts, [12_288 * count / 2**20 for count in counts], ":", color="#999", label="the images, on disk")
    rates.axhline(BASELINE, color="#999", linestyle=":", label=f"earlier system, as told: {BASELINE}")
    rates.set_yscale("log")
    rates.set_ylabel("training images/s")
    rates.set_title("Rate", loc="left", fontsize=11, fontweight="bold")
    memory.set_ylabel("peak memory, MB")
    memory.set_ylim(bottom=0)
    memory.set_title("Memory", loc="left", fontsize=11, fontweight="bold")
    memory.set_xlabel("training images of 64x64")
    memory.set_xscale("log")
    memory.set_xticks(counts, [f"{count:,}" for count in counts])
    memory.minorticks_off()
    for axes in (rates, memory):
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _devices(wanted: str) -> list[str]:
    """The devices to measure: the CPU always, unless only the GPU is asked for."""
    if wanted == "auto":
        # asked in another process: importing torch here would take memory and hold the GPU
        code = "import torch; print(torch.cuda.is_available())"
        return ["cpu", "cuda"] if run_measured([sys.executable, "-c", code])[0].strip() == "True" else ["cpu"]
    return [wanted]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with raw/ and annotations.csv")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000], metavar="N")
    parser.add_argument("--seconds", type=float, default=20, metavar="S", help="of a line (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of part threads (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: all that are here")
    parser.add_argument("--target", type=float, default=0.99, help="accuracy of part target (default: %(default)s)")
    parser.add_argument("--target-epochs", type=int, default=4, help="its epochs (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="train.KEY=VALUE")
    parser.add_argument("--plot", type=Path, default=ROOT / "bench/out/rate_and_memory.png", metavar="FILE")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start_logging()
    if arguments.job:
        print(json.dumps(asdict(train(Job(**json.loads(arguments.job))))))
        return
    if not arguments.data:
        parser.error("--data is needed")

    from bench.prepared import prepare, repeat

    section = load_params(Params, ROOT / "params.yaml", arguments.set).train
    devices = _devices(arguments.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(arguments.data / "raw", arguments.data / "annotations.csv", folder)
        sizes = sorted(arguments.images)
        sets = {count: repeat(prepared, count, folder / str(count)) for count in sizes}
        job = Job(
            prepared=str(sets[sizes[0]]),
            images=sizes[0],
            device="cpu",
            batch_size=section.batch_size,
            epochs=UNLIMITED,
            hyperparameters=section.model_dump(include=set(Hyperparameters.model_fields)),
            seed=section.seed,
            seconds=arguments.seconds,
        )
        largest = replace(job, prepared=str(sets[sizes[-1]]), images=sizes[-1], device="cuda")
        if "size" in arguments.parts:
            jobs = [
                replace(job, prepared=str(sets[count]), images=count, device=device)
                for device in devices
                for count in sizes
            ]
            plot(arguments.plot, jobs, compare_sizes(jobs))
            print(f"\nplot: {os.path.relpath(arguments.plot)}")
        if "threads" in arguments.parts and "cpu" in devices:
            compare_threads(replace(job, epochs=THREADS_EPOCHS, seconds=None), arguments.repeat)
        if "batch" in arguments.parts and "cuda" in devices:
            compare_batches(largest)
        if "target" in arguments.parts and "cuda" in devices:
            reach_target(replace(largest, epochs=arguments.target_epochs, seconds=None), arguments.target)
        if "cuda" not in devices:
            print("\nNo GPU is here: there are no figures for CUDA.")


if __name__ == "__main__":
    main()
