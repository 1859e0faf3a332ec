"""Draw the sample data set: labelled avatars by python-avatars, rasterised with resvg.

    python -m data.make_samples --out data

writes `raw/s<k>/s<k>_<number>.png` (RGBA, 160 x 170 pixels, most of them on a transparent background) and, last, the
flat `annotations.csv`. A picture depends on the seed and its own name only, so a larger set contains the smaller one.
2,000 pictures take about 15 seconds on 2 cores.

With `--styles` the same avatars are annotated with other attributes: top, eyes, clothes and skin. Then a file
`attributes.yaml` lies beside the annotations: a data set that has no attribute in common with the samples.
"""

import argparse
import csv
import ctypes
import io
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import python_avatars as pa
import resvg_py
import yaml

from stages.common.contract.artifacts import locked, publish
from stages.common.contract.errors import DataError, ExitCode, StageError, UsageError

WIDTH = 160
"""Pixels; python-avatars draws on 264 x 280 units, so pictures are 170 pixels high."""

# The tables below were decided by looking at contact sheets: every top in silver and in red, each with a beard or a
# mustache and glasses; every facial hair with four mouths; every shade on light and on dark skin.

TOPS: Mapping[str, Sequence[str]] = {
    "bald": ["NONE"],
    "short": [
        "BUZZCUT", "CAESAR", "CAESAR_SIDE_PART", "ELVIS", "FRIZZLE", "PIXIE", "POMPADOUR", "QUIFF", "SHAGGY",
        "SHORT_CURLY", "SHORT_DREADS_1", "SHORT_FLAT", "SHORT_ROUND", "SHORT_WAVED",
    ],
    "long": [
        "BIG_HAIR", "BOB", "BRAIDS", "BUN", "CORNROWS", "CURLY", "CURVY", "DREADLOCKS", "DREADS", "FRO", "FRO_BAND",
        "LONG_NOT_TOO_LONG", "MIA_WALLACE", "STRAIGHT_1", "STRAIGHT_STRAND", "TWIST_LONG_HAIR", "TWIST_LONG_HAIR_2",
        "WICK", "WILD",
    ],
}  # fmt: skip
"""Hair length -> tops. Hair that ends below the ears or is tied up counts as long.

Left out: ASTRONAUT, BRIDE, FRIDA, HAT and every HatType hide hair; SHAVED_SIDES and STRAIGHT_2 have a fixed colour;
CURLY_2, LONG_HAIR_CURLY and LOOSE_HAIR have no place for facial hair; EINSTEIN_HAIR, EVIL_SPIKE, HALF_SHAVED, MOHAWK,
MOWGLI, SHAGGY_MULLET, SHORT_DREADS_2 and SIDES lie between two classes.
"""

FACIAL_HAIR: Mapping[tuple[str, str], Sequence[str]] = {
    ("no", "no"): ["NONE"],
    ("no", "yes"): ["EINSTEIN_MOUSTACHE", "MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM"],
    ("yes", "yes"): ["BEARD_LIGHT", "BEARD_MAGESTIC", "BEARD_MEDIUM", "WICK_BEARD"],
}
"""(beard, mustache) -> facial hair. python-avatars draws no beard without a mustache."""

GLASSES: Mapping[str, Sequence[str]] = {
    "no": ["NONE"],
    "yes": [
        "KURT", "PRESCRIPTION_1", "PRESCRIPTION_2", "ROUND", "SUNGLASSES", "SUNGLASSES_2", "WAYFARERS", "WAYFARERS_2",
    ],
}  # fmt: skip
"""Glasses -> accessories; EYEPATCH is left out."""

SHADES: Mapping[str, Sequence[str]] = {
    "blond": ["#D6B370", "#E2C275", "#C89B4A"],
    "brown": ["#724133", "#6A4E35", "#5B3A29", "#8D5B3E"],
    "red": ["#C93305", "#D8562A", "#B0371B"],
    "dark": ["#2C1B18", "#1C1A1F", "#262830"],
    "gray": ["#E8E1E1", "#B9B9BE", "#8F9296", "#A7A29C"],
}
"""Hair colour -> shades, python-avatars' own first.

Left out of its palette: PASTEL_PINK; PLATINUM (blond or gray); AUBURN (red or brown); BLONDE (blond or brown);
BROWN_DARK (brown or dark).
"""

