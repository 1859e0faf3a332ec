"""Inspect every annotated image once: in worker processes, and without unchanged lots."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.common.contract.stage import Context
from stages.common.images.sources import Source, find_sources
from stages.common.workers.lot_cache import Recipe, take_lots
from stages.validate.look import Look, LookJob, look_at_sources
from stages.validate.params import Params

LOOKS = "looks.jsonl"
"""File of a lot's piece: a line per job, which is a list with a `Look` per image."""
CHUNK = 32
"""Images per job: the results of 32 images are 10 kB to send back."""

COLUMNS = list(Look._fields)


def inspect_images(paths: Mapping[str, str], context: Context[Params]) -> pd.DataFrame:
    """Inspect images, in at most `validate.workers` processes; unchanged lots come from the cache.

    Args:
        paths: path relative to `--raw` -> lot.
        context: of the stage.

    Returns:
        A row per image, its path as index, sorted; the columns of `Look`: text, missing where empty, and Int64 for
        width and height.

    Raises:
        TryAgainError: a file changed while it was being read.
        UnavailableError: a worker process was killed, nearly always for memory.
    """
    lots: dict[str, list[Source]] = {}
    raw, names = context.inputs["raw"], sorted(paths)
    for source in find_sources(((name, f"{raw}/{name}") for name in names), context.digests):
        lots.setdefault(paths[source.filename], []).append(source)
    settings = context.params.images

    def job(_folder: Path, images: Sequence[Source], start: int) -> LookJob:
        return images[start : start + CHUNK], settings

    recipe = Recipe("validate", settings.model_dump(), CHUNK, job, look_at_sources, _write, _read)
    looks = take_lots(recipe, lots, context.cache, context.params.validate.workers).pieces
    paths_of = [source.filename for images in lots.values() for source in images]
    table = pd.concat([_table([]), *(looks[lot] for lot in lots)])
    return table.set_axis(pd.Index(paths_of, dtype="str", name="path")).sort_index()


def _write(folder: Path, done: Iterable[tuple[Sequence[Source], str]]) -> None:
    with (folder / LOOKS).open("w", encoding="utf-8") as file:
        file.writelines(f"{looks}\n" for _, looks in done)


def _read(folder: Path, _images: Sequence[Source]) -> pd.DataFrame:
    with (folder / LOOKS).open(encoding="utf-8") as file:
        looks = [Look(*look) for line in file for look in json.loads(line)]
    # these have few different values, but JSON makes a new text for every image
    return _table([look._replace(format=sys.intern(look.format), mode=sys.intern(look.mode)) for look in looks])


def _table(looks: Sequence[Look]) -> pd.DataFrame:
    """A row per image, the columns as in `inspect_images`."""
    columns: dict[str, Any] = {name: [getattr(look, name) or None for look in looks] for name in COLUMNS}
    kinds = {name: "Int64" if name in {"width", "height"} else "str" for name in COLUMNS}
    return pd.DataFrame(columns).astype(kinds)
