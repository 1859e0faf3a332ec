"""Processes that decode large pictures at the same time hold a bounded number of megapixels, and never a deadlock."""

import io
import time
from pathlib import Path

import pytest
from PIL import Image

from stages.common.images import room
from stages.common.images.decode import decode_file
from stages.common.images.settings import ImagesSection
from stages.common.workers.pool import WorkerPool
from tests.waiting import wait_until

SETTINGS = ImagesSection(near_white=245, max_megapixels=50)


def decode_and_hold(job: tuple[Path, int, bool]) -> tuple[int, float, float]:
    """Decode a flat picture of some thousands of rows of 1,000 pixels, and work with it.

    Two are the first: they work at the same time, and the others begin then.
    """
    folder, thousands, first = job
    kind = "PNG" if thousands % 2 else "JPEG"
    file = folder / f"{thousands}.{kind}"
    if not file.exists():
        buffer = io.BytesIO()
        Image.new("L", (1000, 1000 * thousands)).save(buffer, kind)
        file.write_bytes(buffer.getvalue())
    if not first:
        wait_until(lambda: are_decoded(folder), "the first two")
    picture = decode_file(file.read_bytes(), SETTINGS).picture
    start = time.monotonic()
    if first:
        (folder / f"decoded-{thousands}").touch()
        wait_until(lambda: are_decoded(folder), "the other of the first two")
    time.sleep(0.1)
    return picture.shape[0] // 1000, start, time.monotonic()


def are_decoded(folder: Path) -> bool:
    """Whether the first two are."""
    return len(list(folder.glob("decoded-*"))) == 2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for 8 megapixels."""
    monkeypatch.setattr(room.Room.__init__, "__defaults__", (8,))
    return 8


@pytest.mark.slow
def test_the_megapixels_held_at_once_are_bounded(tmp_path: Path, small: int) -> None:
    sizes = [5, 3, 6, 2, 7, 1, 8, 4, 5, 3, 9, 2]  # one of them larger than the room
    with WorkerPool(4, "toy.workers") as pool:
        held = list(pool.map(decode_and_hold, [(tmp_path, size, at < 2) for at, size in enumerate(sizes)]))
    assert [size for size, _, _ in held] == sizes
    for _, start, _ in held:
        at_once = [size for size, since, until in held if since <= start < until]
        assert sum(at_once) <= small or at_once == [9]
    assert any(sum(since <= start < until for _, since, until in held) > 1 for _, start, _ in held)
