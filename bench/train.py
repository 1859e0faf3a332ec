"""Rate and memory of training, by the number of images and processes, and on a GPU by the batch size.

    python -m bench.train (--data FOLDER | --prepared FOLDER) [--images N ...] [--passes N] [--repeat N]
                          [--parts PART ...] [--attributes N] [--device auto|cpu|cuda] [--recipe NAME]
                          [--set SECTION.KEY=VALUE ...] [--plot FILE]

FOLDER holds raw/ and annotations.csv, which are validated and prepared as in the pipeline; or it is an artifact of
stage prepare_train. Its images are repeated on disk up to the wanted number of training images; the validation images
are other pictures. With --attributes, they get N attributes of two classes with random labels instead, for the cost of
N heads. Every line of a table is a separate program that trains as stage train does, with section train of params.yaml
except for the epochs:

    size     rate and memory against the number of images: as many whole epochs as make N passes of images, at least
             one; on a CPU in one process and in as many as the stage would take
    threads  on a CPU, the same epochs with one thread, with all, and in several processes, in turns; medians
    compile  the recipe as it is and with `train.compile`, in turns; medians, and from how many images on compiling pays
    batch    on a GPU, rate by images a step: every step a CUDA graph, every kernel launched by itself, or images read
             ahead from the disk; and seconds and accuracy of the recipe on the images that there are, once each
    target   on a GPU, seconds to train the largest number of images, and the accuracy that it gives

A rate is also given as a multiple of that of `bench.baseline`, a common training step, measured in the same call. The
first epoch of several is a warm-up and does not count in the rate, nor does validation. Memory is that of the whole
program with its libraries and mapped files: RSS is the sum of the peaks of its processes; in PSS, shared memory counts
once (and too little, while another program uses the same PyTorch); `start` is RSS before the training; `GPU` is the
memory that PyTorch allocated there. Set TMPDIR to a disk with 12 kB per image (a tmpfs would count as memory).
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

from bench.machine import Memory, peak_memory, run_measured, table
from bench.prepared import files_of, fit_as_stage_train, made_up, prepare, repeat
from stages.common.contract.cpus import available_cpus
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import load_params
from stages.common.contract.version import ROOT
from stages.common.schema.attributes import read_attributes
from stages.common.schema.dataset import read_index
from stages.train.params import Params, TrainSection

if TYPE_CHECKING:
    from stages.common.training.fit import Epoch

PARTS = ("size", "threads", "compile", "batch", "target")
PASSES = {"cpu": 30_000, "cuda": 300_000}
BATCHES = (64, 128, 256, 1024, 4096)
BATCH_EPOCHS = 3
WAYS = ("one CUDA graph", "kernel by kernel", "read ahead")
THREADS_EPOCHS = 9
IMAGE_BYTES = 64 * 64 * 3
COLORS = {"cpu": "#4269d0", "cuda": "#ff725c"}


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        prepared: result of `repeat`.
        images: number of training images.
        params: of stage train; section `train` has device, processes, batch_size, epochs, hyperparameters.
        way: of `WAYS`; on a CPU all are the same.
    """

    prepared: str
    images: int
    params: Params
    way: str = WAYS[0]

    @property
    def section(self) -> TrainSection:
        """Section `train`."""
        return self.params.train

    def vary(self, **changed: Any) -> "Job":
        """The same with other parameters."""
        section = self.section.model_copy(update=changed)
        return replace(self, params=self.params.model_copy(update={"train": section}))


@dataclass(frozen=True)
class Found:
    """Result of a training.

    Attributes:
        rate: training images a second.
        epochs: number of epochs.
        seconds: with validation and warm-up, without imports of the first process.
        accuracy: mean over attributes, of validation images.
        start_mb: memory of the process before it trained, which is Python and PyTorch (2**20 bytes).
        gpu_mb: peak of what PyTorch allocated on the GPU, None where that is not known.
        device: `cpu` or the GPU's name.
        processes: number of processes that shared every batch.
    """

    rate: float
    epochs: int
    seconds: float
    accuracy: float
    start_mb: float
    gpu_mb: float | None
    device: str
    processes: int


def rate_of(history: Sequence["Epoch"]) -> float:
    """Training images a second, of the epochs after the first if there are any."""
    return statistics.harmonic_mean([epoch.images_per_s for epoch in history[1:] or history])


