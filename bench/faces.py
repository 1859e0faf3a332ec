"""Quality and cost of face detection, with faces at any place in a larger picture.

    python -m bench.faces [--data FOLDER] [--images N] [--seed N] [--repeat N] [--workers N] [--cpu]

FOLDER holds pictures of one face each. Pictures in which exactly one face is found are put on a ground of soft colours:
anywhere, turned, beside another face, or partly beyond the edge. The figures are the shares of scenes with the right
number of faces, with the right largest face (the boxes share half of their common area), and with a reported cut. Then
shards are made of the files with and without the crop, in turns. With --cpu, seconds are CPU seconds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.decoders import SETTINGS, copies, cpu_seconds, print_rates, rates_in_turns
from bench.machine import table
from stages.common.contract import artifacts
from stages.common.contract.cpus import available_cpus
from stages.common.contract.version import ROOT
from stages.common.images.decode import ImageError, as_image, decode, read_image_file
from stages.common.images.faces import find_faces, take_face
from stages.common.images.settings import FaceCrop, Preprocessing
from stages.common.images.sources import find_source
from stages.common.workers.lot_cache import make_pieces
from stages.common.workers.pool import WorkerPool
from stages.prepare_train.shards import recipe_of

Box = npt.NDArray[np.float64]
SAME = 0.5
"""Least ratio of intersection and union of two boxes of the same face."""


class Case(NamedTuple):
    """A picture, the box of its face, the picture of another face, and a random generator."""

    picture: Image.Image
    box: Box
    other: Image.Image
    chance: np.random.Generator

    def ground(self, times: float = 2) -> Image.Image:
        """Soft colours, 8 x 8 patches that flow into each other, of `times` the picture's sides."""
        colors = Image.fromarray(self.chance.integers(0, 256, (8, 8, 3), np.uint8))
        return colors.resize([round(times * side) for side in self.picture.size], Image.Resampling.BICUBIC)

    def below(self, end: int) -> int:
        """Any number from 0 to `end`."""
        return int(self.chance.integers(end + 1))

    def put(self, ground: Image.Image, left: int, top: int) -> Box:
        """Put the picture there: the box of its face."""
        ground.paste(self.picture, (left, top))
        moved: Box = self.box + np.array([left, top, left, top])
        return moved


Scene = tuple[Image.Image, Box, int]
"""A picture, the box of its largest face, and how many it shows."""


def anywhere(case: Case, times: float) -> Scene:
    """The picture somewhere on a ground of `times` its sides."""
    ground = case.ground(times)
    width, height = case.picture.size
    return ground, case.put(ground, case.below(ground.width - width), case.below(ground.height - height)), 1


def turned(case: Case, degrees: float) -> Scene:
    """The picture turned to the left or to the right around the middle of the face."""
    ground = case.ground()
    box = case.put(ground, case.picture.width // 2, case.picture.height // 2)
    by = degrees * (-1) ** case.below(1)
    return ground.rotate(by, Image.Resampling.BICUBIC, center=(box[::2].mean(), box[1::2].mean())), box, 1


def beside(case: Case) -> Scene:
    """The picture beside that of another face, which has two thirds of its size."""
    ground, (width, height) = case.ground(), case.picture.size
    other = case.other.resize((width * 2 // 3, height * 2 // 3))
    ground.paste(other, (ground.width - other.width, case.below(height)))
    return ground, case.put(ground, 0, case.below(height)), 2


def cut(case: Case, share: float) -> Scene:
    """The picture at the left edge, which cuts off `share` of the width of the face."""
    ground, box = case.ground(), case.box
    there = case.put(ground, -round(box[0] + share * (box[2] - box[0])), case.below(case.picture.height))
    return ground, np.maximum(there, 0), 1


WAYS: dict[str, Callable[[Case], Scene]] = {
    "on 2 times its sides": partial(anywhere, times=2),
    "on 4 times its sides": partial(anywhere, times=4),
    "on 8 times its sides": partial(anywhere, times=8),
    "turned by 20 degrees": partial(turned, degrees=20),
    "turned by 45 degrees": partial(turned, degrees=45),
    "beside another": beside,
    "a quarter cut off": partial(cut, share=0.25),
    "half cut off": partial(cut, share=0.5),
}


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    both = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0))
    return float(both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both))


def score(scenes: Iterable[Scene]) -> list[str]:
    """The cells of a row: shares of scenes with the right number of faces, with the right face, reported as cut."""
    marks = []
    for scene, box, faces in scenes:
        picture = np.asarray(scene.convert("RGBA"))
        found = find_faces(picture)
        right = len(found) > 0 and overlap(np.maximum(found[0], 0), box) >= SAME
        try:
            take_face(picture, FaceCrop(none="whole", edge="reject"))
        except ImageError:
            told = True
        else:
            told = False
        marks.append((len(found) == faces, right, told))
    return [f"{share:.3f}" for share in np.mean(marks, axis=0)]


def detection(paths: list[Path], seed: int) -> None:
    """Print the quality of the detection."""
    pictures = [as_image(decode(read_image_file(path, SETTINGS), SETTINGS)) for path in paths]
    found = [find_faces(np.asarray(picture.convert("RGBA"))) for picture in pictures]
    counts = [len(boxes) for boxes in found]
    shares = [f"{sum(number == wanted for number in counts) / len(counts):.4f}" for wanted in (0, 1)]
    print(f"{len(paths)} pictures as they are: no face in {shares[0]}, one in {shares[1]}, else several\n")
    if 1 not in counts:
        return
    single = [(picture, boxes[0]) for picture, boxes in zip(pictures, found, strict=True) if len(boxes) == 1]
    rows = []
    for name, way in WAYS.items():
        chance = np.random.default_rng(seed)
        cases = (Case(*face, single[at - 1][0], chance) for at, face in enumerate(single))
        rows.append([name, *score(map(way, cases))])
    print(table(["the picture", "right number", "right face", "told as cut"], rows))


def rates(paths: list[Path], workers: int, repeat: int, folder: Path, clock: Callable[[], float]) -> None:
    """Print the rates, by `clock`, of making shards with and without face detection."""
    sources = [find_source(path.name, path, artifacts.file_digest) for path in paths]
    turns = count()
    with WorkerPool(workers, "--workers") as pool:

        def shards(crop: str) -> None:
            told = SETTINGS.model_dump() | {"image_size": 64, "crop": crop, "face": {"none": "whole"}}
            recipe = recipe_of(Preprocessing.model_validate(told))
            make_pieces(recipe, {folder / str(next(turns)): sources}, pool)

        ways = {f"shards, crop {crop}": partial(shards, crop) for crop in ("whole", "face")}
        print_rates(rates_in_turns(ways, len(paths), repeat, clock), ["shards, crop face"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data/raw", help="folder of pictures (default: the samples)"
    )
    parser.add_argument("--images", type=int, default=500, help="how many of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the places and grounds (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="processes (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="rates by CPU seconds, on a busy machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        paths = copies(arguments.data, arguments.images, Path(place) / "raw")
        detection(paths, arguments.seed)
        print()
        clock = cpu_seconds if arguments.cpu else time.perf_counter
        rates(paths, arguments.workers, arguments.repeat, Path(place), clock)


if __name__ == "__main__":
    main()
