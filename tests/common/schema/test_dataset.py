"""Reading one split of prepared data."""

import csv
from pathlib import Path

import numpy as np
import pytest

from stages.common.contract.errors import DataError
from stages.common.schema.attributes import write_attributes
from stages.common.schema.dataset import INDEX, index_columns, read_split
from tests.common.samples import SAMPLE_ATTRIBUTES


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Lots a and b/c of 3 images each, each filled with its own number; the first attribute is known for even ones."""
    for lot, first in (("a", 0), ("b/c", 3)):
        shard = tmp_path / "shards" / f"{lot}.npy"
        shard.parent.mkdir(parents=True, exist_ok=True)
        np.save(
            shard,
            np.arange(first, first + 3, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3),
        )
    write_attributes(tmp_path, SAMPLE_ATTRIBUTES)
    with (tmp_path / INDEX).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(index_columns(SAMPLE_ATTRIBUTES))
        for number in range(6):
            split = "val" if number == 1 else "train"
            first_label = "" if number % 2 else number % 4 // 2
            table.writerow(
                [
                    f"{number}.png",
                    "a" if number < 3 else "b/c",
                    number % 3,
                    split,
                    "",
                    f"g{number // 4}",
                    first_label,
                    0,
                    1,
                    "",
                    2,
                ]
            )
    return tmp_path


def test_images_and_labels_stay_together_in_any_order(prepared: Path) -> None:
    train = read_split(prepared, "train")
    assert train.filenames == ["0.png", "2.png", "3.png", "4.png", "5.png"]
    assert train.image_size == 8
    assert train.take()[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 5]
    assert train.take(np.array([4, 0, 2, 0]))[:, 7, 7, 2].tolist() == [5, 0, 3, 0]
    assert train.labels[:, 0].tolist() == [0, 1, -1, 0, -1]
    assert train.labels[:, 3].tolist() == [-1] * 5
    assert train.group.tolist() == [0, 0, 0, 1, 1]
    assert train.select(np.array([4, 0])).group.tolist() == [1, 0]


def test_images_stay_on_disk(prepared: Path) -> None:
    assert all(isinstance(shard, np.memmap) for shard in read_split(prepared, "train").shards)


def test_an_empty_split_says_what_to_do(prepared: Path) -> None:
    with pytest.raises(DataError, match=r"the test split .* is empty: .*data\.test_split"):
        read_split(prepared, "test")


def test_reading_every_image_takes_no_memory_for_good(tmp_path: Path) -> None:
    count, side = 20_000, 64
    (tmp_path / "shards").mkdir()
    np.lib.format.open_memmap(tmp_path / "shards" / "a.npy", "w+", np.uint8, (count, side, side, 3)).flush()
    write_attributes(tmp_path, SAMPLE_ATTRIBUTES)
    with (tmp_path / INDEX).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(index_columns(SAMPLE_ATTRIBUTES))
        table.writerows([f"{row}.png", "a", row, "train", "", 0, 0, 0, 0, 0] for row in range(count))

    def megabytes() -> int:
        return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024

    train, before = read_split(tmp_path, "train"), megabytes()
    for start in range(0, count, 1000):
        train.take(np.arange(start, start + 1000))
    assert megabytes() - before < 60, "of 246"
