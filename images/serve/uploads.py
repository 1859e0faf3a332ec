"""Files in a request: several in a form, or one as the body. They stay in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from images.serve.limits import RefusedError
from images.serve.settings import Limits

CHUNK = 256 * 1024
NAME_LENGTH = 255
RAW = ("image/", "application/octet-stream")


class File(NamedTuple):
    """A received file: its name by the client ("" if absent), which is only repeated in the answer; and its content."""

    name: str
    content: bytes


class _InMemory(MultiPartParser):
    """Keeps files in memory, within the limit of bodies; Starlette would write large ones to a disk."""

    spool_max_size = 0  # of a temporary file: no limit


async def files_of(request: Request, limits: Limits) -> list[File]:
    """The files of a request, at least one.

    Raises:
        RefusedError: there are none or too many, or they come in another form.
    """
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    body = await request.body()
    if kind == "multipart/form-data":
        files = await _of_form(request, body, limits.images)
    elif kind.startswith(RAW):
        files = [File("", body)] if body else []
    else:
        raise RefusedError(415, f"{kind!a} is not an image: send image/png, image/jpeg or files in multipart/form-data")
    if not files:
        raise RefusedError(400, "no image came: send one as the body, or files in multipart/form-data")
    return files


async def _of_form(request: Request, body: bytes, most: int) -> list[File]:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), CHUNK):
            yield body[start : start + CHUNK]
            await asyncio.sleep(0)  # other requests are served meanwhile

    try:
        form = await _InMemory(request.headers, parts(), max_files=most, max_fields=most).parse()  # type: ignore[arg-type]
    except MultiPartException as error:
        if "Too many" in error.message:
            raise RefusedError(413, f"more than {most} images: send them in several requests") from None
        raise RefusedError(400, f"this is not multipart/form-data: {error.message}") from None
    try:
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [File((upload.filename or "")[:NAME_LENGTH], await upload.read()) for upload in uploads]
    finally:
        await form.close()