def train(job: Job) -> Found:
    """Do a job, in its program."""
    import torch

    from stages.common.training import loader, step

    if job.way == "read ahead":
        loader.RESIDENT_SHARE = 0
    elif job.way == "kernel by kernel":
        step.Step._graph = lambda *_: None  # type: ignore[method-assign]
    started, start_mb = time.monotonic(), peak_memory(os.getpid())
    result, processes = fit_as_stage_train(Path(job.prepared), job.params)
    alone_on_gpu = result.device != "cpu" and processes == 1
    return Found(
        rate=rate_of(result.history),
        epochs=len(result.history),
        seconds=time.monotonic() - started,
        accuracy=result.history[-1].val_mean_accuracy,
        start_mb=start_mb,
        gpu_mb=torch.cuda.max_memory_allocated() / 2**20 if alone_on_gpu else None,
        device=result.device,
        processes=processes,
    )


def measure(job: Job, environment: Mapping[str, str] | None = None) -> tuple[Found, Memory]:
    """Do a job in a separate program."""
    told = json.dumps(asdict(job) | {"params": job.params.model_dump()})
    output, memory = run_measured([sys.executable, "-m", "bench.train", "--job", told], environment)
    found = Found(**json.loads(output.splitlines()[-1]))
    way = "" if found.device == "cpu" else f", {job.way}"
    log.info(
        "%d images on %s, %d a step, %d process(es)%s: %.0f images/s, %d epochs in %.0f s, %.0f MB",
        job.images, found.device, job.section.batch_size, found.processes, way,
        found.rate, found.epochs, found.seconds, memory.proportional,
    )  # fmt: skip
    return found, memory


def measure_baseline(prepared: str, device: str) -> float:
    """Images a second of `bench.baseline` with heads for the attributes of these data."""
    classes = [str(len(attribute.classes)) for attribute in read_attributes(Path(prepared))]
    command = [sys.executable, "-m", "bench.baseline", "--device", device, "--classes", *classes]
    rate = float(run_measured(command)[0])
    log.info("the baseline on %s: %.0f images/s", device, rate)
    return rate


def compare_sizes(jobs: Sequence[Job]) -> tuple[list[tuple[Found, Memory]], dict[str, float]]:
    """Print the table of part `size`; return the results, and the rate of the baseline on every device."""
    devices: set[str] = {job.section.device for job in jobs}
    baselines = {device: measure_baseline(jobs[0].prepared, device) for device in devices}
    results = [measure(job) for job in jobs]
    rows = [
        (
            found.device, found.processes, f"{job.images:,}", job.section.batch_size, found.epochs,
            f"{found.rate:,.0f}", f"{found.rate / baselines[job.section.device]:.1f}", f"{found.start_mb:,.0f}",
            f"{memory.resident:,.0f}", f"{memory.proportional:,.0f}", _whole(found.gpu_mb),
        )
        for job, (found, memory) in zip(jobs, results, strict=True)
    ]  # fmt: skip
    print("\nRate and memory against the number of images (MB)\n")
    header = ("device", "processes", "images", "batch", "epochs", "images/s", "x baseline")
    print(table((*header, "start", "RSS", "PSS", "GPU"), rows))
    for device, rate in baselines.items():
        print(f"\nThe baseline, a common training step (bench/baseline.py), on {device}: {rate:,.0f} images/s.")
    return results, baselines


def compare_threads(job: Job, turns: int) -> None:
    """Print the table of part `threads`: the same work in several ways, which take turns."""
    ways: dict[tuple[int, int], list[tuple[Found, Memory]]] = {}  # (processes, threads of each) -> what they gave
    cores = available_cpus()
    baselines = []
    for _ in range(turns):
        baselines.append(measure_baseline(job.prepared, "cpu"))
        for processes, threads in dict.fromkeys([(1, 1), (1, cores), (max(2, cores), 1)]):
            environment = {"OMP_NUM_THREADS": str(processes * threads)}  # which the processes share
            measured = measure(job.vary(processes=processes), environment)
            ways.setdefault((processes, threads), []).append(measured)
    rows = []
    for (processes, threads), results in ways.items():
        rates = [found.rate for found, _ in results]
        rows.append(
            (
                processes, threads, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{statistics.median(rates) / statistics.median(baselines):.1f}",
                f"{statistics.median(memory.proportional for _, memory in results):,.0f}",
                f"{statistics.median(found.accuracy for found, _ in results):.4f}",
            )
        )  # fmt: skip
    print(f"\nOn the CPU: {job.images:,} images, {job.section.epochs} epochs, medians of {turns} in turns\n")
    print(table(("processes", "threads each", "images/s", "range", "x baseline", "PSS MB", "accuracy"), rows))
    told = f"{statistics.median(baselines):,.0f} images/s ({min(baselines):,.0f} to {max(baselines):,.0f})"
    print(f"\nThe baseline, a common training step (bench/baseline.py), with all threads: {told}.")


