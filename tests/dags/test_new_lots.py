"""The watcher of the raw folder: an event when lots have come or changed and the folder is quiet again."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytestmark = pytest.mark.slow

CODE = """
import asyncio, json, sys, traceback
from pathlib import Path
from new_lots import IMAGES, NewAnnotations, NewLots, lot_of
from stages.common.images.listing import SUFFIXES, lot_of as as_the_stages_tell
from tests.dags.test_new_lots import STORIES

assert set(IMAGES) == SUFFIXES
for path in ("a/b/s1_2.png", "a/b/2.png", "2.png", "a/_2.png", "_2.png", "s1_2_3.png", "a/s_/x.JPG"):
    assert lot_of(path) == as_the_stages_tell(path), path

async def follow(story, raw):
    kind = NewAnnotations if story.startswith("annotat") else NewLots
    stream = kind(str(raw), 0.05).run()
    async def following(seconds=600):
        try:
            return (await asyncio.wait_for(anext(stream), seconds)).payload[kind.tells]
        except TimeoutError:
            return None
    return await STORIES[story](raw, following)

told = {}
for story in STORIES:
    raw = Path(sys.argv[1], story, "raw")
    raw.parent.mkdir()
    try:
        told[story] = asyncio.run(follow(story, raw))
    except Exception:
        told[story] = traceback.format_exc()