LENGTH_WEIGHTS: Mapping[str, float] = {"bald": 0.28, "short": 0.36, "long": 0.36}
FACIAL_WEIGHTS: Mapping[tuple[str, str], float] = {("no", "no"): 0.38, ("no", "yes"): 0.22, ("yes", "yes"): 0.40}

SAME_SHADE = 0.8
"""Share of faces with hair whose facial hair has its shade; the others teach that a beard is not the hair."""

MIN_CONTRAST = 45.0
"""Euclidean RGB distance (0-441) of hair from skin; on a closer skin a short cut cannot be told from a bald head."""

SKINS = [color.value for color in pa.SkinColor]
TRANSPARENT = 0.6
"""Share of pictures without a background."""
BACKGROUNDS = ["#FFFFFF", "#B1E2FF", "#A7FFC4", "#FFDEB5", "#FFFFB1", "#D9CCF2", "#65C9FF", "#E6E6E6", "#F2B8B5"]
EYES = [part.name for part in pa.EyeType]
EYEBROWS = [part.name for part in pa.EyebrowType]
NOSES = [part.name for part in pa.NoseType]
MOUTHS = [part.name for part in pa.MouthType if part.name != "VOMIT"]
CLOTHES = [part.name for part in pa.ClothingType if part.name != "NONE"]
FABRICS = [color.value for color in pa.ClothingColor]
GRAPHICS = [
    part.name for part in pa.ClothingGraphic if part.name != "CUSTOM_TEXT"
]  # its text depends on installed fonts

LABELS: Mapping[str, tuple[str, Sequence[str]]] = {
    "beard": ("beard", ["no", "yes"]),
    "mustache": ("mustache", ["no", "yes"]),
    "glasses": ("glasses_binary", list(GLASSES)),
    "hair_color": ("hair_color_label", list(SHADES)),
    "hair_length": ("hair_length", list(TOPS)),
}
"""Attribute -> its column and classes, as in `data/attributes.yaml`."""

STYLES: Mapping[str, tuple[str, Sequence[str]]] = {
    "top": ("top", [top for tops in TOPS.values() for top in tops]),
    "eyes": ("eyes", EYES),
    "clothes": ("clothing", CLOTHES),
    "skin": ("skin_color", [color.name for color in pa.SkinColor]),
}
"""Attribute of `--styles` -> the argument of `python_avatars.Avatar` for it, and the names of its values."""

T = TypeVar("T")


@dataclass(frozen=True)
class Face:
    """One avatar.

    Attributes:
        filename: name of the picture.
        labels: attribute of `LABELS` -> class name, None where it does not apply (the hair colour of a bald head).
        style: arguments of `python_avatars.Avatar`; parts by their names, colours as #RRGGBB.
        background: #RRGGBB, None for transparent.
    """

    filename: str
    labels: Mapping[str, str | None]
    style: Mapping[str, str]
    background: str | None


def contrast(one: str, other: str) -> float:
    """Euclidean distance of two #RRGGBB colours, 0 to 441."""
    return math.dist(bytes.fromhex(one[1:]), bytes.fromhex(other[1:]))


