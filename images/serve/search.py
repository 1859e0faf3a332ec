"""The search over what was predicted: follows the store, makes the index anew where that changes, and answers.

An index is made in a process of its own, beside the one that answers, and takes its place whole: what is asked
meanwhile is answered from the earlier one to the end. The store and the raw folder are only read.
"""

import asyncio
import contextlib
import csv
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from images.serve.search_files import RawFolder, Thumbnails, media_type
from images.serve.search_index import INDEX, Index, build, shown
from images.serve.service import Service
from stages.common.contract.errors import DataError, StageError, UnavailableError, UsageError
from stages.common.contract.logs import log
from stages.common.contract.tables import as_written
from stages.common.images.decode import ImageError
from stages.common.images.settings import ImagesSection

LOOK_S = 2.0
AGAIN_S = 30.0
"""Seconds until an index that could not be made is tried again."""
PREFIX = "index-"
VERSIONS = 20
"""Versions that the history of an image tells of at most."""
ALIKE = 24
CHUNK = 256 * 1024
PAGE = Path(__file__).parent / "page" / "gallery.html"
STARTING = "the predictions are being indexed: try again in some seconds"
NOTHING = "nothing is predicted yet: run the pipeline until a version is released, and then stage predict"


class Made(NamedTuple):
    """An artifact of the store: its folder, and from its manifest when it was made (UTC) and the version it is of."""

    folder: Path
    created: str
    version: str


class Search:
    """Follows the artifacts of stage predict.

    Attributes:
        index: what answers now; a request takes it once, and ends with it. None before there is any.
        problem: why there is none, or why it is not of the newest predictions; empty if it is.
        raw: the raw images.
        thumbnails: of them.
    """

    def __init__(
        self, store: Path, raw: Path, folder: Path, images: ImagesSection, champion: Callable[[], str] = str
    ) -> None:
        """Search in what is predicted.

        Args:
            store: the artifact store, or a folder with one artifact a stage, named after it.
            raw: the folder of the raw images.
            folder: that may be written to: the index is made there.
            images: what is taken for a picture.
            champion: gives the name of the version that is served, "" if there is none.
        """
        self._store, self._folder, self._champion = store, folder, champion
        self.raw = RawFolder(raw)
        self.thumbnails = Thumbnails(images)
        self.index: Index | None = None
        self.problem = STARTING
        self._place: Path | None = None
        self._again = 0.0
        self._known: dict[tuple[Path, int], Made | None] = {}

    # -- following --

    async def follow(self) -> None:
        """Look again and again, until this is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Make the index anew, if there are other predictions or labels."""
        if time.monotonic() < self._again:
            return
        try:
            self.problem = self._follow()
        except (StageError, OSError) as error:
            if str(error) != self.problem:
                log.warning("search: %s", error)
            self.problem = str(error)
            self._again = time.monotonic() + AGAIN_S

    def _follow(self) -> str:
        made, labels = self.predictions(), self._made("validate")
        if not made:
            return NOTHING if not self.index else ""
        source = (str(made[0].folder), str(labels[0].folder) if labels else "")
        if self.index is None:
            self._take_over()
        if self.index is None or (self.index.about.artifact, self.index.about.labels) != source:
            self._make(made[0].folder, labels[0].folder if labels else None)
        return ""

    def _take_over(self) -> None:
        """Open the newest index that an earlier process has left; remove all others."""
        left = sorted(
            self._folder.glob(f"{PREFIX}*"), key=lambda path: (path / INDEX).exists() and path.stat().st_mtime
        )
        for place in reversed(left):
            try:
                if self.index is None:
                    self.index, self._place = Index(place), place
                    continue
            except DataError:
                pass
            shutil.rmtree(place, ignore_errors=True)

    def _make(self, artifact: Path, validated: Path | None) -> None:
        started = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._folder))
        try:
            # in a process of its own, for what is asked meanwhile does not wait, and its memory goes with it
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                process.submit(build, artifact, validated, place, self._place).result()
            index = Index(place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        before = self._place
        self.raw = RawFolder(self.raw.top)  # before the index, whose images may lie in new folders
        self.index, self._place = index, place
        if before:
            shutil.rmtree(before, ignore_errors=True)  # what is open stays until it is let go
        told = index.about
        log.info("search: %d images of %s in %.1f s", told.images, told.version, time.monotonic() - started)

    def predictions(self) -> list[Made]:
        """The artifacts of stage predict, those of the champion first, otherwise the newest first."""
        made = [one for one in self._made("predict") if one.version not in {"", "none"}]
        champion = self._champion()
        return sorted(made, key=lambda one: one.version != champion)

    def _made(self, stage: str) -> list[Made]:
        """The artifacts of a stage that are whole, the newest first."""
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
            if one := self._known[key]:
                found.append((key[1], one))
        return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)]

    # -- answering --

    def taken(self) -> Index:
        """The index that a request is answered with.

        Raises:
            UnavailableError: there is none.
        """
        index = self.index
        if index is None:
            raise UnavailableError(self.problem or STARTING)
        return index

    def told(self, index: Index) -> dict[str, Any]:
        """What stands in every answer."""
        return {"champion": self._champion() or None, "problem": self.problem or None, **index.told()}

    def open(self, image: str) -> tuple[dict[str, Any], BinaryIO]:
        """What is known of an image, and its file, open.

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
        """What is known of an image, and what each version said about it, the newest first.

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
        """The images that look like one, among those that a query finds.

        Raises:
            LookupError: there is no such image.
            UsageError: the query means nothing.
        """
        index, position = self._find(image)
        query = index.parse(words)
        rows = index.similar(position, query, query.size)
        return {**self.told(index), "image": index.rows([position])[0], "rows": rows}


