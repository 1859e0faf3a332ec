"""The search as a server of its own, on predictions of a hand-made model; what stands before it is tested elsewhere."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from images.serve import search
from stages.common.images.settings import ImagesSection
from tests.stages.test_predict import Data
from tests.waiting import PATIENCE_S, wait_until


@dataclass
class Served:
    """A search that is running.

    Attributes:
        url: its address.
        client: asks it.
        champion: the champion; `name` is what it is called.
        search: what answers.
    """

    url: str
    client: httpx.Client
    champion: Any
    search: search.Search

    def get(self, path: str, **words: Any) -> Any:
        """Answer to a request, which must not be refused."""
        answer = self.client.get(path, params=words)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, path: str, status: int) -> str:
        """The line of a refusal."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        line: str = answer.json()["error"]
        assert "\n" not in line
        return line

    def wait(self, until: Callable[[], object]) -> None:
        """Wait until something is true."""
        wait_until(until, lambda: self.search.problem)

    def wait_for(self, version: str) -> None:
        """Wait until the predictions of a version are searched."""
        self.wait(lambda: self.search.index and self.search.index.about.version == version)


def predict(data: Data, version: str, **changes: Any) -> Path:
    """Release a version, keep it in the store as stage champion does, and let it predict."""
    data.release(version, model=version[-1], **changes)
    key = json.loads((data.champion / "manifest.json").read_text())["key"]
    shutil.copytree(data.champion, data.store / "champion" / key)
    artifact, _ = data.result()
    return artifact


@contextmanager
def serving(store: Path, raw: Path, folder: Path, version: str = "v3") -> Iterator[Served]:
    """Serve the search over a store, while `version` is the champion."""
    champion = SimpleNamespace(name=version)
    images = ImagesSection(near_white=245, max_megapixels=50)
    settings = SimpleNamespace(artifacts=store, raw=raw, index=folder, images=images)
    app = FastAPI()
    app.state.service = SimpleNamespace(settings=settings, champion=champion)
    app.include_router(search.router)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "start of the server")
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            yield Served(url, client, champion, app.state.search)
    finally:
        server.should_exit = True
        thread.join()
