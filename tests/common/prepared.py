"""A prepared data set that a tiny network learns in seconds: every attribute is the brightness of its own pixels."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common.contract import artifacts
from stages.common.images.settings import Preprocessing
from stages.common.schema.attributes import Attributes, write_attributes
from stages.common.schema.dataset import INDEX, PREPROCESSING, index_columns
from stages.common.training.augmentation import Augmentation
from stages.common.training.hyperparameters import USED, Hyperparameters
from tests.common.samples import SAMPLE_ATTRIBUTES

SIDE = 20

USUAL = Augmentation(mirror=0.5, move=0.06, scale=0.08, turn=0, light=0.08, color=0, cut_out=0)
NONE = Augmentation(**dict.fromkeys(Augmentation.model_fields, 0))

TINY = Hyperparameters(
    learning_rate=0.02,
    muon_learning_rate=0.05,
    weight_decay=0.01,
    dropout=0.0,
    width=8,
    batch_size=16,
    loss_weights={},
)


def make_prepared(
    folder: Path,
    train: int = 96,
    val: int = 40,
    test: int = 0,
    change: Callable[[npt.NDArray[np.int64], npt.NDArray[np.str_]], object] = lambda _labels, _splits: None,
    attributes: Attributes = SAMPLE_ATTRIBUTES,
) -> Path:
    """Write what stage prepare_train would: two lots, a tenth of the labels unknown.

    Args:
        folder: the artifact to write.
        train: images of the train split.
        val: images of the validation split.
        test: images of the test split.
        change: changes the labels, (N, A), in place; it is also given the split of each image, (N,).
        attributes: A attributes.
    """
    random = np.random.default_rng(0)
    count = train + val + test
    splits = np.repeat(["train", "val", "test"], [train, val, test])
    labels = np.stack([random.integers(0, len(attribute.classes), count) for attribute in attributes], 1)
    images = random.integers(0, 30, (count, SIDE, SIDE, 3), np.uint8)
    parts = np.array_split(np.arange(SIDE**2), len(attributes))
    for column, (attribute, part) in enumerate(zip(attributes, parts, strict=True)):
        brightness = (220 * labels[:, column] // (len(attribute.classes) - 1)).astype(np.uint8)
        images.reshape(count, -1, 3)[:, part] += brightness[:, None, None]
    labels[random.random(labels.shape) < 0.1] = -1
    change(labels, splits)
    (folder / "shards").mkdir(parents=True)
    for number, lot in enumerate(("a", "b")):
        np.save(folder / "shards" / f"{lot}.npy", images[number::2])
    write_attributes(folder, attributes)
    with (folder / INDEX).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(index_columns(attributes))
        for row in range(count):
            known = ["" if label < 0 else label for label in labels[row]]
            table.writerow(
                [
                    f"{'ab'[row % 2]}_{row}.png",
                    "ab"[row % 2],
                    row // 2,
                    splits[row],
                    f"{row:032x}",
                    f"{row:032x}",
                    *known,
                ]
            )
    preprocessing = Preprocessing(image_size=SIDE, near_white=245, max_megapixels=50).model_dump()
    artifacts.write_json(folder / PREPROCESSING, preprocessing)
    return finish(folder, "prepare_train")


def make_searched(folder: Path, prepared: Path, best: Hyperparameters = TINY) -> Path:
    """Write what stage hyperopt would, as the result of a search on `prepared`."""
    folder.mkdir()
    artifacts.write_json(folder / "best_params.json", best.model_dump())
    manifest = json.loads((prepared / artifacts.MANIFEST).read_text())
    return finish(folder, "hyperopt", prepare_train={name: manifest[name] for name in ("key", "content")})


def make_trained(folder: Path, chosen: Hyperparameters = TINY) -> Path:
    """Write of what stage train would what stage label_doubt reads."""
    folder.mkdir(parents=True)
    artifacts.write_json(folder / USED, chosen.model_dump())
    return finish(folder, "train")


def finish(folder: Path, stage: str, **inputs: dict[str, str]) -> Path:
    """Close an artifact with its manifest."""
    key = artifacts.json_digest(artifacts.list_files(folder))
    artifacts.write_manifest(folder, stage=stage, key=key, inputs=inputs)
    return folder
