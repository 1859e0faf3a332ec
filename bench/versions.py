"""Time to write and to load the page of all versions, with a thousand versions.

python -m bench.versions [--registry DIR] [--versions N ...] [--images N] [--repeats N] [--shot FILE]

The versions are made up from the newest one of a real registry: its figures vary, one parameter changes with each, each
has one lot more, and three answers in a thousand are others. `--images` gives it so many test images, of which a
version keeps no more than `stages.common.inference.compared.ANSWERS` answers. The page is opened in Chromium by file://,
without a network; loaded means that the table is there and two versions stand side by side.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import table
from stages.archive.release import RECORD
from stages.archive.versions_page import write_versions
from stages.common.inference.compared import ANSWERS
from stages.common.registry.registry import Registry

if TYPE_CHECKING:
    from playwright.sync_api import Page

OTHERS = 0.003
"""Share of the answers in which each version differs from the real one."""


ACTS = {
    "sort": "#versions th:nth-child(5) button",
    "filter": "#words",
    "compare": "#first",
}
"""Action of a person -> the element that is clicked, or given another value."""
TIMED = """selector => {
    const element = document.querySelector(selector), start = performance.now();
    if (element.type === "button") element.click();
    else if (element.type === "search") element.value = element.value ? "" : "train.epochs=60";
    else element.selectedIndex = 1 + (element.selectedIndex + 7) % (element.length - 2);
    for (const kind of ["input", "change"]) element.dispatchEvent(new Event(kind));
    document.body.offsetHeight; // so that the layout counts
    return (performance.now() - start) / 1000;
}"""


def widen(record: dict[str, Any], images: int) -> None:
    """Give a record so many test images, or as many as a version keeps, by taking its own again and again."""
    answers, count = record["answers"], min(images, ANSWERS // len(record["attributes"]))
    times = -(-count // len(answers["pictures"]))
    digests = [f"{number:032x}" for number in range(count)]
    record["answers"] = {name: (values * times)[:count] for name, values in answers.items()} | {"pictures": digests}


def vary(record: dict[str, Any], number: int) -> dict[str, Any]:
    """The record of one more version."""
    chance = random.Random(number)  # noqa: S311 (not for cryptography)
    made: dict[str, Any] = json.loads(json.dumps(record))
    for attribute in made["attributes"]:
        attribute["accuracy"] = round(min(1, max(0, (attribute["accuracy"] or 0) + chance.gauss(0, 0.005))), 4)
    answers = made["answers"]["answers"]
    for _ in range(round(OTHERS * len(answers) * len(made["attributes"]))):
        image, column = chance.randrange(len(answers)), chance.randrange(len(made["attributes"]))
        answers[image][column] = chance.randrange(len(made["attributes"][column]["classes"]))
    made["params"]["train.seed"] = str(number)
    made["params"]["train.epochs"] = str(20 * chance.randrange(1, 9))
    made["curves"] = {name: [value and round(value * chance.uniform(0.9, 1.1), 4) if name != "epoch" else value
                             for value in values] for name, values in made["curves"].items()}  # fmt: skip
    made["by_lot"] |= {f"lot n{lot}": [20, round(chance.uniform(0.9, 1), 4)] for lot in range(min(number, 40))}
    return made


def make_registry(home: Path, source: Registry, count: int, images: int) -> Registry:
    """A registry of `count` versions like the newest one of `source`, without what DVC keeps."""
    real = source.versions()[-1]
    record = json.loads(source.text(real.name, RECORD))
    if images:
        widen(record, images)
    registry = Registry(home)
    registry.repository.mkdir(parents=True)
    stream = []
    for number in range(1, count + 1):
        chance = random.Random(number)  # noqa: S311 (not for cryptography)
        text = json.dumps(vary(record, number), separators=(",", ":"))
        version = replace(
            real, name=f"v{number}", model_digest=f"{number:064x}", champion=f"v{number - 1}" if number > 1 else "",
            mean_accuracy=round(real.mean_accuracy + chance.gauss(0, 0.003), 4), fit=number % 3 > 0,
            lots=[*real.lots, *(f"n{lot}" for lot in range(number))],
        )  # fmt: skip
        message = json.dumps(asdict(version))
        stream.append(
            f"blob\nmark :1\ndata {len(text)}\n{text}\ncommit refs/heads/main\nmark :2\ncommitter a <a@b> 0 +0000\n"
            f"data 1\nx\nM 100644 :1 {RECORD}\n\ntag v{number}\nfrom :2\ntagger a <a@b> 0 +0000\n"
            f"data {len(message.encode())}\n{message}\n"
        )
    for command, given in ((["init", "--quiet", "--bare"], ""), (["fast-import", "--quiet"], "".join(stream))):
        subprocess.run(["git", *command], cwd=registry.repository, input=given, text=True, check=True)
    for number in range(1, count + 1, 40):
        registry.promote(f"v{number}", "made up")
    return registry


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median over repetitions."""
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def in_browser(page: "Page", file: Path, repeats: int) -> dict[str, float]:
    """Seconds until the page is there, until it is sorted, filtered, and until two others stand side by side."""
    found = {}

    def load() -> None:
        page.goto(file.as_uri())
        page.locator("#page:not([hidden])").wait_for()

    found["load"] = seconds(load, repeats)
    for name, act in ACTS.items():
        found[name] = statistics.median(page.evaluate(TIMED, act) for _ in range(repeats))
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path("artifacts/registry"), help="default: %(default)s")
    parser.add_argument("--versions", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--images", type=int, default=0, help="test images; default: those of the real version")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shot", type=Path, help="keep a picture of the largest page")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    source, rows = Registry(arguments.registry), []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for count in arguments.versions:
            registry = make_registry(Path(folder, str(count)), source, count, arguments.images)
            runs = Path(folder, "none")
            took = seconds(lambda: write_versions(registry, runs), 1)  # noqa: B023 (called at once)
            file = write_versions(registry, runs)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            found = in_browser(page, file, arguments.repeats)
            if arguments.shot:
                page.screenshot(path=arguments.shot, full_page=True)
            page.close()
            size = file.stat().st_size / 1e6
            rows.append([f"{count:,}", f"{took:.1f}", f"{size:.1f}", *(f"{value:.2f}" for value in found.values())])
        browser.close()
    print(table(["versions", "write, s", "page, MB", "load, s", "sort, s", "filter, s", "two others, s"], rows))


if __name__ == "__main__":
    main()