def draw_face(seed: int, filename: str) -> Face:
    """Choose all properties of one avatar; the same seed and name give the same avatar."""
    rng = random.Random(f"{seed}/{filename}")  # noqa: S311 (drawing faces, no secrets)

    def pick(values: Sequence[T], weights: Sequence[float] | None = None) -> T:
        return rng.choices(values, weights)[0]

    length = pick(list(LENGTH_WEIGHTS), list(LENGTH_WEIGHTS.values()))
    beard, mustache = pick(list(FACIAL_WEIGHTS), list(FACIAL_WEIGHTS.values()))
    glasses = pick(list(GLASSES))
    hair_color = pick(list(SHADES))
    shade = pick(SHADES[hair_color])
    facial_shade = pick(SHADES[pick(list(SHADES))])
    if length != "bald" and rng.random() < SAME_SHADE:
        facial_shade = shade
    shown = ([shade] if length != "bald" else []) + ([facial_shade] if mustache == "yes" else [])
    style = {
        "top": pick(TOPS[length]),
        "facial_hair": pick(FACIAL_HAIR[beard, mustache]),
        "accessory": pick(GLASSES[glasses]),
        "hair_color": shade,
        "facial_hair_color": facial_shade,
        "skin_color": pick([skin for skin in SKINS if all(contrast(skin, color) >= MIN_CONTRAST for color in shown)]),
        "eyes": pick(EYES),
        "eyebrows": pick(EYEBROWS),
        "nose": pick(NOSES),
        "mouth": pick(MOUTHS),
        "clothing": pick(CLOTHES),
        "clothing_color": pick(FABRICS),
        "shirt_graphic": pick(GRAPHICS),
    }
    labels = {
        "beard": beard,
        "mustache": mustache,
        "glasses": glasses,
        "hair_color": None if length == "bald" else hair_color,
        "hair_length": length,
    }
    return Face(filename, labels, style, None if rng.random() < TRANSPARENT else pick(BACKGROUNDS))


def render(face: Face) -> bytes:
    """The picture of a face as PNG: RGBA, `WIDTH` pixels wide."""
    kinds = {
        "top": pa.HairType, "facial_hair": pa.FacialHairType, "accessory": pa.AccessoryType, "eyes": pa.EyeType,
        "eyebrows": pa.EyebrowType, "nose": pa.NoseType, "mouth": pa.MouthType, "clothing": pa.ClothingType,
        "shirt_graphic": pa.ClothingGraphic,
    }  # fmt: skip
    parts = {name: kinds[name][value] if name in kinds else value for name, value in face.style.items()}
    svg = pa.Avatar(style=pa.AvatarStyle.TRANSPARENT, **parts).render()
    # System fonts are skipped (no part draws text): loading them takes longer than drawing.
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=WIDTH, background=face.background, skip_system_fonts=True))