def compare_compiled(job: Job, turns: int) -> None:
    """Print the table of part `compile`: the same training in two ways, which take turns."""
    ways: dict[bool, list[Found]] = {False: [], True: []}
    for _ in range(turns):
        for compiled, results in ways.items():
            results.append(measure(job.vary(compile=compiled))[0])
    rows = []
    for compiled, results in ways.items():
        rate, seconds, accuracy = (
            statistics.median(getattr(result, name) for result in results) for name in ("rate", "seconds", "accuracy")
        )
        rows.append(("compiled" if compiled else "as it is", f"{rate:,.0f}", f"{seconds:.1f}", f"{accuracy:.4f}"))
    first = ways[True][0]
    passes = job.images * job.section.epochs
    print(f"\nCompiled: {first.device}, {first.processes} process(es), {job.images:,} images, "
          f"{job.section.epochs} epochs, medians of {turns} in turns\n")  # fmt: skip
    print(table(("a step", "images/s", "seconds", "accuracy"), rows))
    slow, fast = (statistics.median(result.rate for result in results) for results in ways.values())
    spent = statistics.median(
        compiled.seconds - other.seconds + passes / slow - passes / fast
        for other, compiled in zip(ways[False], ways[True], strict=True)
    )
    pays = f"it pays from {spent / (1 / slow - 1 / fast):,.0f} image passes on" if fast > slow else "it never pays"
    print(f"\nCompiling takes {spent:.0f} s: {pays}.")


def compare_batches(job: Job, whole: Job) -> None:
    """Print the table of part `batch`.

    Args:
        job: the job to vary.
        whole: the recipe, on images that are used once per epoch.
    """
    rows, megabytes = [], []
    device = ""
    for way in WAYS:
        results = [measure(replace(job.vary(batch_size=batch_size), way=way)) for batch_size in BATCHES]
        (found, _) = measure(replace(whole, way=way))
        device = found.device
        rates = [f"{result.rate:,.0f}" for result, _ in results]
        rows.append((way, *rates, f"{found.seconds:.1f} s, {found.accuracy:.4f}"))
        megabytes.append((way, *(_whole(result.gpu_mb) for result, _ in results), _whole(found.gpu_mb)))
    header = (
        *map(str, BATCHES),
        f"{whole.section.epochs} epochs of {whole.images:,}, {whole.section.batch_size} a step",
    )
    print(f"\n{device}, {job.images:,} images: images/s by images a step; seconds and accuracy of the recipe\n")
    print(table(("", *header), rows))
    print("\nMB allocated on the GPU at most\n")
    print(table(("", *header), megabytes))


def reach_target(job: Job, target: float) -> None:
    """Print the table of part `target`: a whole learning-rate cycle for every batch size."""
    rows = []
    for batch_size in BATCHES:
        found, _ = measure(job.vary(batch_size=batch_size))
        reached = "yes" if found.accuracy >= target else "no"
        rows.append((batch_size, found.epochs, f"{found.seconds:.1f}", f"{found.accuracy:.4f}", reached))
    print(f"\n{found.device}, {job.images:,} images to a mean accuracy of {target:g}\n")
    print(table(("batch", "epochs", "seconds", "accuracy", "reached"), rows))


