"""Rates of the service and its search, on loopback, with an existing load generator (ab, Debian's apache2-utils).

    python -m bench.serve [--model DIR] [--data FOLDER] [--requests N] [--predictions N] [--parts index service]
                          [--peer PYTHON] [--long N]

index    an index of N made-up predictions: seconds to make it, memory, and the time of queries, the slowest last
service  DIR, an artifact of train, is released and served; an image of FOLDER, as a PNG of 256 x 256, is sent one at a
         time and 64 at once; stage predict answers the same file under other names right before, so the rates are
         comparable; --peer does the same with bench.serve_peer in PYTHON, a virtual environment with BentoML and
         images/serve/requirements.txt; --long sends N further requests, and prints the memory ten times meanwhile
"""

import argparse
import csv
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]
from PIL import Image

from bench.machine import Memory, peak_memory, run_measured, table
from bench.predict import whole_stage
from bench.predictions import ATTRIBUTES, make_predictions
from images.serve.search_index import ABSTAINED, Index
from stages.common.contract.artifacts import file_digest
from stages.common.contract.cpus import available_cpus
from stages.common.contract.version import ROOT
from stages.common.registry.registry import Registry, Version, now

LOTS = 20
WIDTH = 64
"""Of the embeddings: four times the width of the network."""
REPEATED = 5
START_S = 60
AT_ONCE = 64
SIDE = 256
LONG_PARTS = 10


# ---- the index ----


def timed(work: Callable[[], Any]) -> tuple[str, str, str]:
    """Median and highest of some times by the clock, and median CPU time, which other work changes less; all in ms."""
    clock, cores = [], []
    for _ in range(REPEATED):
        started, before = time.perf_counter(), time.process_time()
        work()
        clock.append(1000 * (time.perf_counter() - started))
        cores.append(1000 * (time.process_time() - before))
    return f"{median(clock):.1f}", f"{max(clock):.1f}", f"{median(cores):.1f}"


MAKE = """
import resource, sys, time
from pathlib import Path
from images.serve.search_index import build
build(Path(sys.argv[1]), None, Path(sys.argv[2]))
of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(usage.ru_utime + usage.ru_stime for usage in of))
"""


def made(artifact: Path, folder: Path) -> tuple[float, float, Memory]:
    """Make the index in a new process, as the service does: seconds by the clock and of the cores, and peak memory."""
    started = time.perf_counter()
    cpu, memory = run_measured([sys.executable, "-c", MAKE, str(artifact), str(folder)])
    return time.perf_counter() - started, float(cpu), memory


