"""The watcher of the raw folder: an event when lots have come or changed and the folder is quiet again."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

CODE = """
import asyncio, json, sys
from pathlib import Path
from new_lots import IMAGES, NewLots
from stages.common.raw_images import SUFFIXES
from tests.dags.test_new_lots import STORIES

assert set(IMAGES) == SUFFIXES

async def main():
    stream = NewLots(sys.argv[1], 0.05).run()
    async def following(seconds=5):
        try:
            return (await asyncio.wait_for(anext(stream), seconds)).payload["lots"]
        except TimeoutError:
            return None
    print(json.dumps(await STORIES[sys.argv[2]](Path(sys.argv[1]), following)))

asyncio.run(main())
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


STORIES = {"arrivals": arrivals, "no_folder": no_folder, "hidden": hidden, "flat": flat}


def tell(story: str, raw: Path, home: Path) -> str:
    """Run a story in a process of its own, since Airflow configures what imports it."""
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(raw), story]
    environment = os.environ | {"AIRFLOW_HOME": str(home), "PYTHONPATH": "dags:."}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("story", "events"),
    [
        ("arrivals", '[["s1", "s2"], ["s3"], ["s1"]]'),
        ("no_folder", '[["s1"]]'),
        ("hidden", '[["s1"], null]'),
        ("flat", '[["."], ["."]]'),
    ],
)
def test_events(story: str, events: str, tmp_path: Path) -> None:
    assert tell(story, tmp_path / "raw", tmp_path / "airflow") == events
