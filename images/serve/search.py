"""The search over predictions: follows the store, makes the index anew after a change, and answers.

A new index is made in a separate process, and then replaces the old one at once: requests that began before are
answered from the old index. If several processes serve, one makes the index and all open it. An open index may be
removed, because its files stay until they are closed. The store and the raw folder are only read.
"""

import asyncio
import contextlib
import csv
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from images.serve.search_files import RawFolder, Thumbnails, media_type
from images.serve.search_index import INDEX, Index, build_and_tell, shown, whole_rows
from images.serve.service import Service, in_thread
from stages.common.contract.artifacts import lock_of, written
from stages.common.contract.errors import DataError, StageError, UnavailableError, UsageError, full_disk
from stages.common.contract.logs import log
from stages.common.contract.tables import as_written
from stages.common.images.decode import ImageError
from stages.common.images.settings import ImagesSection

LOOK_S = 2.0
AGAIN_S = 30.0
"""Seconds until the next try after an index could not be made."""
PREFIX = "index-"
VERSIONS = 20
"""Greatest number of versions in the history of an image."""
ALIKE = 24
CHUNK = 256 * 1024
STARTING = "the predictions are being indexed: try again in some seconds"
NOTHING = "nothing is predicted yet: run the pipeline until a version is released, and then stage predict"


_WRITTEN_OTHERWISE = re.compile(r"""["';|\s]""")
"""Signs in a name that a CSV writes differently, or before which it may put another sign."""


class Made(NamedTuple):
    """An artifact of the store: its folder, and its time (UTC) and version from the manifest."""

    folder: Path
    created: str
    version: str


