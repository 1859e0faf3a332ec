"""The service in its container, confined as in docker-compose.yml."""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml

from tests.common.photograph import photograph
from tests.serve.pictures import encoded
from tests.serve.serving import ROOT, TOKEN
from tests.waiting import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker
IMAGE = "face-attributes/serve"
MOST_MB = 450


def is_healthy(container: Any) -> bool:
    """Whether the engine says so."""
    container.reload()
    return bool(container.attrs["State"].get("Health", {}).get("Status") == "healthy")


@pytest.fixture(scope="module")
def container(docker: "DockerClient", sensitive: Path) -> Iterator[Any]:
    """The service as Compose starts it, on a store with one version."""
    from docker.types import Mount

    subprocess.run([ROOT / "scripts/images", "serve"], check=True)
    told = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["serve"]
    for folder in (sensitive, *sensitive.parents[:2], *sensitive.rglob("*")):  # the service is another user
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    container = docker.containers.run(
        IMAGE,
        detach=True,
        name=f"test-serve-{uuid.uuid4().hex[:8]}",
        environment={"SERVE_TOKEN": TOKEN},
        ports={"8090/tcp": ("127.0.0.1", 0)},
        mounts=[Mount("/index", None, type="volume")],
        volumes={str(sensitive): {"bind": "/artifacts", "mode": "ro"}},
        read_only=told["read_only"],
        cap_drop=told["cap_drop"],
        security_opt=told["security_opt"],
        mem_limit=told["mem_limit"],
        pids_limit=told["pids_limit"],
    )
    try:
        wait_until(lambda: is_healthy(container), lambda: container.logs().decode())
        yield container
    finally:
        container.remove(force=True, v=True)


@pytest.fixture(scope="module")
def ask(container: Any) -> Callable[..., tuple[int, Any]]:
    address = f"http://127.0.0.1:{container.ports['8090/tcp'][0]['HostPort']}"

    def call(path: str, body: bytes | None = None, token: str = TOKEN) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
        try:
            with urlopen(Request(address + path, body, headers), timeout=PATIENCE_S) as response:  # noqa: S310
                return response.status, json.loads(response.read())
        except HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError as error:
            error.add_note(container.logs().decode())
            raise

    return call


def test_it_answers_who_shows_the_token(ask: Callable[..., tuple[int, Any]]) -> None:
    assert ask("/predict", b"x", "wrong")[0] == 401
    status, told = ask("/predict", encoded(photograph()))
    assert (status, told["version"], len(told["images"])) == (200, "v1", 1)
    assert ask("/v2/models/network")[0] == 200
    assert ask("/predict", b"junk")[0] == 422


def test_it_is_small_confined_and_without_pytorch(docker: "DockerClient", container: Any) -> None:
    assert docker.images.get(IMAGE).attrs["Size"] / 1e6 < MOST_MB
    code = (
        "import importlib.util, os; print(os.getuid(), importlib.util.find_spec('torch'), os.path.exists('/app/tests'))"
    )
    assert container.exec_run(["python", "-c", code]).output.decode().strip() == "10001 None False"
    assert container.exec_run(["touch", "/app/x"]).exit_code != 0
    assert container.exec_run(["touch", "/artifacts/x"]).exit_code != 0
    assert container.exec_run(["touch", "/index/x"]).exit_code == 0
