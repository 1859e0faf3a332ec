"""Index of a version's answers about every image: it answers any filter, with the counts of all others.

Three kinds of files in a folder, which many processes may read at once:

bitmaps.npy     a bit per image for every class of every attribute, and for abstaining from every attribute. A filter is
                an AND of such bitmaps, and a count is the number of set bits. That is a bitmap index (P. O'Neil and D.
                Quass, "Improved query performance with variant indexes", SIGMOD 1997).
other .npy      a column each: class, confidence, label and id of every image. All are memory-mapped.
names.sqlite    text: the names of the files.

The images of a lot are adjacent, in the order of its predictions, and every lot begins with a new word of the
bitmaps; so all rows of a lot are taken over at once when only other lots have changed. Embeddings stay where stage
predict keeps them, and are read from there.

Several processes read the predictions, a block of rows at a time, and one process writes the index.
"""

import csv
import io
import json
import math
import sqlite3
import struct
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from stages.common.contract.artifacts import file_digest, read_json, reading
from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import DataError, StageError, UnavailableError, UsageError
from stages.common.contract.tables import as_written
from stages.common.schema.annotations import annotation_rows
from stages.common.schema.attributes import Attribute, Attributes, names, read_attributes
from stages.common.workers.pool import WorkerPool, follow_parent

ABSTAINED = "abstained"
"""Stands in place of a class where the version abstains."""
SCALE = 10_000
"""A confidence is stored as a whole number of such parts; 0 if the model gave no number."""
WORD = 64
"""Images per word of the bitmaps."""
ROWS = 320 * WORD
"""Images in memory at once while an index is made; `BLOCK`: embeddings in memory while they are compared."""
BLOCK = 1024
WORKERS = 2
"""Greatest number of processes that read predictions; each takes some 60 MB."""
WORTH = 100_000
"""Number of images that justifies another process, which starts in half a second: one process reads them in .7 s."""
UNLABELLED = 255
MOST_CLASSES = 250
FORMAT = 2
"""Format of the files; an index of another format is made anew."""
INDEX = "index.json"
NAMES = "names.sqlite"
AGREES, DIFFERS, NONE = LABELS = ("agrees", "differs", "none")
"""Labels against the answers about an image: all agree, at least one differs, no answered attribute has a label."""

Words = npt.NDArray[np.uint64]
"""(W,), a bit per image."""


@dataclass(frozen=True)
class Lot:
    """Positions of the images of a lot.

    Attributes:
        name: of the lot.
        images: number of images.
        first: position of the first image, a multiple of `WORD`.
        predictions: SHA-256 of its predictions.csv.
        features: its file with embeddings, relative to the artifact; "" if it has none.
    """

    name: str
    images: int
    first: int
    predictions: str
    features: str

    @property
    def words(self) -> slice:
        """Its part of a bitmap."""
        return slice(self.first // WORD, -(-(self.first + self.images) // WORD))

    @property
    def positions(self) -> slice:
        """Its part of a column."""
        return slice(self.first, self.first + self.images)


@dataclass(frozen=True)
class About:
    """Contents of an index.

    Attributes:
        artifact: artifact of stage predict.
        labels: artifact of stage validate, whose annotations are the labels; "" if there is none.
        version: the version of the answers.
        images: number of images.
        attributes: the attributes that the version answers.
        lots: in the order of their positions.
    """

    artifact: str
    labels: str
    version: str
    images: int
    attributes: Attributes
    lots: tuple[Lot, ...]


# ---- making it ----


class _Block(NamedTuple):
    """Rows of the predictions.csv of a lot, and the positions of its columns."""

    artifact: Path
    lot: Lot
    rows: str
    name: int
    places: Sequence[tuple[int, int, int]]
    attributes: Attributes


class _Part(NamedTuple):
    """n images of a lot: names, classes (A, n), confidences (A, n), and whether each is answered (A, n)."""

    names: Sequence[str]
    said: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint16]
    given: npt.NDArray[np.bool_]


