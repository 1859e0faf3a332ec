"""Corrections of labels, which the pages of reports send: each save is a new file that is never replaced.

They are in FACE_ATTRIBUTES_CORRECTIONS (default /corrections), the folder `corrections` beside the annotations, where
stage `validate` reads them as the newest; this service can write nowhere else in the data. Only users who may trigger
the pipeline may correct; the name of the user comes from Airflow, never from the page.

A page of another site cannot save in a user's name: its requests come without the cookie (`SameSite=Lax`); a browser
sends JSON there only after a preflight request, which is not answered; and a request that comes from another site by
its headers is refused.
"""

import csv
import io
import os
import re
import secrets
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

DAG_ID = "ml_pipeline_face_attributes"  # who may trigger this DAG may correct labels
STARTS = {"validate_data": "Validate", DAG_ID: "Train"}
"""DAGs that a page offers to trigger after a save, and their titles."""
FOLDER = Path(os.environ.get("FACE_ATTRIBUTES_CORRECTIONS", "/corrections"))
BY, AT = "corrected_by", "corrected_at"
FILE = re.compile(r"corrections_[\w.-]+\.csv")
MOST = 5_000  # corrections at a time
MOST_FILES, MOST_BYTES = 1_000, 4 * 1024**2  # that a page gets, the newest
FORMULA = re.compile(r"""['"\s]*[-=+@\uff1d\uff0b\uff0d\uff20]""")
"""Beginning of a cell that a spreadsheet would run."""
WITHIN = re.compile(rf"[;|]{FORMULA.pattern}")
"""The same, for spreadsheets that begin a cell at other signs than a comma."""


def _line(text: str) -> str:
    if not text.isprintable() or WITHIN.search(text):
        raise ValueError("it is not a printable line, or a spreadsheet would run it as a formula: correct it by hand")
    return text


def _word(text: str) -> str:
    if FORMULA.match(text) or text.casefold().replace("-", "_").replace(" ", "_") in {"filename", "group", BY, AT}:
        raise ValueError("it begins like a formula, or has the name of a column of another kind")
    return text


Line = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_line)]
Word = Annotated[Line, AfterValidator(_word)]


class Strict(BaseModel):
    """Refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Correction(Strict):
    """A label of an image: the column of an attribute, and the name of the right class, or `unknown`."""

    filename: Line
    column: Word
    class_: Word = Field(alias="class")


class Corrections(Strict):
    """The corrections that a page saves at once."""

    corrections: Annotated[list[Correction], Field(min_length=1, max_length=MOST)]


class NotWrittenError(OSError):
    """There is no folder of corrections, or it is not writable."""


def write(folder: Path, corrections: Sequence[Correction], by: str, now: datetime) -> str:
    """Write corrections, whole or not at all, into a new file, and return its name.

    Args:
        folder: the folder.
        corrections: the corrections; the later of two about the same label counts.
        by: the person, as of `known_as`.
        now: the time.

    Raises:
        NotWrittenError: the file cannot be written.
    """
    at = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    person = re.sub("[^a-z0-9]+", "-", by.lower()).strip("-")[:40] or "somebody"
    token = "".join(secrets.choice(string.ascii_lowercase) for _ in range(6))  # no digits, which could be a date
    # with milliseconds: of two files of one second, the later must have the later name
    moment = now.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds").replace(":", "")
    name = f"corrections_{moment}Z_{person}_{token}.csv"
    partial = f".{name}"
    with _opened(folder) as home:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(partial, flags, 0o644, dir_fd=home), "w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(_rows(corrections, by, at))
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, name, src_dir_fd=home, dst_dir_fd=home, follow_symlinks=False)  # which replaces nothing
            os.fsync(home)
        except OSError as error:
            raise NotWrittenError(f"the folder of corrections is not writable ({error.strerror})") from error
        finally:
            with suppress(OSError):  # it may be absent, and a folder that is not writable allows no removal
                os.unlink(partial, dir_fd=home)
    return name


def known_as(name: str) -> str:
    """Name of a person in files: letters, digits and the signs of e-mail addresses, and never a formula."""
    told = re.sub(r"[^\w.@ -]", " ", name).strip() or "somebody"
    return f"'{told}" if FORMULA.match(told) else told


def _rows(corrections: Sequence[Correction], by: str, at: str) -> Iterator[list[str]]:
    columns = list(dict.fromkeys(correction.column for correction in corrections))
    images: dict[str, dict[str, str]] = {}
    for correction in corrections:
        images.setdefault(correction.filename, {})[correction.column] = correction.class_
    yield ["filename", *columns, BY, AT]
    for name, labels in images.items():
        # with ./ in front, a path is the same, and not a formula
        called = f"./{name}" if FORMULA.match(name) else name
        yield [called, *(labels.get(column, "") for column in columns), by, at]


def read(folder: Path) -> list[dict[str, str]]:
    """Saved corrections, the oldest first: filename, column, class, by, at. Files of other forms are left out.

    Raises:
        NotWrittenError: there is no such folder.
    """
    found: list[dict[str, str]] = []
    left = MOST_BYTES
    with _opened(folder) as home:
        listed = os.listdir(home)  # noqa: PTH208 (of what is open)
        names = sorted(filter(FILE.fullmatch, listed), reverse=True)  # they begin with the moment
        for name in names[:MOST_FILES]:
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                with os.fdopen(os.open(name, flags, dir_fd=home), "rb") as file:
                    data = file.read(left + 1)
                rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
            except (OSError, ValueError, csv.Error):
                continue
            left -= len(data)
            if left < 0:
                break
            found[:0] = [correction for row in rows for correction in _told(row)]
    return found


def _told(row: dict[str, Any]) -> Iterable[dict[str, str]]:
    cells = {name: cell for name, cell in row.items() if isinstance(name, str) and isinstance(cell, str)}
    if {"filename", BY, AT} <= cells.keys():
        name, by, at = (cells.pop(column) for column in ("filename", BY, AT))
        for column, label in cells.items():
            if label:
                yield {"filename": name.removeprefix("./"), "column": column, "class": label, "by": by, "at": at}


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        home = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise NotWrittenError(f"there is no folder of corrections ({error.strerror}): run `make up`") from error
    try:
        yield home
    finally:
        os.close(home)


# ---- the routes ----

router = APIRouter()
allowed = requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=DAG_ID)


def from_here(request: Request) -> None:
    """Refuse requests of another site, or of a form."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "A page of another site may not save corrections.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Corrections are JSON.")


@router.get("/corrections")
def corrections(request: Request, user: GetUserDep) -> dict[str, Any]:
    """Whether this user may correct, whether the folder is writable, saved corrections, and DAGs to start."""
    try:
        allowed(request, user)
    except HTTPException:
        return {"may": False}
    try:
        saved, writable = read(FOLDER), os.access(FOLDER, os.W_OK)
    except NotWrittenError:
        saved, writable = [], False
    starts = [{"dag": dag, "title": title} for dag, title in STARTS.items()]
    return {"may": True, "writable": writable, "saved": saved, "starts": starts}


@router.post("/corrections", dependencies=[Depends(from_here), Depends(allowed)], status_code=201)
def save(told: Corrections, user: GetUserDep) -> dict[str, Any]:
    """Save corrections; the answer has the file's name, and all saved corrections."""
    by = known_as(user.get_name())
    try:
        name = write(FOLDER, told.corrections, by, datetime.now(UTC))
        return {"file": name, "by": by, "saved": read(FOLDER)}
    except NotWrittenError as error:
        raise HTTPException(503, f"Not saved: {error}") from error