def queries() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Title and words of each query."""
    first, second = ATTRIBUTES[0], ATTRIBUTES[3]
    yield "nothing chosen", []
    yield "one class", [(first.name, first.classes[0])]
    yield "two classes, sure, one lot", [
        (first.name, first.classes[0]), (second.name, second.classes[1]), ("min_confidence", "0.9"), ("lot", "l0"),
    ]  # fmt: skip
    yield "nothing chosen, least sure first", [("sort", "confidence")]
    yield "the last page of the surest", [("sort", "-confidence"), ("page", "last")]
    everything = [(attribute.name, value) for attribute in ATTRIBUTES for value in (*attribute.classes, ABSTAINED)]
    yield "every class of every attribute, sure from .3, unsure first", [
        *everything, ("min_confidence", "0.3"), ("sort", "confidence"), ("answered", "no"),
    ]  # fmt: skip


def asked(folder: Path) -> tuple[list[list[str]], float]:
    """Ask an index: a row for each query, and the peak memory of the process in MB."""
    rows = [["open", *timed(lambda: Index(folder))]]
    index = Index(folder)

    def ask(words: list[tuple[str, str]]) -> dict[str, Any]:
        return index.search(index.parse(words))

    for name, words in queries():
        plain = [word for word in words if word != ("page", "last")]
        if plain != words:
            plain.append(("page", str(ask(plain)["pages"])))
        rows.append([name, *timed(partial(ask, plain))])
    position = index.position(ask([])["rows"][0]["id"])
    assert position is not None  # noqa: S101
    likest = timed(lambda: index.similar(position, index.parse([]), 24))
    rows.append([f"24 most alike, of {WIDTH} numbers an image", *likest])
    return rows, peak_memory(os.getpid())


def measure_index(predictions: int) -> None:
    """Print time and memory of an index of so many predictions."""
    lots = {f"l{number}": predictions // LOTS for number in range(LOTS)}
    with tempfile.TemporaryDirectory() as place:
        artifact = make_predictions(Path(place, "store"), lots, width=WIDTH)
        folder = Path(place, "index")
        folder.mkdir()
        spawn = multiprocessing.get_context("spawn")  # a process that is forked starts with the memory of this one
        seconds, cpu, memory = made(artifact, folder)
        with ProcessPoolExecutor(1, spawn) as process:
            rows, asking = process.submit(asked, folder).result()
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        images = sum(lots.values())
        print(f"{images:,} predictions of {len(ATTRIBUTES)} attributes in {LOTS} lots")
        print(f"made in {seconds:.1f} s, {cpu:.1f} s of all cores")
        making = f"{memory.proportional:.0f} (each by itself: {memory.resident:.0f})"
        print(f"memory of all processes, MB: making {making}, asking {asking:.0f}; files {size:.0f}\n")
        print(table(["query", f"ms, median of {REPEATED}", "highest", "of a core, median"], rows))


# ---- the service ----


def release(model: Path, home: Path) -> None:
    """Register and promote a model."""
    content = home / "content"
    for folder in ("model", "reference"):
        (content / folder).mkdir(parents=True)
    shutil.copy(model / "model.onnx", content / "model")
    (content / "reference" / "none.json").write_text("{}", encoding="utf-8")
    registry = Registry(home / "registry")
    digest = file_digest(model / "model.onnx")
    version = Version("v1", digest, "0" * 64, 1.0, "", "v1", fit=True, reasons=["measured"], lots=[], created=now())
    with registry.locked():
        registry.register(content, version)
        registry.promote("v1", "to be measured")


@contextmanager
def served(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The service on what is in `home`."""
    environment = {
        "SERVE_ARTIFACTS": home,
        "SERVE_RAW": home / "raw",
        "SERVE_INDEX": home / "index",
        "SERVE_PORT": port,
    }
    with _started([sys.executable, "-m", "images.serve"], environment, port, "ready") as process:
        yield process