def _manifest(path: Path) -> Made | None:
    """What a manifest tells; None if it cannot be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Made(path.parent, str(told["created"]), str(told["headline"].get("version", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _answers(path: Path, filename: str) -> dict[str, dict[str, Any]]:
    """What a predictions.csv says about a file; nothing if it is not in it."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            header = next(lines, "")
            rows = csv.DictReader(line for line in (header, *(line for line in lines if filename in line)))
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

    def champion() -> str:
        return service.champion.served.name if service.champion.served else ""

    app.state.search = Search(settings.artifacts, settings.raw, settings.index, settings.images, champion)
    following = asyncio.create_task(app.state.search.follow())
    yield
    following.cancel()


def _search(request: Request) -> Search:
    search: Search = request.app.state.search
    return search


router = APIRouter(tags=["search"], lifespan=_following)
SearchDep = Annotated[Search, Depends(_search)]


def _answer(answer: Callable[[], Response | dict[str, Any]]) -> Response:
    """What is answered, or one line with the status that belongs to it."""
    try:
        found = answer()
    except (StageError, LookupError, ImageError) as error:
        statuses = {UsageError: 422, LookupError: 404, ImageError: 415}
        status = next((code for kind, code in statuses.items() if isinstance(error, kind)), 503)
        return JSONResponse({"error": str(error)}, status, {"retry-after": "2"} if status == 503 else None)
    return found if isinstance(found, Response) else JSONResponse(found)


@router.get("/search")
def find(request: Request, search: SearchDep) -> Response:
    """Images by what was answered about them.

    `<attribute>=<class>` for any attribute, or `abstained`; twice for either of two. `min_confidence`, 0 to 1, of the
    attributes that are asked for, of all if none is. `lot`, `file`, `answered` (yes: all attributes; no: not all),
    `label` (agrees, differs, none). `sort` is file, confidence or an attribute, with a `-` before it for the other
    direction; `page` from 1 on, of `size` images. Counts are those that each choice would give.
    """

    def answer() -> dict[str, Any]:
        index = search.taken()
        return {**search.told(index), **index.search(index.parse(request.query_params.multi_items()))}

    return _answer(answer)


@router.get("/similar")
def alike(request: Request, search: SearchDep) -> Response:
    """Images that look like the one with the id `image`, by the model's embeddings: the likest first.

    `size` of them, among those that the other words, which are those of `/search`, find.
    """
    words = request.query_params.multi_items()
    rest = [("size", str(ALIKE))] if "size" not in request.query_params else []
    rest += [(name, value) for name, value in words if name != "image"]
    return _answer(lambda: search.similar(request.query_params.get("image", ""), rest))


@router.get("/history/{image}")
def history(image: str, search: SearchDep) -> Response:
    """An image: its lot and file, its labels, and what each version said about it."""
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


@router.get("/gallery", include_in_schema=False)
def gallery() -> Response:
    """The page."""
    return FileResponse(PAGE, media_type="text/html; charset=utf-8")


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while data := file.read(CHUNK):
            yield data