def plot(
    path: Path, jobs: Sequence[Job], results: Sequence[tuple[Found, Memory]], baselines: Mapping[str, float]
) -> None:
    """Rate and, below, memory against the number of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    rates, memories = figure.subplots(2, 1, sharex=True)
    lines: dict[tuple[str, int], list[tuple[int, Found, Memory]]] = {}
    for job, (found, memory) in zip(jobs, results, strict=True):
        lines.setdefault((job.section.device, found.processes), []).append((job.images, found, memory))
    for (device, processes), points in lines.items():
        images = [count for count, _, _ in points]
        name = points[0][1].device if device == "cuda" else "CPU"
        name += f", {processes} processes" if processes > 1 else ""
        style = {"color": COLORS[device], "marker": "o", "linestyle": "-" if processes == 1 else "--"}
        rates.plot(images, [found.rate for _, found, _ in points], label=name, **style)
        memories.plot(images, [memory.proportional for _, _, memory in points], label=name, **style)
        if all(found.gpu_mb is not None for _, found, _ in points):
            on_gpu = [found.gpu_mb or 0 for _, found, _ in points]
            memories.plot(images, on_gpu, ".:", color=COLORS[device], label=f"{name}, allocated on it")
    counts = sorted({job.images for job in jobs})
    memories.plot(counts, [IMAGE_BYTES * count / 2**20 for count in counts], ":", color="#999", label="images on disk")
    start = statistics.median(found.start_mb for found, _ in results)
    memories.axhline(start, color="#999", linestyle="--", linewidth=1, label="one process before it trains")
    for device, rate in baselines.items():
        rates.axhline(rate, color=COLORS[device], linestyle=":", label=f"a common step on {device}: {rate:,.0f}")
    if any(device == "cuda" for device, _ in lines):
        rates.set_yscale("log")
    else:
        rates.set_ylim(bottom=0)
    rates.yaxis.set_major_formatter("{x:,.0f}")
    rates.set_ylabel("training images/s")
    rates.set_title("Rate", loc="left", fontsize=11, fontweight="bold")
    memories.set_ylim(bottom=0)
    memories.yaxis.set_major_formatter("{x:,.0f}")
    memories.set_ylabel("peak memory (PSS), MB")
    memories.set_title("Memory", loc="left", fontsize=11, fontweight="bold")
    memories.set_xlabel("training images of 64x64")
    memories.set_xscale("log")
    memories.set_xticks(counts, [f"{count:,}" for count in counts])
    memories.minorticks_off()
    for axes in (rates, memories):
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"\nplot: {os.path.relpath(path)}")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _devices(wanted: str) -> list[str]:
    """The devices to measure."""
    if wanted != "auto":
        return [wanted]
    # asked in another process: with torch here, the measured ones would share its libraries
    output, _ = run_measured([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"])
    return ["cpu", "cuda"] if output.strip() == "True" else ["cpu"]


def _run(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure the requested parts."""
    params = load_params(Params, PARAMS, arguments.set, files_of(arguments.recipe))
    section = params.train
    devices = _devices(arguments.device)
    prepared = arguments.prepared or prepare(arguments.data, folder, arguments.recipe)
    attributes = made_up(arguments.attributes)
    sets = {count: repeat(prepared, count, folder / str(count), attributes) for count in sorted(set(arguments.images))}

    def job(images: int, device: str, epochs: int, processes: int = section.processes) -> Job:
        return Job(str(sets[images]), images, params).vary(device=device, epochs=epochs, processes=processes)

    if "size" in arguments.parts:
        jobs = []
        for device in devices:
            several = device == "cpu" and available_cpus() > 1 and section.processes != 1
            for processes in [1, section.processes] if several else [section.processes]:
                for images in sets:
                    passes = arguments.passes or PASSES[device]
                    jobs.append(job(images, device, max(1, passes // images), processes))
        plot(arguments.plot, jobs, *compare_sizes(jobs))
    if "threads" in arguments.parts and "cpu" in devices:
        compare_threads(job(min(sets), "cpu", THREADS_EPOCHS), arguments.repeat)
    if "compile" in arguments.parts:
        for device in devices:
            compare_compiled(
                job(min(sets), device, THREADS_EPOCHS if device == "cpu" else section.epochs), arguments.repeat
            )
    if "cuda" not in devices:
        print("\nNo GPU is here: there are no figures for CUDA.")
        return
    most = max(sets)
    if "batch" in arguments.parts:
        once = sum(row["split"] == "train" for row in read_index(prepared))
        sets[once] = sets.get(once) or repeat(prepared, once, folder / str(once), attributes)
        compare_batches(job(most, "cuda", BATCH_EPOCHS), job(once, "cuda", section.epochs))
    if "target" in arguments.parts:
        reach_target(job(most, "cuda", arguments.target_epochs), arguments.target)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with raw/ and annotations.csv")
    parser.add_argument("--prepared", type=Path, help="artifact of stage prepare_train, in place of --data")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000], metavar="N")
    parser.add_argument("--attributes", type=int, default=0, metavar="N", help="made up (default: those of the data)")
    parser.add_argument("--passes", type=int, help=f"images times epochs of a line of part size (default: {PASSES})")
    parser.add_argument("--repeat", type=int, default=3, help="turns of part threads (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: all that are here")
    parser.add_argument("--target", type=float, default=0.99, help="accuracy of part target (default: %(default)s)")
    parser.add_argument("--target-epochs", type=int, default=4, help="its epochs (default: %(default)s)")
    parser.add_argument("--recipe", default="none", metavar="NAME", help="default: params.yaml as it is")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--plot", type=Path, default=ROOT / "bench/out/rate_and_memory.png", metavar="FILE")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        told = json.loads(arguments.job)
        print(json.dumps(asdict(train(Job(**told | {"params": Params.model_validate(told["params"])})))))
        return
    if (arguments.data is None) == (arguments.prepared is None):
        parser.error("either --data or --prepared is needed")
    start_logging()
    with tempfile.TemporaryDirectory() as folder:
        _run(arguments, Path(folder))


if __name__ == "__main__":
    main()
