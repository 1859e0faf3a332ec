"""State that the parts of the application share, and the form of their answers."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from images.serve.answers import Answer, answer_files
from images.serve.batches import Batches, BusyError
from images.serve.champion import Champion, Served
from images.serve.limits import RefusedError
from images.serve.metrics import BATCH, IMAGES
from images.serve.settings import Settings
from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import DataError


class Service:
    """State that lives as long as the process.

    Attributes:
        settings: settings of the service.
        champion: the version that answers.
        computing: lock for calls that let the network compute in another thread.
    """

    def __init__(self, settings: Settings) -> None:
        """Prepare the state; nothing is loaded yet."""
        self.settings = settings
        self.champion = Champion(settings)
        threads = -(-available_cpus() // settings.workers)
        self.computing = asyncio.Semaphore(threads)
        self._batches: Batches[Served, bytes, Answer] = Batches(_answered, threads, settings.limits.waiting)

    def served(self) -> Served:
        """The current version; a request reads it once, and uses it to its end.

        Raises:
            RefusedError: there is none.
        """
        if not self.champion.served:
            raise RefusedError(503, self.champion.problem, {"retry-after": "5"})
        return self.champion.served

    async def answers(self, served: Served, files: Sequence[bytes]) -> list[Answer]:
        """Answers of a version about some files, in their order.

        Raises:
            RefusedError: too many images wait already, or the model cannot be run.
        """
        try:
            return await self._batches.results(served, files)
        except BusyError:
            raise RefusedError(503, "too many images wait: try again", {"retry-after": "1"}) from None
        except DataError as error:
            raise RefusedError(500, str(error)) from None

    def close(self) -> None:
        """Let the threads end."""
        self._batches.close()


def _answered(served: Served, files: Sequence[bytes]) -> list[Answer]:
    """Answer some files, and count them."""
    BATCH.observe(len(files))
    answers = answer_files(served, files)
    refused = sum(bool(answer.reason) for answer in answers)
    for result, count in (("answered", len(answers) - refused), ("refused", refused)):
        IMAGES.labels(served.name, result).inc(count)
    return answers


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
"""A parameter of this type is the service."""


class Json(Response):
    """An answer in ASCII JSON, without NaN and infinity."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Answer with `content`."""
        super().__init__(json.dumps(content, allow_nan=False), status_code, dict(headers or {}))


async def in_thread(work: Any, *arguments: Any) -> Any:
    """Result of a call, made in a thread because it would block all other requests."""
    return await asyncio.to_thread(work, *arguments)
