"""Rates at which two processes only read and decode image files: the baseline for the image stages.

Every way decodes a list of files and returns their number. Not every decoder can decode every file (kornia-rs does not
support palettes). Decoders that are not installed are left out: pyspng and imagecodecs do not belong to this project
(`pip install pyspng imagecodecs`).
"""

import contextlib
import importlib.util
import io
import itertools
import multiprocessing
import os
import shutil
import statistics
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.common.contract.artifacts import walk_files
from stages.common.images.decode import decode, read_image_file
from stages.common.images.settings import ImagesSection
from stages.common.workers.pool import WorkerPool

SETTINGS = ImagesSection(near_white=245, max_megapixels=50)
CHUNK = 32
"""Files per job, as in `validate`."""

Files = Sequence[Path]


def _each(files: Files, decoder: Callable[[bytes], Any]) -> int:
    for path in files:
        decoder(path.read_bytes())
    return len(files)


def by_pillow(files: Files) -> int:
    """To RGB."""
    return _each(files, lambda data: Image.open(io.BytesIO(data)).convert("RGB"))


def by_kornia(files: Files) -> int:
    """PNG without a palette, as it is."""
    from kornia_rs import io as kornia

    def decode(data: bytes) -> Any:
        width, height, _, color = struct.unpack_from(">IIBB", data, 16)
        return kornia.decode_image_png_u8(data, (height, width), {0: "mono", 2: "rgb", 6: "rgba"}[color])

    return _each(files, decode)


def by_simplejpeg(files: Files) -> int:
    """JPEG to RGB."""
    import simplejpeg

    return _each(files, simplejpeg.decode_jpeg)


def by_pyspng(files: Files) -> int:
    """PNG, as it is."""
    import pyspng

    return _each(files, pyspng.load)


def by_imagecodecs(files: Files) -> int:
    """By libspng or libjpeg-turbo, as it is."""
    import imagecodecs

    return _each(files, imagecodecs.jpeg8_decode if files[0].suffix != ".png" else imagecodecs.spng_decode)


def by_opencv(files: Files) -> int:
    """As it is, blue first."""
    import cv2

    cv2.setNumThreads(1)
    return _each(files, lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def by_torchvision(files: Files) -> int:
    """To RGB."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    torch.set_num_threads(1)
    return _each(
        files, lambda data: decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    )


def by_us(files: Files) -> int:
    """With all checks, on white."""
    for path in files:
        decode(read_image_file(path, SETTINGS), SETTINGS)
    return len(files)


DECODERS = {
    "Pillow": ("PIL", by_pillow),
    "kornia-rs": ("kornia_rs", by_kornia),
    "simplejpeg": ("simplejpeg", by_simplejpeg),
    "pyspng": ("pyspng", by_pyspng),
    "imagecodecs": ("imagecodecs", by_imagecodecs),
    "OpenCV": ("cv2", by_opencv),
    "torchvision": ("torchvision", by_torchvision),
}
OURS = "our decode"


def decoders_for(files: Files) -> dict[str, Callable[[Files], int]]:
    """Installed decoders that can decode these files, and ours."""
    ways: dict[str, Callable[[Files], int]] = {}
    for name, (module, way) in DECODERS.items():
        if importlib.util.find_spec(module):
            with contextlib.suppress(Exception):  # it cannot do such files
                way(files[:CHUNK])
                ways[name] = way
    return ways | {OURS: by_us}


def in_pool(pool: WorkerPool, way: Callable[[Files], Any], files: Files) -> None:
    """Process all files in the pool's processes."""
    for _ in pool.map(way, (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))):
        pass


def cpu_seconds() -> float:
    """CPU seconds of this process and its worker processes so far: a clock that other programs hardly change."""
    pids = [worker.pid for worker in multiprocessing.active_children() if worker.pid]
    # such numbers are what clock_getcpuclockid(3) returns, which Python lacks; psutil counts in hundredths
    return time.process_time() + sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def rates_in_turns(
    ways: Mapping[str, Callable[[], object]],
    images: int,
    repeat: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Images a second, by `clock`, of each way, which take turns; the first turn warms up and is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if turn:
                rates[name].append(images / (clock() - start))
    return rates


def print_rates(rates: Mapping[str, Sequence[float]], ours: Sequence[str]) -> None:
    """Print every way's median rate and, of `ours`, the median ratio to every other, of rates of the same turn."""
    print(f"{'':<22}{'images/s':>10}" + "".join(f"{name + ' / it':>24}" for name in ours))
    for name, values in rates.items():
        line = f"{name:<22}{statistics.median(values):>10.0f}"
        for decoder in ours:
            ratios = [own / other for own, other in zip(rates[decoder], values, strict=True)]
            line += (
                f"{statistics.median(ratios):>10.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                if decoder != name
                else ""
            )
        print(line)


def copies(folder: Path, count: int, into: Path, *, link: bool = False) -> list[Path]:
    """Copy (or link) the images of `folder` under other names until there are `count` of them, of one type.

    A hard link is another file to everybody who reads it, and takes no space.
    """
    sources = [folder / path for path in walk_files(folder) if path.suffix.lower() in {".png", ".jpg", ".jpeg"}]
    into.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, source in enumerate(itertools.islice(itertools.cycle(sources), count)):
        paths.append(into / f"{number:06d}{source.suffix}")
        if link:
            try:
                os.link(source, paths[-1])
                continue
            except OSError:  # another file system
                pass
        shutil.copyfile(source, paths[-1])
    return paths