def build(artifact: Path, validated: Path | None, folder: Path, earlier: Path | None = None) -> None:
    """Make the index of the predictions in an artifact.

    Args:
        artifact: artifact of stage predict.
        validated: artifact of stage validate; None without labels.
        folder: an empty folder for the index.
        earlier: folder of an earlier index, whose unchanged lots are taken over.

    Raises:
        DataError: the artifact is damaged, or holds no predictions.
    """
    about = _describe(artifact, validated)
    count = len(about.attributes)
    length = WORD * max((lot.words.stop for lot in about.lots), default=0)
    known = Index(earlier) if earlier else None
    same = (
        {lot.predictions: lot for lot in known.about.lots}
        if known and known.about.attributes == about.attributes
        else {}
    )

    def column(name: str, kind: Any, *shape: int) -> npt.NDArray[Any]:
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)

    said, confidence = column("said", np.uint8, count, length), column("confidence", np.uint16, count, length)
    bitmaps = column(
        "bitmaps", np.uint64, sum(len(attribute.classes) + 1 for attribute in about.attributes), length // WORD
    )
    ids = column("ids", np.uint64, length)
    with closing(sqlite3.connect(folder / NAMES)) as database:
        database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY;"  # no other folder
            "CREATE TABLE images (position INTEGER PRIMARY KEY, filename TEXT NOT NULL)"
        )
        ends = {lot.name: lot.first for lot in about.lots}
        for lot, part in _parts(artifact, about, known, same):
            rows = slice(ends[lot.name], ends[lot.name] + len(part.names))
            ends[lot.name] = rows.stop
            if rows.stop > lot.positions.stop:
                break
            said[:, rows], confidence[:, rows] = part.said, part.confidence
            _set_bits(bitmaps, about.attributes, part, rows.start // WORD)
            ids[rows] = ids_of(lot.name, part.names)
            database.executemany("INSERT INTO images VALUES (?, ?)", enumerate(part.names, rows.start))
        for lot in about.lots:
            if ends[lot.name] != lot.positions.stop:
                _refuse(artifact, f"lot {lot.name} does not have the {lot.images:,} images of its metrics")
        database.commit()
    if known:
        known.close()
    order = column("order", np.int64, length)
    order[:] = np.argsort(ids)  # where there is no image, its id is 0
    labels = column("labels", np.uint8, count, length if validated else 0)
    if validated:
        _set_labels(labels, about.attributes, validated, ids, order)
    # last: it marks the index as complete
    (folder / INDEX).write_text(json.dumps({"format": FORMAT, **asdict(about)}), encoding="utf-8")


def build_and_tell(tells: Connection, *arguments: Any) -> None:
    """Make an index in a separate process, and send its error, if any."""
    follow_parent()
    try:
        build(*arguments)
        tells.send(None)
    except (StageError, OSError) as error:
        tells.send(error)
    except sqlite3.Error as error:
        tells.send(UnavailableError(f"cannot write the names of the images ({error}): trying again"))


def ids_of(lot: str, filenames: Sequence[str]) -> list[int]:
    """Ids of images in addresses: 64 bits from lot and name, so that an address has no path, and does not change."""
    return [xxhash.xxh3_64_intdigest(f"{lot}/{filename}".encode()) or 1 for filename in filenames]


def _describe(artifact: Path, validated: Path | None) -> About:
    manifest = read_json(artifact / "manifest.json", "predict")
    metrics = read_json(artifact / "metrics/predictions.json", "predict")
    with reading(artifact / "metrics/predictions.json", "predict"):
        if not (version := metrics["model_version"]):
            raise DataError(f"{artifact} holds no predictions: no version was released then; run stage predict again")
        files = {file["path"]: file["sha256"] for file in manifest["files"]}
        lots = []
        first = 0
        for name, told in metrics["lots"].items():
            features = f"features/{name}.npz"
            digest = files[f"outputs/predictions_{name}.csv"]
            lots.append(Lot(name, told["images"], first, digest, features if features in files else ""))
            first = WORD * lots[-1].words.stop
        answered = tuple(
            Attribute(name, tuple(classes)[:-1], name, name) for name, classes in metrics["classes"].items()
        )
        if any(len(attribute.classes) > MOST_CLASSES for attribute in answered):
            raise DataError(f"an attribute has more than {MOST_CLASSES} classes, which the index has no room for")
        attributes = _titled(answered, artifact, manifest["inputs"]["champion"]["key"])
    return About(str(artifact), str(validated or ""), version, sum(lot.images for lot in lots), attributes, tuple(lots))


def _titled(answered: Attributes, artifact: Path, champion: str) -> Attributes:
    """The attributes with the titles of the champion's artifact, if it is still there."""
    for folder in (artifact.parents[1] / "champion" / champion, artifact.parent / "champion"):
        if (folder / "attributes.json").is_file():
            titles = {attribute.name: attribute.title for attribute in read_attributes(folder)}
            return tuple(
                replace(attribute, title=titles.get(attribute.name, attribute.title)) for attribute in answered
            )
    return answered


def _refuse(artifact: Path, cause: str) -> None:
    raise DataError(f"{artifact}: {cause}: remove it and run stage predict again")


def _parts(artifact: Path, about: About, known: "Index | None", same: Mapping[str, Lot]) -> Iterator[tuple[Lot, _Part]]:
    """Parts of all lots, each in the order of its predictions: from an earlier index, or from the predictions."""
    new = []
    for lot in about.lots:
        if known and lot.predictions in same:
            yield from ((lot, part) for part in known.parts(same[lot.predictions]))
        else:
            new.append(lot)
    workers = min(WORKERS, available_cpus(), 1 + sum(lot.images for lot in new) // WORTH)
    with WorkerPool(workers, "SERVE_WORKERS") as pool:
        yield from pool.map(_read, (block for lot in new for block in _blocks(artifact, lot, about.attributes)))


def _predictions(artifact: Path, lot: Lot) -> Path:
    return artifact / f"outputs/predictions_{lot.name}.csv"


def _blocks(artifact: Path, lot: Lot, attributes: Attributes) -> Iterator[_Block]:
    """The rows of a lot's predictions.csv, `ROWS` at a time."""
    path = _predictions(artifact, lot)
    with reading(path, "predict"):
        if file_digest(path) != lot.predictions:
            _refuse(artifact, f"{path.name} is damaged")
        with path.open(encoding="utf-8", newline="") as lines:
            rows = whole_rows(lines)
            (header,) = csv.reader([next(rows, "")])
            places = [
                (header.index(f"{attribute.name}_predicted"), header.index(f"{attribute.name}_confidence"),
                 header.index(f"{attribute.name}_answered"))
                for attribute in attributes
            ]  # fmt: skip
            name = header.index("filename")
            while text := "".join(islice(rows, ROWS)):
                yield _Block(artifact, lot, text, name, places, attributes)


def whole_rows(lines: Iterator[str]) -> Iterator[str]:
    """The rows of a CSV: a line, or several lines if a quoted cell contains line ends."""
    for line in lines:
        row = line
        while row.count('"') % 2:
            row += next(lines, '"')
        yield row


def _read(block: _Block) -> tuple[Lot, _Part]:
    """Parse the rows of a block."""
    with reading(_predictions(block.artifact, block.lot), "predict"):
        cells = list(zip(*csv.reader(io.StringIO(block.rows, newline="")), strict=True))

        def column(place: int, known: Mapping[str, int]) -> npt.NDArray[np.uint16]:
            return np.fromiter(map(known.__getitem__, cells[place]), np.uint16, len(cells[place]))

        classes = [
            {text: number for number, text in enumerate((*attribute.classes, ""))} for attribute in block.attributes
        ]
        said = np.stack([column(of[0], known) for of, known in zip(block.places, classes, strict=True)])
        confidence = np.stack([column(of[1], _TENTHOUSANDTHS) for of in block.places])
        given = np.stack([column(of[2], {"yes": 1, "no": 0}) for of in block.places])
    names = [*map(as_written, cells[block.name])]
    return block.lot, _Part(names, said.astype(np.uint8), confidence, given.astype(np.bool_))


class _Parts(dict[str, int]):
    """Confidence as text -> as stored; there are at most `SCALE` different ones."""

    def __missing__(self, text: str) -> int:
        self[text] = round(float(text) * SCALE)
        return self[text]


_TENTHOUSANDTHS = _Parts({"": 0})


def _set_bits(bitmaps: npt.NDArray[np.uint64], attributes: Attributes, part: _Part, first: int) -> None:
    """Set the bits of some images; the first image has the first bit of word `first`."""
    row = 0
    for attribute, said, given in zip(attributes, part.said, part.given, strict=True):
        for number in range(len(attribute.classes) + 1):
            words = packed(given & (said == number) if number < len(attribute.classes) else ~given)
            bitmaps[row, first : first + len(words)] = words
            row += 1


def packed(bits: npt.NDArray[np.bool_]) -> Words:
    """A bitmap of truth values, (W,) from (N,): the last word is padded with zeros."""
    octets = np.packbits(bits, bitorder="little")
    return np.pad(octets, (0, -len(octets) % (WORD // 8))).view(np.uint64)


def _set_labels(
    labels: npt.NDArray[np.uint8], attributes: Attributes, validated: Path, ids: npt.NDArray[np.uint64], order: Any
) -> None:
    """Find the images of annotations, by lot and by name or path as in stage predict."""
    labels[:] = UNLABELLED
    classes = {attribute.name: attribute.classes for attribute in read_attributes(validated)}
    numbers = [
        {
            str(cell): attribute.classes.index(text)
            for cell, text in enumerate(classes.get(attribute.name, ()))
            if text in attribute.classes
        }
        for attribute in attributes
    ]
    rows = annotation_rows(validated, "filename", "lot", "path")
    ordered = ids[order]
    while chunk := list(islice(rows, ROWS)):
        found = np.array(
            [
                [
                    known.get(row.get(attribute.name, ""), UNLABELLED)
                    for attribute, known in zip(attributes, numbers, strict=True)
                ]
                for row in chunk
            ],
            np.uint8,
        )
        for called in ("filename", "path"):
            wanted = np.array([ids_of(row["lot"], [row[called]])[0] for row in chunk], np.uint64)
            places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
            there = ordered[places] == wanted
            labels[:, order[places[there]]] = found[there].T


# ---- asking it ----

OWN = ("min_confidence", "lot", "answered", "label", "file", "sort", "page", "size")
"""Words of a query that are not attributes."""
MOST = 200
"""Greatest number of images of a page."""


@dataclass(frozen=True)
class Query:
    """Filters, order and page of a search.

    Attributes:
        values: number of an attribute -> numbers of the wanted classes; the last number is `ABSTAINED`.
        least: lowest confidence, in `SCALE`, of the attributes in `values`, or of all if there are none.
        lots: the wanted lots; all if it is empty.
        answered: with an answer about every attribute, or without one about some; None for both.
        labels: of `LABELS`; all if it is empty.
        files: the wanted file names; all if it is empty.
        sort: file or confidence, or the number of an attribute, for its confidence.
        falling: the highest first.
        page: from 1 on, of `size` images.
    """

    values: Mapping[int, frozenset[int]] = field(default_factory=dict)
    least: int = 0
    lots: frozenset[str] = frozenset()
    answered: bool | None = None
    labels: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    sort: int | Literal["file", "confidence"] = "file"
    falling: bool = False
    page: int = 1
    size: int = 60


class Index:
    """An open index, usable from several threads. It works on after its folder is removed."""

    def __init__(self, folder: Path) -> None:
        """Open an index of `build`.

        Raises:
            DataError: it is not whole.
        """
        with reading(folder / INDEX):
            told = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if told.pop("format") != FORMAT:
                raise DataError(f"{folder} has another format")
            attributes = tuple(
                Attribute(**{**attribute, "classes": tuple(attribute["classes"])}) for attribute in told["attributes"]
            )
            self.about = About(**{**told, "attributes": attributes, "lots": tuple(Lot(**lot) for lot in told["lots"])})
            columns = ("bitmaps", "said", "confidence", "ids", "order", "labels")
            opened = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in columns)
            self._bitmaps, self._said, self._confidence, self._ids, self._order, self._labels = map(np.asarray, opened)
            place = f"{(folder / NAMES).resolve().as_uri()}?mode=ro&immutable=1"
            self._names = sqlite3.connect(place, uri=True, check_same_thread=False)
            self._names.execute("SELECT 1 FROM images LIMIT 1").fetchone()
        self._naming = threading.Lock()
        starts = np.cumsum([0, *(len(attribute.classes) + 1 for attribute in attributes)]).tolist()
        self._rows = [range(start, stop) for start, stop in pairwise(starts)]
        self.parameters = tuple(name + "_" * (name in OWN) for name in names(attributes))
        self._ends = [lot.positions.stop for lot in self.about.lots]
        self._all = self._words()
        for lot in self.about.lots:
            self._all[lot.words] = packed(np.ones(lot.images, bool))
        self._learned = [number for number in range(len(attributes)) if self._confidence[number].any()]
        self._of_labels = self._compare_labels()

    def is_of(self, artifact: Path, validated: Path | None) -> bool:
        """Whether it is of these artifacts, as given to `build`."""
        return (self.about.artifact, self.about.labels) == (str(artifact), str(validated or ""))

    def close(self) -> None:
        """Close the file with names."""
        self._names.close()

    # -- queries --

    def parse(self, words: Iterable[tuple[str, str]]) -> Query:
        """Query of the words of an address: `<attribute>=<class>` and those of `OWN`; a word may stand there twice.

        Raises:
            UsageError: there is no such word, attribute, class, lot or order, or a number is out of range.
        """
        asked: dict[str, list[str]] = {}
        for name, value in words:
            asked.setdefault(name, []).append(value)
        values: dict[int, frozenset[int]] = {}
        for name in asked.keys() - set(OWN):
            number = _one_of(self.parameters, name, "parameter", more=OWN)
            choices = self.values(number)
            values[number] = frozenset(_one_of(choices, value, name) for value in asked[name])
        lots, sorts = [lot.name for lot in self.about.lots], ("file", "confidence", *self.parameters)

        def chosen(name: str, choices: Sequence[str]) -> frozenset[str]:
            return frozenset(choices[_one_of(choices, value, name)] for value in asked.get(name, ()))

        def single(name: str, otherwise: str) -> str:
            found = asked.get(name, [otherwise])
            if len(found) > 1:
                raise UsageError(f"{name}: expected once, found {len(found)} times")
            return found[0]

        sort = single("sort", "file")
        order = _one_of(sorts, sort.removeprefix("-"), "sort", note=", each with a - before it for the other direction")
        answered = single("answered", "")
        yes = [None, True, False][_one_of(("", "yes", "no"), answered, "answered")]
        return Query(
            values=values,
            least=math.ceil(_number("min_confidence", single("min_confidence", "0"), 0, 1) * SCALE - 1e-6),
            lots=chosen("lot", lots),
            answered=yes,
            labels=chosen("label", LABELS),
            files=frozenset(asked.get("file", ())),
            sort="file" if order == 0 else "confidence" if order == 1 else order - 2,
            falling=sort.startswith("-"),
            page=int(_number("page", single("page", "1"), 1, 10**9, whole=True)),
            size=int(_number("size", single("size", "60"), 1, MOST, whole=True)),
        )

    def values(self, number: int) -> tuple[str, ...]:
        """Values by which an attribute can be filtered."""
        return (*self.about.attributes[number].classes, ABSTAINED)

    def search(self, query: Query) -> dict[str, Any]:
        """The images of a query.

        Returns:
            JSON-like: `total`, `pages`, `rows`; and for every attribute, lot and label, and for `answered`, the number
            of images with each choice in place of that in the query.

        Raises:
            UsageError: there is no such page.
        """
        select = _Selection(self, query)
        mask = select()
        total = _count(mask)
        pages = max(1, -(-total // query.size))
        if query.page > pages:
            raise UsageError(f"page: expected a whole number from 1 to {pages}, found {query.page}")
        attributes = []
        for number, attribute in enumerate(self.about.attributes):
            others = select(without=number)
            counts = {
                value: _count(others & self._bitmaps[row])
                for value, row in zip(self.values(number), self._rows[number], strict=True)
            }
            told = {"name": attribute.name, "title": attribute.title, "parameter": self.parameters[number]}
            attributes.append(told | {"learned": number in self._learned, "counts": counts})
        in_lots = np.bitwise_count(select(without="lots"))
        sums = np.concatenate([[0], np.cumsum(in_lots, dtype=np.int64)])
        others, answers = select(without="labels"), select(without="answered")
        return {
            **self.told(),
            "total": total,
            "page": query.page,
            "pages": pages,
            "attributes": attributes,
            "lots": {lot.name: int(sums[lot.words.stop] - sums[lot.words.start]) for lot in self.about.lots},
            "labels": {name: _count(others & words) for name, words in self._of_labels.items()},
            "answered": {"yes": _count(answers & ~self._unanswered()), "no": _count(answers & self._unanswered())},
            "rows": self.rows(self._page(mask, query)),
        }

    def told(self) -> dict[str, Any]:
        """Version, artifact and number of images, for every answer."""
        return {"version": self.about.version, "artifact": Path(self.about.artifact).name, "images": self.about.images}

    def position(self, image: str) -> int | None:
        """Position of the image with an id of 16 hex digits; None if there is none."""
        try:
            return self._place(int.from_bytes(bytes.fromhex(image))) if len(image) == 16 else None
        except ValueError:
            return None

    def _place(self, image: int) -> int | None:
        """The position of the image with an id; None if there is none."""
        wanted = np.uint64(image)
        place = int(np.searchsorted(self._ids, wanted, sorter=self._order))
        position = int(self._order[place]) if place < len(self._order) else None
        return position if wanted and position is not None and self._ids[position] == wanted else None

    def lot(self, position: int) -> Lot:
        """The lot of an image."""
        return self.about.lots[int(np.searchsorted(self._ends, position, side="right"))]

    def rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of some images, JSON-like."""
        filenames = self._filenames(positions)
        return [
            {
                "id": f"{int(self._ids[position]):016x}",
                "lot": self.lot(position).name,
                "filename": filenames[position],
                "answers": {
                    attribute.name: self._answer(number, position)
                    for number, attribute in enumerate(self.about.attributes)
                },
            }
            for position in positions
        ]

    def similar(self, position: int, query: Query, count: int) -> list[dict[str, Any]]:
        """Images with the nearest embeddings, by cosine, among those of a query, the nearest first.

        Returns:
            `rows` of at most `count` images, each with `likeness`, from -1 to 1.

        Raises:
            DataError: the embeddings are not there any more.
        """
        mine = self.lot(position)
        wanted = np.concatenate([*self._embeddings(mine, position - mine.first, 1)])[0]
        wanted = wanted / max(float(np.linalg.norm(wanted)), 1e-12)
        mask = _Selection(self, query)()
        likeness = np.full(len(self._ids), -np.inf, np.float32)
        for lot in self.about.lots:
            start = lot.first
            for block in self._embeddings(lot) if lot.features and mask[lot.words].any() else ():
                norms = np.sqrt(np.einsum("ij,ij->i", block, block))
                likeness[start : start + len(block)] = (block @ wanted) / np.maximum(norms, 1e-12)
                start += len(block)
        likeness[~_bits(mask)] = -np.inf
        likeness[position] = -np.inf
        most = min(count, int(np.isfinite(likeness).sum()))
        nearest = np.argpartition(likeness, -most)[-most:] if most else np.empty(0, np.intp)
        nearest = nearest[np.lexsort((nearest, -likeness[nearest]))]
        found = self.rows(nearest.tolist())
        return [row | {"likeness": round(float(likeness[place]), 4)} for row, place in zip(found, nearest, strict=True)]

    # -- implementation --

    def parts(self, lot: Lot) -> Iterator[_Part]:
        """Parts of a lot, for another index."""
        abstained = self._bitmaps[[rows[-1] for rows in self._rows], lot.words]
        for start in range(lot.first, lot.first + lot.images, ROWS):
            rows = slice(start, min(start + ROWS, lot.first + lot.images))
            words = abstained[:, (start - lot.first) // WORD :][:, : -(-(rows.stop - start) // WORD)]
            given = ~np.stack([_bits(word)[: rows.stop - start] for word in words])
            filenames = self._filenames(range(rows.start, rows.stop))
            yield _Part([*filenames.values()], self._said[:, rows], self._confidence[:, rows], given)

    def _words(self) -> Words:
        return np.zeros(self._bitmaps.shape[1], np.uint64)

    def _unanswered(self) -> Words:
        """Images for which the model abstains from an answered attribute."""
        rows = [self._rows[number][-1] for number in self._learned]
        return np.bitwise_or.reduce(self._bitmaps[rows], axis=0) if rows else self._words()

    def _compare_labels(self) -> dict[str, Words]:
        """One bitmap for each of `LABELS`."""
        known, differs = self._words(), self._words()
        for number in range(len(self.about.attributes) if self._labels.shape[1] else 0):
            given = packed(self._labels[number] != UNLABELLED) & ~self._bitmaps[self._rows[number][-1]]
            known |= given
            differs |= given & packed(self._labels[number] != self._said[number])
        known &= self._all
        return dict(zip(LABELS, (known & ~differs, known & differs, self._all & ~known), strict=True))

    def _filenames(self, positions: Sequence[int]) -> dict[int, str]:
        """Position -> name, in the order of `positions`."""
        question = "SELECT filename FROM images WHERE position = ?"
        with self._naming:
            return {position: self._names.execute(question, [position]).fetchone()[0] for position in positions}

    def _with_names(self, files: Iterable[str]) -> Words:
        """Images whose files have one of these names."""
        bits = np.zeros(len(self._ids), bool)
        for lot in self.about.lots:
            bits[[place for image in ids_of(lot.name, [*files]) if (place := self._place(image)) is not None]] = True
        return packed(bits)

    def _sureness(self, numbers: Iterable[int]) -> npt.NDArray[np.uint16]:
        """(P,): the lowest confidence of some attributes, in `SCALE`."""
        found = [self._confidence[number] for number in numbers]
        return np.minimum.reduce(found) if found else np.zeros(len(self._ids), np.uint16)

    def _page(self, mask: Words, query: Query) -> list[int]:
        """Positions on the requested page; images with equal keys are in the order of positions."""
        found = np.flatnonzero(_bits(mask))
        start, stop = (query.page - 1) * query.size, min(query.page * query.size, len(found))
        if query.sort == "file":
            chosen = found[::-1][start:stop] if query.falling else found[start:stop]
        elif start < stop:
            numbers = (query.values or self._learned) if query.sort == "confidence" else [query.sort]
            keys = self._sureness(numbers)[found].astype(np.int64)
            keys = ((SCALE - keys if query.falling else keys) << 32) | found
            chosen = np.sort(np.partition(keys, (start, stop - 1))[start:stop]) & 0xFFFFFFFF
        else:
            chosen = found
        return [int(position) for position in chosen]

    def _answer(self, number: int, position: int) -> dict[str, Any]:
        """Answer about one attribute of an image, and its label if there is one."""
        classes = self.about.attributes[number].classes
        said, confidence = int(self._said[number, position]), int(self._confidence[number, position])
        word = int(self._bitmaps[self._rows[number][-1], position // WORD])
        told: dict[str, Any] = {
            "class": classes[said] if said < len(classes) else None,
            "confidence": confidence / SCALE if confidence else None,
            "answered": not word >> position % WORD & 1,
        }
        if self._labels.shape[1] and (label := int(self._labels[number, position])) != UNLABELLED:
            told["label"] = classes[label]
        return told

    def _embeddings(self, lot: Lot, first: int = 0, count: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Embeddings of a lot, float32 (n, D), in blocks: each overwrites the memory of the last."""
        path = Path(self.about.artifact) / lot.features
        with reading(path, "predict"), path.open("rb") as file:
            start, kind, (stored, width) = _member(path, "embeddings")
            if stored != lot.images:
                _refuse(Path(self.about.artifact), f"{path.name} is of {stored:,} images, not {lot.images:,}")
            file.seek(start + first * width * kind.itemsize)
            left = lot.images - first if count is None else count
            block = np.empty((min(BLOCK, left), width), np.float32)
            raw = np.empty_like(block, kind)
            while left:
                size = min(BLOCK, left)
                if file.readinto(raw[:size].view(np.uint8).data) != raw[:size].nbytes:
                    raise DataError(f"{path} is cut short: run stage predict again")
                np.copyto(block[:size], raw[:size])
                yield block[:size]
                left -= size


class _Selection:
    """Images of a query, or of the query without one of its parts."""

    def __init__(self, index: Index, query: Query) -> None:
        self._index, self._query = index, query
        self._sure: dict[int, Words] = {}
        self._files = index._with_names(query.files) if query.files else None
        self._lots = index._words()
        for lot in index.about.lots:
            if lot.name in query.lots:
                self._lots[lot.words] = index._all[lot.words]

    def __call__(self, without: int | str = "") -> Words:
        """(W,), of the whole query, or without one part.

        Args:
            without: an attribute, whose lowest confidence still counts; or a name of `Query`.
        """
        index, query = self._index, self._query
        mask = index._all.copy()
        for number, wanted in query.values.items():
            if number != without:
                rows = index._rows[number]
                mask &= np.bitwise_or.reduce(index._bitmaps[[rows[value] for value in wanted]], axis=0)
        asked = {*query.values, *([without] if isinstance(without, int) else [])}
        for number in (asked or index._learned) if query.least else ():
            if number not in self._sure:
                self._sure[number] = packed(index._confidence[number] >= query.least)
            mask &= self._sure[number]
        if query.lots and without != "lots":
            mask &= self._lots
        if query.answered is not None and without != "answered":
            mask &= ~index._unanswered() if query.answered else index._unanswered()
        if query.labels and without != "labels":
            mask &= np.bitwise_or.reduce([index._of_labels[name] for name in query.labels])
        if self._files is not None:
            mask &= self._files
        return mask


def _bits(words: Words) -> npt.NDArray[np.bool_]:
    """(64 W,): the truth values of a bitmap."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)


def _count(words: Words) -> int:
    return int(np.bitwise_count(words).sum())


def _one_of(choices: Sequence[str], found: str, what: str, more: Sequence[str] = (), note: str = "") -> int:
    """The number of a choice.

    Raises:
        UsageError: there is no such choice.
    """
    if found not in choices:
        there = ", ".join(choice for choice in (*choices, *more) if choice)
        raise UsageError(f"{what}: there is no {shown(found)}, only {there}{note}")
    return choices.index(found)


def shown(text: str) -> str:
    """A text from a request, for one line of a message."""
    return repr(text if len(text) <= 80 else f"{text[:79]}\u2026")


def _number(name: str, text: str, least: float, most: float, *, whole: bool = False) -> float:
    try:
        value = int(text[:20]) if whole else float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        kind = "whole number" if whole else "number"
        raise UsageError(f"{name}: expected a {kind} from {least} to {most}, found {shown(text)}")
    return value


def _member(path: Path, name: str) -> tuple[int, np.dtype[Any], tuple[int, int]]:
    """Offset, type and shape of an array (n, D) in an uncompressed .npz."""
    with zipfile.ZipFile(path) as archive:
        told = archive.getinfo(f"{name}.npy")
        if told.compress_type != zipfile.ZIP_STORED:
            raise DataError(f"{path} is compressed, which stage predict does not write: run it again")
        with archive.open(told) as file:
            major, _ = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            (count, width), _, kind = read(file)
            header = file.tell()
    with path.open("rb") as whole:
        whole.seek(told.header_offset)
        # 30 bytes; the last four are the lengths of the name and of the extra field that follow
        lengths = struct.unpack("<26xHH", whole.read(30))
    return told.header_offset + 30 + sum(lengths) + header, kind, (count, width)
