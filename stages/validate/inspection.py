"""Look at every annotated image once: in worker processes, and of unchanged lots not at all.

What was found of a lot is one file of the stage's cache, `<cache>/<key>.json`, under a key of all that decides it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.common.contract import artifacts
from stages.common.contract.logs import Progress, log
from stages.common.contract.stage import Context
from stages.common.contract.version import stage_version
from stages.common.images.settings import ImagesSection
from stages.common.images.sources import Source, find_source
from stages.common.workers.pool import WorkerPool, useful_workers
from stages.validate.look import Look, look_at
from stages.validate.params import Params

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
    settings, version = context.params.images, stage_version("validate")
    lots: dict[str, list[Source]] = {}
    for path, lot in sorted(paths.items()):
        lots.setdefault(lot, []).append(find_source(path, context.inputs["raw"] / path, context.digest))
    files = {lot: context.cache / f"{_key(version, settings, sources)}.json" for lot, sources in lots.items()}
    looks = {lot: found for lot, file in files.items() if (found := _read(file, lots[lot])) is not None}
    missing = [lot for lot in lots if lot not in looks]
    todo = [source for lot in missing for source in lots[lot]]
    progress = Progress(len(todo), "images looked at")
    workers = useful_workers(context.params.validate.workers, sum(source.size for source in todo))
    start = time.monotonic()
    with WorkerPool(workers, "validate.workers") as pool:
        for lot in missing:
            looks[lot] = _make(files[lot], lots[lot], settings, pool, progress)
    if missing:
        seconds = time.monotonic() - start
        log.info("%d images looked at in %.1f s, %.0f/s", len(todo), seconds, len(todo) / seconds)
    log.info("images of %d lots: %d looked at, %d known", len(lots), len(missing), len(lots) - len(missing))
    return _table({source.filename: look for lot in lots for source, look in zip(lots[lot], looks[lot], strict=True)})


def _key(version: str, settings: ImagesSection, sources: Sequence[Source]) -> str:
    images = [[source.filename, source.digest] for source in sources]
    return artifacts.json_digest({"version": version, "images": settings.model_dump(), "files": images})


def _read(file: Path, sources: Sequence[Source]) -> list[Look] | None:
    """What is known of a lot; None if nothing is, or if the file is damaged, which is said."""
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["digest"] == artifacts.json_digest(kept["looks"]) and len(kept["looks"]) == len(sources):
            return [Look(*look) for look in kept["looks"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    log.warning("%s is damaged and is made again", file)
    return None


def _make(
    file: Path, sources: Sequence[Source], settings: ImagesSection, pool: WorkerPool, progress: Progress
) -> list[Look]:
    """Look at the images of a lot. Of two runs that need the same at the same time, the second waits and takes it."""
    with artifacts.locked(file.with_name(f".lock-{file.stem}"), "another run is looking at the same lot"):
        if looks := _read(file, sources):
            progress.advance(len(sources))
            return looks
        looks = []
        paths = [source.path for source in sources]
        jobs = ((paths[start : start + CHUNK], settings) for start in range(0, len(paths), CHUNK))
        for chunk in pool.map(look_at, jobs):
            for look in chunk:
                sources[len(looks)].require_unchanged(look.digest)
                looks.append(look)
            progress.advance(len(chunk))
        artifacts.write_json(file, {"digest": artifacts.json_digest(looks), "looks": looks})
        return looks


def _table(looks: Mapping[str, Look]) -> pd.DataFrame:
    columns: dict[str, Any] = {name: [getattr(look, name) or None for look in looks.values()] for name in COLUMNS}
    kinds = {name: "Int64" if name in {"width", "height"} else "str" for name in COLUMNS}
    return pd.DataFrame(columns, pd.Index(list(looks), dtype="str", name="path")).astype(kinds).sort_index()
