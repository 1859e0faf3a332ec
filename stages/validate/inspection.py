"""Look at every annotated image once: in worker processes, and of unchanged lots not at all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.common.contract.stage import Context
from stages.common.images.settings import ImagesSection
from stages.common.images.sources import Source, find_source
from stages.common.workers.lot_cache import Recipe, take_lots
from stages.validate.look import Look, look_at
from stages.validate.params import Params

LOOKS = "looks.json"
"""File of a lot's piece: a list of `Look`, one an image."""
CHUNK = 32
"""Images a job: the results of 32 are 10 kB to send back."""

COLUMNS = list(Look._fields)


def inspect_images(paths: Mapping[str, str], context: Context[Params]) -> pd.DataFrame:
    """Look at images, in at most `validate.workers` processes; lots that did not change are taken from the cache.

    Args:
        paths: path relative to `--raw` -> lot.
        context: of the stage.

    Returns:
        One row an image, its path the index, sorted; the columns of `Look`: text, missing where empty,
        and Int64 for width and height.

    Raises:
        TryAgainError: a file changed while it was being read.
        UnavailableError: a worker process was killed, nearly always for memory.
    """
    lots: dict[str, list[Source]] = {}
    for path, lot in sorted(paths.items()):
        lots.setdefault(lot, []).append(find_source(path, context.inputs["raw"] / path, context.digest))
    settings = context.params.images

    def job(_folder: Path, images: Sequence[Source], start: int) -> tuple[list[Path], ImagesSection]:
        return [image.path for image in images[start : start + CHUNK]], settings

    recipe = Recipe("validate", settings.model_dump(), CHUNK, job, look_at, _write, _read)
    looks = take_lots(recipe, lots, context.cache, context.params.validate.workers).pieces
    return _table({source.filename: look for lot in lots for source, look in zip(lots[lot], looks[lot], strict=True)})


def _write(folder: Path, done: Iterable[tuple[Sequence[Source], list[Look]]]) -> None:
    looks = []
    for images, found in done:
        for image, look in zip(images, found, strict=True):
            image.require_unchanged(look.digest)
            looks.append(look)
    (folder / LOOKS).write_text(json.dumps(looks), encoding="utf-8")


def _read(folder: Path, _images: Sequence[Source]) -> list[Look]:
    return [Look(*look) for look in json.loads((folder / LOOKS).read_text(encoding="utf-8"))]


def _table(looks: Mapping[str, Look]) -> pd.DataFrame:
    columns: dict[str, Any] = {name: [getattr(look, name) or None for look in looks.values()] for name in COLUMNS}
    kinds = {name: "Int64" if name in {"width", "height"} else "str" for name in COLUMNS}
    return pd.DataFrame(columns, pd.Index(list(looks), dtype="str", name="path")).astype(kinds).sort_index()