print(json.dumps(told))
"""

Following = Callable[..., Awaitable[Any]]


def add(raw: Path, *names: str) -> None:
    """Add images by their names."""
    for name in names:
        folder = raw / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


async def arrivals(raw: Path, following: Following) -> list[Any]:
    """Two lots there, then another, then an image more."""
    add(raw, "s1_1.png", "s2_1.png")
    found = [await following()]
    add(raw, "s3_1.png")
    stream = [await following()]
    add(raw, "s1_2.png")
    return found + stream + [await following()]


async def no_folder(raw: Path, following: Following) -> list[Any]:
    """Not there, then there."""
    task = asyncio.ensure_future(following(5))
    await asyncio.sleep(0.3)
    add(raw, "s1_1.png")
    return [await task]


async def hidden(raw: Path, following: Following) -> list[Any]:
    """A lot that is still being copied under a hidden name, and a file beside the lots."""
    add(raw, "s1_1.png")
    found = [await following()]
    (raw / ".s2").mkdir()
    (raw / "notes.txt").write_text("")
    return [*found, await following(0.5)]


async def flat(raw: Path, following: Following) -> list[Any]:
    """Images in the raw folder itself, one of which is then replaced by an older one."""
    raw.mkdir()
    (raw / "cs1.png").write_bytes(b"x")
    (raw / "cs2.png").write_bytes(b"x")
    found = [await following()]
    os.utime(raw / "cs1.png", (0, 0))
    return [*found, await following()]


def rewrite(image: Path) -> None:
    """As many other bytes, and the old time."""
    before = image.stat()
    image.write_bytes(b"zz")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


async def deep(raw: Path, following: Following) -> list[Any]:
    """Far down: an image arrives, one is renamed, one is rewritten, and one with its time put back."""
    day = raw / "cam/2026-11/27"
    day.mkdir(parents=True)
    found = []
    for step in (
        lambda: (day / "0.png").write_bytes(b"x"),
        lambda: (day / "0.png").rename(day / "1.png"),
        lambda: (day / "1.png").write_bytes(b"yy"),
        lambda: rewrite(day / "1.png"),
        lambda: (day / "1.png").rename(day / "s1_1.png"),
    ):
        step()
        found.append(await following())
    return found


async def names(raw: Path, following: Following) -> list[Any]:
    """Lots are what the stages say, wherever they lie, and however many lie in one folder."""
    for name in ("all/s1_1.png", "all/s2_1.png", "x/y/s1_2.png", "bob/1.png"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"x")
    found = [await following()]
    (raw / "x/y/s2_2.png").write_bytes(b"x")
    return [*found, await following()]


async def not_text(raw: Path, following: Following) -> list[Any]:
    """A lot whose name is not UTF-8 is called as the stages call it, for no event could hold it as it is."""
    add(raw, "ä_1.png", os.fsdecode(b"\xff_1.png"))
    return [await following()]


async def copying(raw: Path, following: Following) -> list[Any]:
    """A copy far down that goes on for longer than two looks take is told once, when it is done."""
    folder = raw / "cam/2026-11/27"
    folder.mkdir(parents=True)
    rest, copied = asyncio.sleep, list[int]()

    async def copy_and_rest(seconds: float) -> None:
        """Copy a file after each inspection, as long as there are some left."""
        if len(copied) < 40:
            (folder / f"{len(copied)}.png").write_bytes(b"x")
            copied.append(len(list(folder.iterdir())))
        await rest(seconds)

    with patch("asyncio.sleep", copy_and_rest):
        return [await following(), copied[-1:], await following(0.5)]


async def not_ours(raw: Path, following: Following) -> list[Any]:
    """Links to files and folders, also a circle, and a folder that shuts everybody out, told by its own name."""
    add(raw, "s1_1.png")
    elsewhere = raw.with_name("elsewhere")
    add(elsewhere, "s9_1.png")
    (raw / "s1/circle").symlink_to(raw)
    (raw / "s1/s9").symlink_to(elsewhere)
    (raw / "s1/s8_1.png").symlink_to(elsewhere / "s9/s9_1.png")
    found = [await following()]
    (raw / "shut").mkdir(mode=0)
    add(raw, "s2_1.png")
    return [*found, await following(), await following(0.5)]


async def vanishing(raw: Path, following: Following) -> list[Any]:
    """Folders that come and go all the time do not keep what stays from being told."""
    add(raw, "s1_1.png")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            (raw / "passing/deeper").mkdir(parents=True)
            shutil.rmtree(raw / "passing")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        return [await following()]
    finally:
        over.set()
        thread.join()


async def annotations(file: Path, following: Following) -> list[Any]:
    """A file that comes, is rewritten, is replaced, and gets a neighbour that nobody asked for."""
    waiting = asyncio.ensure_future(following())
    await asyncio.sleep(0.1)
    file.write_text("a")
    found = [await waiting]
    file.write_text("ab")
    found.append(await following())
    file.with_name("new").write_text("cd")
    file.with_name("new").replace(file)
    found.append(await following())
    file.with_name("other.csv").write_text("x")
    return [*found, await following(0.5)]


async def annotation_folder(folder: Path, following: Following) -> list[Any]:
    """A folder of annotations to which a file is added, and beside which somebody saves a correction."""
    folder.mkdir()
    (folder / "2026-10.csv").write_text("a")
    found = [await following()]
    (folder / "2026-11.csv").write_text("b")
    found.append(await following())
    (folder.parent / "corrections").mkdir()
    (folder.parent / "corrections" / ".partial.csv").write_text("c")
    (folder.parent / "corrections" / "one.csv").write_text("c")
    return [*found, await following()]


STORIES = {
    story.__name__: story
    for story in (
        arrivals, no_folder, hidden, flat, deep, names, not_text, copying, not_ours, vanishing, annotations,
        annotation_folder,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Story -> its events, or a traceback.

    One process runs all of them: it is not this one, since Airflow configures what imports it, and that takes 2 s.
    """
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path_factory.mktemp("stories"))]
    if os.geteuid() == 0:  # or nothing would be shut
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "PYTHONPATH": "dags:."}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("story", "events"),
    [
        ("arrivals", [["s1", "s2"], ["s3"], ["s1"]]),
        ("no_folder", [["s1"]]),
        ("hidden", [["s1"], None]),
        ("flat", [["all"], ["all"]]),
        ("deep", [["27"], ["27"], ["27"], ["27"], ["s1"]]),
        ("names", [["bob", "s1", "s2"], ["s2"]]),
        ("not_text", [["\\xff", "ä"]]),
        ("copying", [["27"], [40], None]),
        ("not_ours", [["s1"], ["s2", "shut"], None]),
        ("vanishing", [["s1"]]),
        ("annotations", [["raw"], ["raw"], ["raw"], None]),
        ("annotation_folder", [["2026-10.csv"], ["2026-11.csv"], ["corrections/one.csv"]]),
    ],
)
def test_events(story: str, events: list[Any], told: dict[str, Any]) -> None:
    assert told[story] == events
