"""Rates of false alarms of drift in stage monitor, and of drift that it finds.

python -m bench.drift --data FOLDER [--recipe NAME] [--only NAME=FILE ...] [--seed N] [--set SECTION.KEY=VALUE ...]

FOLDER holds raw/, and annotations.csv or annotations/. The pipeline's own stages train a small model on 40 % of its
images; the others are held out, by whole groups. For each check, 250 of the held-out images are drawn as reference, and
others as lots. Shifts are applied to decoded raw images, before preprocessing. Lots of a new drawing style are sample
avatars of `data.make_samples`, alone or mixed with faces. --only draws lots only from images whose names FILE lists,
one per line, such as photographs of men.
"""

import argparse
import contextlib
import csv
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from bench.machine import table
from bench.prepared import arguments_of, files_of, prepare
from stages.common.contract.command_line import main as run_stage
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.logs import start_logging
from stages.common.contract.params import load_params
from stages.common.contract.stage import Stage
from stages.common.contract.version import ROOT
from stages.common.images.decode import decode, read_image_file
from stages.common.images.preprocess import crop, fit_square
from stages.common.inference.features import Features, join_features
from stages.common.inference.observation import observe
from stages.common.inference.onnx_model import OnnxModel, load
from stages.common.schema.annotations import GROUP, annotation_rows
from stages.common.schema.attributes import read_attributes
from stages.hyperopt.stage import STAGE as HYPEROPT
from stages.monitor.drift import ALL, FOUND, Drift, find_drift
from stages.monitor.params import Params
from stages.prepare_train.stage import STAGE as PREPARE_TRAIN
from stages.train.stage import STAGE as TRAIN
from stages.validate.stage import STAGE as VALIDATE

LEARNED = 0.4  # of the images; the model's own validation images are among them
REFERENCE = 250
SIZES = (100, 250)  # images of a lot
CLEAN, SHIFTED = 200, 50  # checks
EPOCHS = 30

Shift = Callable[[Image.Image], Image.Image]


def _jpeg(quality: int) -> Shift:
    def shift(image: Image.Image) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content).convert("RGB")

    return shift


def _night(image: Image.Image) -> Image.Image:
    """A third of the light, more of it blue, and the noise of a sensor."""
    dark = np.asarray(image, np.float32) * np.array([0.3, 0.3, 0.45], np.float32)
    noise = np.random.default_rng(0).normal(0, 8, dark.shape)
    return Image.fromarray((dark + noise).clip(0, 255).astype(np.uint8))