class Search:
    """Follows the artifacts of stage predict.

    Attributes:
        index: the current index; a request reads it once, and uses it to its end. None before the first one.
        problem: why there is none, or why it is not of the newest predictions; empty if it is.
        raw: the raw images.
        thumbnails: their thumbnails.
    """

    def __init__(
        self, store: Path, raw: Path, folder: Path, images: ImagesSection, champion: Callable[[], str] = str
    ) -> None:
        """Search in predictions.

        Args:
            store: the artifact store, or a folder with one artifact per stage, named after it.
            raw: the folder of the raw images.
            folder: a writable folder for the index.
            images: limits of pictures.
            champion: gives the name of the champion, "" if there is none.
        """
        self._store, self._folder, self._champion = store, folder, champion
        self.raw = RawFolder(raw)
        self.thumbnails = Thumbnails(images)
        self.index: Index | None = None
        self.problem = STARTING
        self._place: Path | None = None
        self._maker: SpawnProcess | None = None
        self._closed = False
        self._again = 0.0
        self._known: dict[tuple[Path, int], Made | None] = {}

    # -- following --

    async def follow(self) -> None:
        """Look again and again, until this is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Make the index anew if predictions or labels have changed."""
        if time.monotonic() < self._again:
            return
        try:
            self.problem = self._follow()
        except (StageError, OSError) as error:
            if str(error) != self.problem and not self._closed:
                log.warning("search: %s", error)
            self.problem = str(error)
            self._again = time.monotonic() + AGAIN_S

    def _follow(self) -> str:
        made, labels = self.predictions(), self._made("validate")
        if not made:
            return NOTHING if not self.index else ""
        artifact, validated = made[0].folder, labels[0].folder if labels else None
        if self._is_of(artifact, validated):
            return ""
        with self._alone() as alone:
            # checked under the lock, or it might be made twice
            self._open_made(artifact, validated)
            if alone:
                if not self._is_of(artifact, validated):
                    self._make(artifact, validated)
                self._tidy()
        return "" if self.index else STARTING

    def _is_of(self, artifact: Path, validated: Path | None) -> bool:
        """Whether the current index is of these artifacts."""
        return self.index is not None and self.index.is_of(artifact, validated)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process makes an index meanwhile; if this process is killed, the kernel frees the lock."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY)
        alone = True
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            yield alone
        finally:
            os.close(folder)

    def open_made(self) -> None:
        """Open an earlier index, so that there is one as soon as this process listens."""
        made, labels = self.predictions(), self._made("validate")
        with contextlib.suppress(OSError), self._alone() as alone:  # the first `look` reports an error
            if made:
                self._open_made(made[0].folder, labels[0].folder if labels else None)
            if alone:
                self._tidy()

    def _open_made(self, artifact: Path, validated: Path | None) -> None:
        """Open the index of these artifacts if it exists, or else the newest one if none is open."""
        others = []
        for file in sorted(self._folder.glob(f"{PREFIX}*/{INDEX}"), key=written, reverse=True):
            if file.parent == self._place:
                continue
            try:
                index = Index(file.parent)
            except DataError:  # of another format, or removed meanwhile
                continue
            if index.is_of(artifact, validated):
                self._take(index, file.parent)
                return
            others.append((index, file.parent))
        if others and self.index is None:
            self._take(*others[0])

    def _tidy(self) -> None:
        """Remove unused indexes, also those of killed processes; only under the lock."""
        for place in self._folder.glob(f"{PREFIX}*"):
            if place != self._place:
                shutil.rmtree(place, ignore_errors=True)

    def _take(self, index: Index, place: Path) -> None:
        self.raw = RawFolder(self.raw.top)  # before the index, whose images may be in new folders
        self.index, self._place = index, place

    def _make(self, artifact: Path, validated: Path | None) -> None:
        started = time.monotonic()
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._folder))
        try:
            self._build(artifact, validated, place)
            index = Index(place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        self._take(index, place)
        told = index.about
        log.info("search: %d images of %s in %.1f s", told.images, told.version, time.monotonic() - started)

    def _build(self, artifact: Path, validated: Path | None, place: Path) -> None:
        """Make the index in a separate process: requests do not wait meanwhile, and its memory is freed at its end."""
        spawn = multiprocessing.get_context("spawn")
        told, tells = spawn.Pipe(duplex=False)
        earlier = self._place if self._place and self._place.exists() else None
        self._maker = maker = spawn.Process(target=build_and_tell, args=(tells, artifact, validated, place, earlier))
        maker.start()
        tells.close()
        if self._closed:
            maker.kill()
        with told:
            try:
                error = told.recv()
            except EOFError:  # for example, it wrote to a mapped file on a full disk
                error = UnavailableError("the indexing process died: trying again")
        maker.join()
        if error:
            raise full_disk(error, place) or error

    def close(self) -> None:
        """Stop the indexing process."""
        self._closed = True
        if self._maker and self._maker.is_alive():
            self._maker.kill()

    def predictions(self) -> list[Made]:
        """Artifacts of stage predict, those of the champion first, then the newest first."""
        made = [artifact for artifact in self._made("predict") if artifact.version not in {"", "none"}]
        champion = self._champion()
        return sorted(made, key=lambda artifact: artifact.version != champion)

    def _made(self, stage: str) -> list[Made]:
        """Whole artifacts of a stage, the last made or used first."""
        home = self._store / stage
        paths = [home / "manifest.json", *home.glob("[0-9a-f]*/manifest.json")]
        found = []
        for path in paths:
            try:
                key = (path, path.stat().st_mtime_ns)
            except OSError:  # gone, or there is none
                continue
            if key not in self._known:
                self._known[key] = _manifest(path)
            if known := self._known[key]:
                # a cached artifact counts as new as one that a run makes
                found.append((max(key[1] / 1e9, written(lock_of(path.parent))), known))
        return [artifact for _, artifact in sorted(found, key=lambda pair: pair[0], reverse=True)]

    # -- answering --

    def taken(self) -> Index:
        """The index for a request.

        Raises:
            UnavailableError: there is none.
        """
        index = self.index
        if index is None:
            raise UnavailableError(self.problem or STARTING)
        return index

    def told(self, index: Index) -> dict[str, Any]:
        """Keys that every answer has."""
        return {"champion": self._champion() or None, "problem": self.problem or None, **index.told()}

    def open(self, image: str) -> tuple[dict[str, Any], BinaryIO]:
        """Row of an image, and its open file.

        Raises:
            LookupError: there is no such image, or its file is not there any more.
        """
        index, position = self._find(image)
        (row,) = index.rows([position])
        file = self.raw.open(row["lot"], row["filename"])
        if file is None:
            raise LookupError(f"{shown(row['filename'])} of lot {row['lot']} is not in the raw folder any more")
        return row, file

    def history(self, image: str) -> dict[str, Any]:
        """Row of an image, and the answers of each version about it, the newest first.

        Raises:
            LookupError: there is no such image.
        """
        index, position = self._find(image)
        (row,) = index.rows([position])
        versions: dict[str, dict[str, Any]] = {}
        for made in self.predictions():
            if made.version not in versions and len(versions) < VERSIONS:
                path = made.folder / f"outputs/predictions_{row['lot']}.csv"
                if answers := _answers(path, row["filename"]):
                    told = {"version": made.version, "predicted": made.created, "answers": answers}
                    versions[made.version] = told
        return {**self.told(index), **row, "versions": [*versions.values()]}

    def _find(self, image: str) -> tuple[Index, int]:
        index = self.taken()
        position = index.position(image)
        if position is None:
            raise LookupError(f"there is no image {shown(image)}: ids are those of /search")
        return index, position

    def similar(self, image: str, words: list[tuple[str, str]]) -> dict[str, Any]:
        """Images that look like one image, among those that a query finds.

        Raises:
            LookupError: there is no such image.
            UsageError: the query is invalid.
        """
        index, position = self._find(image)
        query = index.parse(words)
        rows = index.similar(position, query, query.size)
        return {**self.told(index), "image": index.rows([position])[0], "rows": rows}


def _manifest(path: Path) -> Made | None:
    """Time and version in a manifest; None if it cannot be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Made(path.parent, str(told["created"]), str(told["headline"].get("version", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _answers(path: Path, filename: str) -> dict[str, dict[str, Any]]:
    """Answers about a file in a predictions.csv; empty if the file is not in it."""
    piece = max(_WRITTEN_OTHERWISE.split(filename), key=len)  # to parse only few rows
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            every = whole_rows(lines)
            rows = csv.DictReader(chain([next(every, "")], (row for row in every if piece in row)))
            row = next((row for row in rows if as_written(row["filename"]) == filename), {})
    except (OSError, ValueError, KeyError):  # cleaned up meanwhile
        return {}
    return {
        (name := column.removesuffix("_predicted")): {
            "class": row[column] or None,
            "confidence": float(row[f"{name}_confidence"]) if row[f"{name}_confidence"] else None,
            "answered": row[f"{name}_answered"] == "yes",
        }
        for column in row
        if column.endswith("_predicted")
    }


@contextlib.asynccontextmanager
async def _following(app: FastAPI) -> AsyncIterator[None]:
    """Follow the store as long as the application runs."""
    service: Service = app.state.service
    settings = service.settings

    folders = settings.artifacts, settings.raw, settings.index
    app.state.search = Search(*folders, settings.images, lambda: service.champion.name)
    await in_thread(app.state.search.open_made)
    following = asyncio.create_task(app.state.search.follow())
    yield
    app.state.search.close()
    following.cancel()


def _search(request: Request) -> Search:
    search: Search = request.app.state.search
    return search


router = APIRouter(tags=["search"], lifespan=_following)
SearchDep = Annotated[Search, Depends(_search)]


def _answer(answer: Callable[[], Response | dict[str, Any]]) -> Response:
    """Answer of a call, or its error in one line with the status that belongs to it."""
    try:
        found = answer()
    except (StageError, LookupError, ImageError) as error:
        statuses = {UsageError: 422, LookupError: 404, ImageError: 415}
        status = next((code for kind, code in statuses.items() if isinstance(error, kind)), 503)
        return JSONResponse({"error": str(error)}, status, {"retry-after": "2"} if status == 503 else None)
    return found if isinstance(found, Response) else JSONResponse(found)


@router.get("/search")
def find(request: Request, search: SearchDep) -> Response:
    """Search images by the answers about them.

    `<attribute>=<class>` for any attribute, or `abstained`; twice for either of two. `min_confidence`, 0 to 1, of the
    attributes in the query, or of all if there are none. `lot`, `file`, `answered` (yes: all attributes; no: not all),
    `label` (agrees, differs, none). `sort` is file, confidence or an attribute, with a `-` before it for the other
    direction; `page` from 1 on, of `size` images. The counts are the numbers of images that each choice would give.
    """

    def answer() -> dict[str, Any]:
        index = search.taken()
        return {**search.told(index), **index.search(index.parse(request.query_params.multi_items()))}

    return _answer(answer)


@router.get("/similar")
def alike(request: Request, search: SearchDep) -> Response:
    """Images that look like the image with the id `image`, by the model's embeddings, the most similar first.

    Up to `size` images, among those that the other words find; these are the words of `/search`.
    """
    words = request.query_params.multi_items()
    rest = [("size", str(ALIKE))] if "size" not in request.query_params else []
    rest += [(name, value) for name, value in words if name != "image"]
    return _answer(lambda: search.similar(request.query_params.get("image", ""), rest))


@router.get("/history/{image}")
def history(image: str, search: SearchDep) -> Response:
    """An image: its lot and file, its labels, and the answers of each version."""
    return _answer(lambda: search.history(image))


@router.get("/images/{image}")
def download(image: str, search: SearchDep) -> Response:
    """The file of an image, as it is."""

    def answer() -> Response:
        row, file = search.open(image)
        kind = media_type(file.read(8))
        how = "inline" if kind.startswith("image/") else "attachment"
        name = quote(row["filename"].rpartition("/")[2], safe="")
        file.seek(0)
        return StreamingResponse(_read(file), 200, {"content-disposition": f"{how}; filename*=UTF-8''{name}"}, kind)

    return _answer(answer)


@router.get("/thumbnails/{image}")
def thumbnail(image: str, search: SearchDep) -> Response:
    """An image made small, as a JPEG."""

    def answer() -> Response:
        _, file = search.open(image)
        with file:
            made = search.thumbnails.make(file)
        return Response(made, 200, {"cache-control": "private, max-age=300"}, "image/jpeg")

    return _answer(answer)


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while data := file.read(CHUNK):
            yield data
