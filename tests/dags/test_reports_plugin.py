"""The plugin that shows reports, under a real server, while a stage swaps what lies in its artifact."""

import base64
import hashlib
import http.client
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import free_port, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KEY = "a" * 64
REQUESTS = 4000
SERVER = """
import sys
sys.path[:0] = ["images/airflow/plugins", "dags"]
import reports, uvicorn
for login in reports.app.router.dependencies:
    reports.app.dependency_overrides[login.dependency] = lambda: None  # who may log in is another test's business
uvicorn.run(reports.app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one artifact, and a secret beside it."""
    folder = tmp_path_factory.mktemp("plugin")
    artifact = folder / "artifacts/train" / KEY
    (artifact / "pages").mkdir(parents=True)
    (artifact / "report.html").write_text("a report")
    (artifact / "pages/page.html").write_text("a page")
    (artifact / "large.csv").write_bytes(b"0123456789abcde\n" * 100_000)
    (folder / "outside").mkdir()
    for name in ("secret.html", "page.html"):
        (folder / "outside" / name).write_text("SECRET")
    return folder


@pytest.fixture(scope="module")
def port(store: Path) -> Iterator[int]:
    """Of a server with the plugin."""
    environment = os.environ | {"AIRFLOW_HOME": str(store / "home"), "FACE_ATTRIBUTES_REPORTS": f"{store}/artifacts"}
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", SERVER, str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as server:

        def listens() -> bool:
            with socket.socket() as listener:
                return listener.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, "start of the server")
        yield port
        server.terminate()


@pytest.mark.parametrize(
    ("name", "path"), [("SCRIPT", "archive/versions.js"), ("CORRECTING", "common/reports/corrections.js")]
)
def test_the_script_that_the_plugin_allows_is_the_one_of_the_page(name: str, path: str) -> None:
    script = (ROOT / "stages" / path).read_bytes()
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    assert f'\n{name} = "sha256-{digest}"' in (ROOT / "images/airflow/plugins/reports.py").read_text()


def get(connection: http.client.HTTPConnection, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection.request(method, f"/train/{KEY}/{path}")
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_files_are_served_whole(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    assert get(connection, "report.html") == (200, b"a report")
    assert get(connection, "report.html", "HEAD") == (200, b"")
    assert get(connection, "large.csv") == (200, b"0123456789abcde\n" * 100_000)
    connection.close()


@pytest.mark.parametrize("swapped", ["report.html", "pages"])
def test_a_link_in_the_place_of_a_name_is_never_followed(store: Path, port: int, swapped: str) -> None:
    """Between any two looks at a path it is the stage's own, then a link to the outside."""
    place = store / "artifacts/train" / KEY / swapped
    own, link = (place.with_name(f"{name}-{swapped}") for name in ("own", "link"))
    link.symlink_to(store / "outside" / ("secret.html" if swapped == "report.html" else ""))
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            place.rename(own)
            link.rename(place)
            place.rename(link)
            own.rename(place)

    swapping = threading.Thread(target=swap)
    swapping.start()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    path = swapped if swapped == "report.html" else "pages/page.html"
    answers = Counter(get(connection, path) for _ in range(REQUESTS))
    over.set()
    swapping.join()
    connection.close()
    assert {status for status, _ in answers} == {200, 404}  # both were met
    assert not [body for _, body in answers if b"SECRET" in body]
    link.unlink()