def filenames(count: int, lots: int) -> list[str]:
    """Names of `count` pictures, spread evenly over the lots s1, s2, ..."""
    return [
        f"s{lot + 1}_{number:05d}.png"
        for lot in range(lots)
        for number in range(count // lots + (lot < count % lots))
    ]  # fmt: skip


def path_of(filename: str) -> Path:
    """Path of a picture below `raw`."""
    return Path(filename.partition("_")[0], filename)


def annotation_table(faces: Sequence[Face]) -> str:
    """The flat annotation CSV: class indices, empty where a label does not apply."""
    rows = []
    for face in faces:
        labels = [(classes, face.labels[name]) for name, (_, classes) in LABELS.items()]
        rows.append([face.filename, *("" if label is None else classes.index(label) for classes, label in labels)])
    return _as_csv(["filename", *(column for column, _ in LABELS.values())], rows)


def style_table(faces: Sequence[Face]) -> str:
    """The flat annotation CSV of `STYLES`: class names."""
    skins = {color.value: color.name for color in pa.SkinColor}
    rows = []
    for face in faces:
        values = (face.style[argument] for argument, _ in STYLES.values())
        rows.append([face.filename, *(_class_of(skins.get(value, value)) for value in values)])
    return _as_csv(["filename", *STYLES], rows)


def style_attributes() -> str:
    """The `attributes.yaml` of `STYLES`."""
    attributes = [{"name": name, "classes": [*map(_class_of, values)]} for name, (_, values) in STYLES.items()]
    return yaml.safe_dump(attributes, sort_keys=False)


def _class_of(name: str) -> str:
    return "bald" if name == "NONE" else name.lower()


def _as_csv(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _write_picture(raw: Path, seed: int, filename: str) -> None:
    (raw / path_of(filename)).write_bytes(render(draw_face(seed, filename)))


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to end this worker with its parent (prctl(2), PR_SET_PDEATHSIG = 1): a pool's workers do not."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _write_pictures(raw: Path, seed: int, names: Sequence[str]) -> None:
    for folder in {(raw / path_of(name)).parent for name in names}:
        folder.mkdir(parents=True)
    draw = partial(_write_picture, raw, seed)
    workers = min(len(os.sched_getaffinity(0)), math.ceil(len(names) / 100))  # fewer are drawn before a worker is up
    if workers == 1:
        for name in names:
            draw(name)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_die_with_parent, initargs=(os.getpid(),)
    ) as pool:
        for _ in pool.map(draw, names, chunksize=25):
            pass


def _refuse(what: Path, out: Path) -> DataError:
    return DataError(
        f"{what} is other data, which samples must not replace: move it away, or name another --out ({out})"
    )


def make_samples(out: Path, count: int = 2000, lots: int = 4, seed: int = 42, *, styles: bool = False) -> bool:
    """Draw the sample data set into the folder `out`, all of it or nothing; False when it lies there already.

    Args:
        out: gets `raw/` and `annotations.csv`; whatever else it holds stays.
        count: pictures.
        lots: folders that they are spread over.
        seed: another seed gives other faces.
        styles: annotate the styles, and write `attributes.yaml` too.

    Raises:
        DataError: `raw/`, `annotations.csv` or `attributes.yaml` exist with other content.
    """
    names = filenames(count, lots)
    faces = [draw_face(seed, name) for name in names]
    table = (style_table(faces) if styles else annotation_table(faces)).encode()
    attributes = out / "attributes.yaml"
    raw, annotations, half = out / "raw", out / "annotations.csv", out / ".partial-samples"
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock-samples", "another call is drawing the same samples"):
        present = {path.relative_to(raw) for path in raw.rglob("*") if path.is_symlink() or not path.is_dir()}
        if annotations.exists() and annotations.read_bytes() != table:
            raise _refuse(annotations, out)
        if styles and attributes.exists() and attributes.read_text(encoding="utf-8") != style_attributes():
            raise _refuse(attributes, out)
        if strange := sorted(present - {path_of(name) for name in names}):
            raise _refuse(raw / strange[0], out)
        if annotations.exists() and len(present) == count:
            return False
        shutil.rmtree(half, ignore_errors=True)  # of a killed run: nobody else holds the lock
        try:
            _write_pictures(half / "raw", seed, names)
            for path in sorted(present):
                if (raw / path).read_bytes() != (half / "raw" / path).read_bytes():
                    raise _refuse(raw / path, out)
            (half / "annotations.csv").write_bytes(table)
            publish(half / "raw", raw)
            if styles:
                attributes.write_text(style_attributes(), encoding="utf-8")
            (half / "annotations.csv").replace(annotations)  # last: a reader that sees it sees every picture
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.make_samples",
        description="Draw labelled avatars, so that the pipeline runs without any data of your own.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder that gets raw/ and annotations.csv")
    parser.add_argument("--count", type=int, default=2000, help="pictures")
    parser.add_argument("--lots", type=int, default=4, help="folders that they are spread over")
    parser.add_argument("--seed", type=int, default=42, help="another seed gives other faces")
    parser.add_argument("--styles", action="store_true", help="annotate top, eyes, clothes and skin instead")
    arguments = parser.parse_args(argv)
    try:
        if not 1 <= arguments.lots <= arguments.count <= 400_000:
            raise UsageError("--lots must be 1 or more, and --count at least as many and at most 400000")
        drawn = make_samples(arguments.out, arguments.count, arguments.lots, arguments.seed, styles=arguments.styles)
    except StageError as error:
        print(f"make_samples: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"make_samples: cannot write {error.filename or arguments.out}: {error.strerror}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    print(f"{arguments.count} samples {'drawn to' if drawn else 'lie already in'} {arguments.out / 'raw'}")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
