"""Time and memory of a validation of many annotation rows, and the size of its pages.

python -m bench.validate_annotations [--rows 100000] [--repeat 3] [--attributes 40]

Two files are made: `good`, all rows right, and `bad`, every row rejected for every attribute with long hostile cells.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import TextIO

from stages.common.schema.attributes import Attributes
from stages.validate.attributes_file import DEFAULT, read_attributes_file

WRONG = ("<script>alert(1)</script>" * 3, "=cmd()|{number}", "9999", "7777", "0.5")


def write_header(file: TextIO, attributes: Attributes) -> None:
    """The names of the columns."""
    file.write(",".join(["filename", *(attribute.column for attribute in attributes)]) + "\n")


def write_good(path: Path, attributes: Attributes, rows: int) -> None:
    """Right labels at random, seeded; empty where another label makes them unknown."""
    draw = random.Random(1).choice  # noqa: S311 (not for cryptography)
    with path.open("w") as file:
        write_header(file, attributes)
        for number in range(rows):
            labels = {attribute.name: draw(attribute.classes) for attribute in attributes}
            cells = [
                "" if any(labels[other] == name for other, name in attribute.unknown_when.items())
                else str(attribute.classes.index(labels[attribute.name]))
                for attribute in attributes
            ]  # fmt: skip
            file.write(f"s{number % 20}_{number:06}.png,{','.join(cells)}\n")


def write_bad(path: Path, attributes: Attributes, rows: int) -> None:
    """Rows that all fail."""
    cells = ",".join(islice(cycle(WRONG), len(attributes)))
    with path.open("w") as file:
        write_header(file, attributes)
        for number in range(rows):
            file.write(f"../s{number}.png,{cells.format(number=number)}\n")


def measure(annotations: Path, attributes: Path, out: Path) -> tuple[float, float, float]:
    """Seconds, peak memory in MB and HTML in MB of one validation."""
    started = time.monotonic()
    command = [sys.executable, "-m", "stages.validate", str(annotations), "--out", str(out)]
    command += ["--attributes", str(attributes)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    pages = sum(path.stat().st_size for path in out.parent.rglob("*.html"))
    return seconds, usage.ru_maxrss / 1024, pages / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--attributes", type=int, help="so many of two classes (default: those of data/attributes.yaml)"
    )
    arguments = parser.parse_args()
    print(f"{'rows':<6} {'seconds (median of ' + str(arguments.repeat) + ')':>22} {'peak MB':>8} {'HTML MB':>8}")
    for name, write in (("good", write_good), ("bad", write_bad)):
        with tempfile.TemporaryDirectory() as folder:
            annotations, asked = Path(folder, f"{name}.csv"), DEFAULT
            if arguments.attributes:
                asked = Path(folder, DEFAULT.name)
                names = (f"a{number}" for number in range(arguments.attributes))
                asked.write_text("".join(f'- {{name: {attribute}, classes: ["no", "yes"]}}\n' for attribute in names))
            write(annotations, read_attributes_file(asked).attributes, arguments.rows)
            found = [measure(annotations, asked, Path(folder, f"out{n}", "look")) for n in range(arguments.repeat)]
            seconds, memory, pages = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{name:<6} {seconds:>22.1f} {memory:>8.0f} {pages:>8.2f}")


if __name__ == "__main__":
    main()