@contextmanager
def peer_served(python: Path, model: Path, workers: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The peer on a model, in as many processes as there are workers."""
    environment = {"PEER_MODEL": model, "PEER_WORKERS": workers, "PYTHONPATH": ROOT, "BENTOML_DO_NOT_TRACK": True}
    command = [python, "-m", "bentoml", "serve", "bench.serve_peer:Peer", "--port", port, "--host", "127.0.0.1"]
    with _started([*map(str, command)], environment, port, "readyz") as process:
        yield process


@contextmanager
def _started(
    command: list[str], environment: dict[str, Any], port: int, ready: str
) -> Iterator[subprocess.Popen[bytes]]:
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=sys.stderr)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{ready}") as answer:
                    answer.read()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait()


def load(url: str, image: Path, requests: int, at_once: int) -> dict[str, float]:
    """Requests a second, p50 and p99 in ms, by ab, which sends so many requests with an image as the body."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as told:
        command = ["ab", "-q", "-k", "-l", "-n", str(requests), "-c", str(at_once), "-p", str(image)]
        command += ["-T", "image/png", "-e", told.name, url]
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        times = {row[0]: row[1] for row in csv.reader(Path(told.name).read_text(encoding="utf-8").splitlines())}
    figures = dict(line.split(":", 1) for line in done.splitlines() if ":" in line)
    failed = int(figures["Failed requests"].split()[0]) + int(figures.get("Non-2xx responses", "0"))
    if failed:
        raise RuntimeError(f"{failed} of {requests} requests failed")
    return {
        "rate": float(figures["Requests per second"].split()[0]),
        "p50": float(times["50"]),
        "p99": float(times["99"]),
    }


def measure_service(
    model: Path, image: Path, requests: int, repeat: int, workers: int, port: int, peer: Path | None, many: int
) -> None:
    """Print the rates of the service, and of stage predict on the same image."""
    with tempfile.TemporaryDirectory() as place:
        home, data = Path(place, "home"), Path(place, "data")
        for folder in (home / "raw", data):
            folder.mkdir(parents=True)
        with Image.open(image) as picture:
            picture.convert("RGB").resize((SIDE, SIDE)).save(data / "a.png")
        image = data / "a.png"
        release(model, home)
        url = f"http://127.0.0.1:{port}"
        rows: list[list[str]] = []
        for turn in range(repeat):
            folder = Path(place, f"stage-{turn}")
            folder.mkdir()
            stage = float(whole_stage(model / "model.onnx", data, requests, workers, folder)[4].replace(",", ""))
            rows.append(["stage predict", "", "", f"{stage:,.0f}", "1", ""])
            with served(home, port) as process:
                rows.append(["service", *_row(f"{url}/predict", image, requests, stage), _memory(process)])
            if peer:
                with peer_served(peer, model / "model.onnx", workers, port) as process:
                    rows.append(["peer", *_row(f"{url}/answer", image, requests, stage), _memory(process)])
        header = [
            "",
            "one at a time: p50 ms",
            "p99 ms",
            f"{AT_ONCE} at once: images/s",
            "of stage predict",
            "memory, MB",
        ]
        print(f"a PNG of {SIDE} x {SIDE}, {requests:,} requests each, {workers} cores, a turn after the other\n")
        print(table(header, rows))
        if many:
            with served(home, port) as process:
                memory = []
                for _ in range(LONG_PARTS):
                    load(f"{url}/predict", image, many // LONG_PARTS, AT_ONCE)
                    memory.append(_memory(process))
            print(f"\n{many:,} requests, memory in MB after each {many // LONG_PARTS:,}: {', '.join(memory)}")


def _row(url: str, image: Path, requests: int, stage: float) -> list[str]:
    load(url, image, min(requests, 500), AT_ONCE)
    alone = load(url, image, requests, 1)
    rate = load(url, image, 4 * requests, AT_ONCE)["rate"]
    return [f"{alone['p50']:.1f}", f"{alone['p99']:.1f}", f"{rate:,.0f}", f"{rate / stage:.2f}"]


def _memory(process: subprocess.Popen[bytes]) -> str:
    """MB of a process and its children, shares of what they share."""
    of = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    return f"{sum(_proportional(pid) for pid in of):.0f}"


def _proportional(pid: int) -> float:
    told = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return int(told.split("\nPss:")[1].split()[0]) / 1024


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="DIR", help="artifact of train")
    parser.add_argument("--data", type=Path, default=ROOT / "data/raw", help="folder of images (default: the samples)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of the service (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=2000, help="of each kind (default: %(default)s)")
    parser.add_argument("--predictions", type=int, default=1_000_000, help="in the index (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="of stage predict (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8097, help="of the service (default: %(default)s)")
    parser.add_argument("--peer", type=Path, metavar="PYTHON", help="of the peer's environment")
    parser.add_argument("--long", type=int, default=0, metavar="N", help="requests that tell whether memory grows")
    parser.add_argument("--parts", nargs="+", choices=["index", "service"], default=["index", "service"])
    arguments = parser.parse_args()
    image: Path | None = None
    if "service" in arguments.parts:
        if not arguments.model:
            parser.error("the part service needs --model")
        image = min(arguments.data.rglob("*.png"), default=None)
        if not image:
            parser.error(f"--data: there is no .png in {arguments.data}")
        if not shutil.which("ab"):
            parser.error("there is no ab: scripts/apt-install apache2-utils")
    if "index" in arguments.parts:
        measure_index(arguments.predictions)
    if image:
        told = (arguments.requests, arguments.repeat, arguments.workers, arguments.port, arguments.peer, arguments.long)
        measure_service(arguments.model, image, *told)


if __name__ == "__main__":
    main()
