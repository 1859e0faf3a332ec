"""How long a validation of many annotation rows takes, how much memory, and how large its pages are.

python -m bench.validate_annotations [--rows 100000] [--repeat 3]

Two files are made: `good`, all rows right, and `bad`, every row rejected for five reasons with long hostile cells.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stages.validate.attributes_file import DEFAULT, read_attributes_file
from stages.validate.forms.part import flat_columns

ATTRIBUTES = read_attributes_file(DEFAULT).attributes
HEADER = ",".join(flat_columns(ATTRIBUTES)) + "\n"
HOSTILE = ("<script>alert(1)</script>" * 3, "=cmd()|1", "9", "7", "0.5")


def write_good(path: Path, rows: int) -> None:
    """Right labels at random, seeded, but for those that another label leaves unknown."""
    draw = random.Random(1).randrange  # noqa: S311 (not for cryptography)
    with path.open("w") as file:
        file.write(HEADER)
        for number in range(rows):
            drawn = {one.name: one.classes[draw(len(one.classes))] for one in ATTRIBUTES}
            cells = (
                ""
                if any(drawn[other] == label for other, label in one.unknown_when.items())
                else str(one.classes.index(drawn[one.name]))
                for one in ATTRIBUTES
            )
            file.write(f"s{number % 20}_{number:06}.png,{','.join(cells)}\n")


def write_bad(path: Path, rows: int) -> None:
    """Rows that all fail."""
    with path.open("w") as file:
        file.write(HEADER)
        for number in range(rows):
            cells = (HOSTILE[at % len(HOSTILE)] for at in range(len(ATTRIBUTES)))
            file.write(f"../s{number}.png,{','.join(cells)}\n")


def measure(annotations: Path, out: Path) -> tuple[float, float, float]:
    """Seconds, peak memory in MB and HTML in MB of one validation."""
    started = time.monotonic()
    command = [sys.executable, "-m", "stages.validate", str(annotations), "--out", str(out)]
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
    arguments = parser.parse_args()
    print(f"{'rows':<6} {'seconds (median of ' + str(arguments.repeat) + ')':>22} {'peak MB':>8} {'HTML MB':>8}")
    for name, write in (("good", write_good), ("bad", write_bad)):
        with tempfile.TemporaryDirectory() as folder:
            annotations = Path(folder, f"{name}.csv")
            write(annotations, arguments.rows)
            found = [measure(annotations, Path(folder, f"out{n}", "look")) for n in range(arguments.repeat)]
            seconds, memory, pages = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{name:<6} {seconds:>22.1f} {memory:>8.0f} {pages:>8.2f}")


if __name__ == "__main__":
    main()
