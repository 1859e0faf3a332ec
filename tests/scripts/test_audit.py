"""`make audit` tells of known vulnerabilities, and of what nobody has looked up."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAW = {
    "id": "PYSEC-1",
    "summary": "a flaw",
    "affected": [
        {
            "package": {"name": "flawed", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]}],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    """A service of OSV's interface, which knows of one flaw."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"vulns": [FLAW]} if asked["package"]["name"] == "flawed" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    """Its address."""
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Locks with a package that has a flaw, in two images of three."""
    lock = f"sound==2.0 \\\n    --hash=sha256:{'0' * 64}\n"
    flawed = lock + f"flawed==1.4 \\\n    --hash=sha256:{'1' * 64}\n"
    locks = {"": flawed, "scripts": "", "images/one": flawed, "images/other": flawed, "images/third": lock}
    for folder, text in locks.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / ("uv.txt" if folder == "scripts" else "requirements.txt")).write_text(text)
    shutil.copy(ROOT / "scripts/audit", tmp_path / "scripts")
    return tmp_path


def audit(clone: Path, url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(clone / "scripts/audit"), "--vulnerability-service=osv", f"--osv-url={url}"]
    command += [f"--cache-dir={clone / 'cache'}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_known_flaw_is_told_with_its_images_and_what_mends_it(clone: Path, service: str) -> None:
    done = audit(clone, service)
    assert done.returncode == 65, done.stderr
    assert done.stdout == (
        "flawed 1.4: PYSEC-1, mended in 1.5 (in one, other)\naudit: 2 packages looked up, 1 known vulnerabilities\n"
    )
    for lock in clone.rglob("requirements.txt"):
        lock.write_text(lock.read_text().replace("flawed", "mended"))
    done = audit(clone, service)
    assert (done.returncode, done.stdout) == (0, "audit: 2 packages looked up, 0 known vulnerabilities\n")


def test_a_service_that_does_not_answer_is_no_good_news(clone: Path) -> None:
    done = audit(clone, "http://127.0.0.1:9/")
    assert done.returncode == 69
    assert done.stdout == ""
    assert done.stderr.startswith("audit: nothing was looked up: ")
    assert done.stderr.endswith(": run it where the service answers\n")
    assert done.stderr.count("\n") == 1