SHIFTS: Mapping[str, Mapping[str, Shift]] = {
    "brightness": {
        f"x {factor}": lambda image, factor=factor: ImageEnhance.Brightness(image).enhance(factor)  # type: ignore[misc]
        for factor in (0.95, 0.9, 0.8, 0.6)
    },
    "blur": {
        f"radius {radius} px": lambda image, radius=radius: image.filter(ImageFilter.GaussianBlur(radius))  # type: ignore[misc]
        for radius in (0.5, 1, 2)
    },
    "JPEG": {f"quality {quality}": _jpeg(quality) for quality in (90, 50, 30, 20)},
    "night": {"dark, blue, noisy": _night},
    "cut off": {"lowest quarter": lambda image: image.crop((0, 0, image.width, 3 * image.height // 4))},
}
STYLE = (0.1, 0.25, 0.5, 1.0)  # share of avatars in a lot


def accepted_images(data: Path, recipe: str) -> list[dict[str, str]]:
    """Images that stage validate accepts: filename, path below raw/, group, a column per attribute (empty: unknown).

    Of several images with the same name, only one is used, because labels are written by name.
    """
    with tempfile.TemporaryDirectory() as name:
        prepare(data, Path(name), recipe)
        validated = Path(name, "validate")
        columns = {attribute.column: attribute.name for attribute in read_attributes(validated)}
        columns |= {column: column for column in ("filename", "path", GROUP)}
        rows = [{column: row[name] for column, name in columns.items()} for row in annotation_rows(validated)]
    return list({row["filename"]: row for row in rows}.values())


def train(data: Path, rows: Sequence[Mapping[str, str]], folder: Path, recipe: str) -> OnnxModel:
    """A small model of some of the images, made by the stages themselves; if a stage fails, the program ends."""
    with (folder / "annotations.csv").open("w", encoding="utf-8", newline="") as file:
        annotations = csv.DictWriter(file, [column for column in rows[0] if column != "path"], extrasaction="ignore")
        annotations.writeheader()
        annotations.writerows(rows)
    out = {name: str(folder / name) for name in ("validate", "prepare_train", "hyperopt", "train")}
    prepared, searched = ["--prepare_train", out["prepare_train"]], ["--hyperopt", out["hyperopt"]]
    params = arguments_of(recipe)
    raw = ["--raw", str(data / "raw")]
    labels = ["--annotations", str(folder / "annotations.csv")]
    search = ["--set", "hyperopt.max_evals=1", "--set", "hyperopt.epochs=1"]
    epochs = ["--set", f"train.epochs={EPOCHS}", "--set", "train.use_hyperopt=false"]
    calls: Sequence[tuple[Stage[Any], list[str]]] = (
        (VALIDATE, [*raw, *labels]),
        (PREPARE_TRAIN, [*raw, "--validate", out["validate"]]),
        (HYPEROPT, [*prepared, *search]),
        (TRAIN, [*prepared, *searched, *epochs]),
    )
    with contextlib.redirect_stdout(sys.stderr):  # a bench prints its figures and nothing else
        for stage, arguments in calls:
            if code := run_stage(stage, [*arguments, *params, "--out", out[stage.name]]):
                sys.exit(code)
    return load(folder / "train" / "model.onnx")


def look(model: OnnxModel, paths: Sequence[Path], shift: Shift | None = None) -> Features:
    """Features of images that are shifted before they are preprocessed."""
    images = []
    for path in paths:
        picture = decode(read_image_file(path, model.preprocessing), model.preprocessing)
        if shift:
            changed = shift(Image.fromarray(picture).convert("RGB"))
            picture = np.array(changed.convert("RGBA"))  # as `decode` gives it
        images.append(fit_square(crop(picture, model.preprocessing), model.preprocessing))
    return observe(model, [path.name for path in paths], np.stack(images).__getitem__, 256)


def sample_avatars(folder: Path, seed: int) -> Path:
    """A data folder of 500 of them, below `folder`."""
    command = [sys.executable, "-m", "data.make_samples", "--out", folder / "samples", "--count", "500", "--seed", seed]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=sys.stderr)
    return folder / "samples"


def main() -> None:
    """Train, draw, shift, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/ and annotations")
    parser.add_argument("--recipe", default="none", metavar="NAME", help="default: none, params.yaml")
    parser.add_argument("--only", action="append", default=[], metavar="NAME=FILE", help="lots of these images alone")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    start_logging()
    settings = load_params(Params, PARAMS, arguments.set, files_of(arguments.recipe)).monitor
    random = np.random.default_rng(arguments.seed)
    rows = accepted_images(arguments.data, arguments.recipe)
    groups, members = np.unique([row[GROUP] for row in rows], return_inverse=True)
    learns = random.random(len(groups)) < LEARNED
    learned, held = np.flatnonzero(learns[members]), random.permutation(np.flatnonzero(~learns[members]))
    paths = [arguments.data / "raw" / rows[at]["path"] for at in held]
    chosen_alone = {
        name: set(Path(file).read_text().split())
        for name, _, file in (argument.partition("=") for argument in arguments.only)
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train(arguments.data, [rows[at] for at in learned], folder, arguments.recipe)
        clean = look(model, paths)
        shifted = {
            (kind, strength): look(model, paths, shift)
            for kind, strengths in SHIFTS.items()
            for strength, shift in strengths.items()
        }
        # not the default seed: else the data may be the very avatars
        avatars = look(model, sorted((sample_avatars(folder, arguments.seed + 1) / "raw").rglob("*.png")))

    def draw(size: int, lots: int = 1, among: npt.NDArray[np.bool_] | None = None) -> Iterator[npt.NDArray[np.intp]]:
        """Positions of the reference, and of each lot, no image twice; `among`: which a lot may have."""
        mixed = random.permutation(len(clean))
        yield mixed[:REFERENCE]
        rest = mixed[REFERENCE:] if among is None else mixed[REFERENCE:][among[mixed[REFERENCE:]]]
        for number in range(lots):
            yield rest[number * size : (number + 1) * size]

    def compare(reference: npt.NDArray[np.intp], *lots: Features) -> Drift:
        return find_drift(
            model.attributes, clean.take(reference), {f"s{number}": lot for number, lot in enumerate(lots, 1)}, settings
        )

    print(
        f"{len(learned)} images to learn from, {len(held)} held back, {REFERENCE} of them as reference; alpha "
        f"{settings.alpha:g}, min_psi {settings.min_psi:g}\n"
    )
    started = time.monotonic()
    lines = []
    for lots, size in ((1, 100), (1, 250), (5, 50)):
        verdicts, smallest = [], []
        for _ in range(CLEAN):
            reference, *chosen = draw(size, lots)
            drift = compare(reference, *(clean.take(lot) for lot in chosen))
            verdicts.append(drift.verdict == FOUND)
            smallest.append(min(test.p_corrected for test in drift.tests if test.p_corrected is not None))
        significant = [float(np.mean(np.array(smallest) <= level)) for level in (0.01, 0.05)]
        lines.append(
            (f"{lots} x {size}", CLEAN, f"{np.mean(verdicts):.1%}", *(f"{share:.1%}" for share in significant))
        )
    print(table(("clean lots", "checks", "false alarms", "p <= .01", "p <= .05"), lines), "\n")
    seconds = (time.monotonic() - started) / len(lines) / CLEAN

    lines = []
    labels = {column: np.array([rows[at][column] for at in held]) for column in rows[0]}
    cases: list[tuple[str, str, Callable[[int], Drift | None]]] = []
    for (kind, strength), features in shifted.items():

        def one_shift(size: int, features: Features = features) -> Drift:
            reference, lot = draw(size)
            return compare(reference, features.take(lot))

        cases.append((kind, strength, one_shift))
    for share in STYLE:

        def one_style(size: int, share: float = share) -> Drift:
            reference, lot = draw(size)
            count = round(share * size)
            new = avatars.take(random.permutation(len(avatars))[:count])
            return compare(reference, join_features([clean.take(lot[count:]), new]))

        cases.append(("drawing style", f"{share:.0%} avatars", one_style))
    within: list[tuple[str, str, npt.NDArray[np.bool_]]] = []
    for attribute in model.attributes:  # as if the last class of each had never come
        there = labels[attribute.column] == str(len(attribute.classes) - 1)
        if there.any():
            within.append(
                (
                    "class missing",
                    f"{attribute.title.lower()} {attribute.classes[-1]} ({there.mean():.0%} then)",
                    ~there,
                )
            )
    for title, files in chosen_alone.items():
        among = np.array([path.name in files for path in paths])
        within.append(("only", f"{title} ({among.mean():.0%} then)", among))
    for kind, strength, among in within:

        def one_choice(size: int, among: npt.NDArray[np.bool_] = among) -> Drift | None:
            reference, lot = draw(size, among=among)
            return compare(reference, clean.take(lot)) if len(lot) == size else None

        cases.append((kind, strength, one_choice))
    for kind, strength, check in cases:
        cells = []
        named: dict[str, int] = {}
        for size in SIZES:
            results = [found for _ in range(SHIFTED) if (found := check(size))]
            enough = len(results) == SHIFTED
            cells.append(f"{np.mean([found.verdict == FOUND for found in results]):.0%}" if enough else "too few")
            for found in results:
                if found.verdict == FOUND:
                    named[found.tests[0].signal] = named.get(found.tests[0].signal, 0) + 1
        strongest = max(named, key=lambda signal: named[signal]) if named else ""
        lines.append((kind, strength, *cells, strongest))
    print(table(("shift", "strength", *(f"{size} images" for size in SIZES), "mostly by"), lines), "\n")

    alone, diluted = [], []
    features = shifted["brightness", "x 0.9"]
    for _ in range(SHIFTED):
        reference, *chosen = draw(50, 5)
        drift = compare(reference, features.take(chosen[0]), *(clean.take(lot) for lot in chosen[1:]))
        alone.append(list(drift.concerned) == ["s1"])
        diluted.append(drift.lots[ALL] == FOUND)
    print(
        f"1 of 5 lots of 50 darker (x 0.9): that lot alone is named in {np.mean(alone):.0%}, drift of all lots "
        f"together is found in {np.mean(diluted):.0%} of {SHIFTED} checks. {1000 * seconds:.0f} ms a check."
    )


if __name__ == "__main__":
    main()
