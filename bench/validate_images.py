"""Rate and memory of the inspection of images in `validate`, compared with the rate of only decoding them.

    python -m bench.validate_images [--data FOLDER] [--images N] [--repeat N] [--workers N]

The inspection takes turns with all decoders of `bench.decoders` on the same files. Compare the ratios: rates depend on
the machine at that moment. With one worker, seconds are CPU seconds, which other processes change less. N copies of
FOLDER's images lie in a temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.decoders import SETTINGS, Files, copies, decoders_for, in_pool, print_rates, rates_in_turns
from bench.machine import peak_memory
from stages.common.contract.cpus import available_cpus
from stages.common.contract.version import ROOT
from stages.common.workers.pool import WorkerPool
from stages.validate.look import look_at

LOOK = "validate's look"


def look(files: Files) -> int:
    """Inspect files as stage validate does."""
    return len(look_at((files, SETTINGS)))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/raw", help="folder of images (default: the samples)")
    parser.add_argument("--images", type=int, default=2000, help="images to compare with (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="processes (default: %(default)s)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = copies(arguments.data, arguments.memory_of or arguments.images, Path(folder))
        if arguments.memory_of:
            with WorkerPool(1, "--workers") as pool:
                in_pool(pool, look, files)
            print(f"{peak_memory(os.getpid()):.0f} MB at most after {len(files)} images, in one process")
            return
        print(f"{len(files)} images of {arguments.data}, {arguments.workers} processes, {arguments.repeat} turns")
        with WorkerPool(arguments.workers, "--workers") as pool:
            ways = {name: partial(in_pool, pool, way, files) for name, way in decoders_for(files).items()}
            ways[LOOK] = partial(in_pool, pool, look, files)
            clock = time.process_time if arguments.workers == 1 else time.perf_counter
            print_rates(rates_in_turns(ways, len(files), arguments.repeat, clock), [LOOK])
    for count in (arguments.images // 10, arguments.images):
        # a process of its own, for a peak never falls
        command = [sys.executable, "-m", "bench.validate_images", "--data", arguments.data, "--memory-of", str(count)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
