"""Which split an image is in, by the command lines of validate and prepare_train: what moves it, and what must not."""

import csv
import hashlib
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from data.make_samples import make_samples
from stages.common.contract.command_line import main

pytestmark = pytest.mark.slow


def stage(name: str, *arguments: object) -> None:
    assert main(import_module(f"stages.{name}.stage").STAGE, [*map(str, arguments)]) == 0


def prepare(folder: Path, *overrides: str) -> tuple[list[dict[str, str]], Path]:
    """Validate and prepare `folder` into its store, and read the index."""
    images = [word for item in overrides if item.startswith("images.") for word in ("--set", item)]
    others = [word for item in overrides if not item.startswith("images.") for word in ("--set", item)]
    validated, prepared = folder / "validate", folder / "prepared"
    annotations = folder / "annotations.csv"
    stage("validate", "--raw", folder / "raw", "--annotations", annotations, "--out", validated, *images)
    stage("prepare_train", "--raw", folder / "raw", "--validate", validated, "--out", prepared, *images, *others)
    with (prepared / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file)), prepared


def as_jpeg(folder: Path, *, side: int = 0, keep: bool = False) -> None:
    """Save every picture as JPEG of quality 95, enlarged to `side`, in place of the PNG or beside it."""
    for file in sorted((folder / "raw").rglob("*.png")):
        with Image.open(file) as image:
            picture = image.convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        name = file.with_name(f"{file.stem}.jpg") if not keep else file.with_name(f"{file.stem}j.jpg")
        (white.resize((side, side)) if side else white).save(name, quality=95)
        if not keep:
            file.unlink()
    table = (folder / "annotations.csv").read_text()
    header, *rows = table.splitlines()
    jpegs = [row.replace(".png", "j.jpg" if keep else ".jpg") for row in rows]
    (folder / "annotations.csv").write_text("\n".join([header, *(rows if keep else []), *jpegs]) + "\n")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    make_samples(tmp_path, 150, 2)
    return tmp_path


def test_a_picture_saved_as_png_and_as_jpeg_is_never_learned_from_and_judged_by(samples: Path) -> None:
    as_jpeg(samples, keep=True)
    rows, prepared = prepare(samples, "prepare_train.split_deviations=100")
    split = {row["filename"]: row["split"] for row in rows}
    pairs = [(name, f"{name.removesuffix('.png')}j.jpg") for name in split if name.endswith(".png")]
    both = [(split[one], split[other]) for one, other in pairs if other in split]
    assert len(both) > 80
    assert all(one == other for one, other in both)
    assert {"train", "val", "test"} == set(split.values())
    left_out = (prepared / "left_out.csv").read_text().splitlines()[1:]
    assert len(left_out) == 300 - len(rows) > 20
    assert all("nearly the same picture as" in line for line in left_out)


def test_neither_size_nor_crop_move_a_jpeg_into_another_split(samples: Path) -> None:
    as_jpeg(samples, side=500)
    splits = [
        {row["filename"]: row["split"] for row in prepare(samples, *overrides)[0]}
        for overrides in (
            ("data.image_size=64",),
            ("data.image_size=96",),
            ("data.image_size=64", "images.near_white=250"),
            ("data.image_size=64", "data.crop=squeeze", "data.grey=true"),
        )
    ]
    assert splits[0] == splits[1] == splits[2] == splits[3]


def test_annotations_know_each_image_by_its_file_and_by_its_picture(samples: Path) -> None:
    (samples / "raw" / "s1" / "s1_copy.png").write_bytes((samples / "raw" / "s1" / "s1_00000.png").read_bytes())
    table = samples / "annotations.csv"
    first = table.read_text().splitlines()[1]
    table.write_text(table.read_text() + first.replace("s1_00000", "s1_copy") + "\n")
    rows, _ = prepare(samples)
    with (samples / "validate" / "annotations.csv").open(newline="") as file:
        known = {row["filename"]: row for row in csv.DictReader(file)}
    for row in known.values():
        assert row["digest"] == hashlib.sha256((samples / "raw" / row["path"]).read_bytes()).hexdigest()
    assert {row["filename"]: (row["pixels"], row["group"]) for row in rows}.items() <= {
        name: (row["pixels"], row["group"]) for name, row in known.items()
    }.items()
    assert known["s1_copy.png"]["pixels"] == known["s1_00000.png"]["pixels"]
    assert len({row["pixels"] for row in known.values()}) == 150
