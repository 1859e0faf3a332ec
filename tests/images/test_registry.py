"""Images by way of a registry: one engine pushes what it has built, another pulls it and runs it by its digest."""

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.dags.worker import HERE as DAG_TESTS
from tests.dags.worker import Worker
from tests.stack.other_engine import OtherEngine
from tests.waiting import PATIENCE_S, free_port, wait_until

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
USER, PASSWORD = "tester", "secret"
HASHED = f"{USER}:$2y$04$HI1prrJqGhIGeSEuBtaczO3E86kfFdfngdsa0vEpnkjBjRsme0uni\n"
SIZE = "700m"  # of the second engine's disk; the image takes 200 MB, and while it comes 70 MB more
STAGE = "fake"
NOWHERE = f"sha256:{'0' * 64}"


class Registry:
    """Debian's image registry on loopback, where engines ask for no TLS; it has one user.

    Attributes:
        address: host and port.
    """

    def __init__(self, folder: Path) -> None:
        """Describe it; `folder` gets what it keeps."""
        self.address = f"127.0.0.1:{free_port()}"
        self._program = program()
        self._log = folder / "registry.log"
        users = folder / "users"
        users.write_text(HASHED)
        self._file = folder / "registry.yml"
        settings = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
            "http": {"addr": self.address},
            "auth": {"htpasswd": {"realm": "test", "path": str(users)}},
        }
        self._file.write_text(yaml.safe_dump(settings))

    def start(self) -> None:
        """Start it, and wait until it asks who is there."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen([self._program, "serve", self._file], stdout=log, stderr=log)
        wait_until(self._asks, self._log.read_text)

    def _asks(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self.address}/v2/", timeout=PATIENCE_S)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
        return False

    def stop(self) -> None:
        """Stop it; what it keeps stays."""
        self._process.terminate()
        self._process.wait()


def program() -> str:
    """The registry's program: that of this machine, or out of Debian's package, which would start a service."""
    if found := shutil.which("docker-registry"):
        return found
    folder = ROOT / ".cache/registry"
    folder.mkdir(parents=True, exist_ok=True)
    extracted = folder / "usr/bin/docker-registry"
    if not extracted.exists():
        fetch = "apt-get download docker-registry"
        script = f"({fetch} || (apt-get update && {fetch})) && dpkg --extract docker-registry_*.deb ."
        done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            lack(f"Debian's docker-registry is not to be had: {done.stderr[-200:]}")
    return str(extracted)


def lack(why: str) -> None:
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


@dataclass
class Machine:
    """A clone of the repository with one stage, beside an engine.

    Attributes:
        folder: of the clone.
        environment: of its commands.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, status: int = 0) -> str:
        """Output of a command, which must end with that status."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def registry(self, action: str, status: int = 0) -> str:
        return self.run(sys.executable, str(self.folder / "scripts/registry"), action, status=status)

    def image(self, name: str) -> str:
        """Id of an image, "" if it is not there."""
        done = subprocess.run(
            ["docker", "image", "inspect", "--format={{.Id}}", name],
            env=self.environment, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        return done.stdout.strip()

    @property
    def lock(self) -> Path:
        return self.folder / "images.lock"

    @property
    def digest(self) -> str:
        """Of the stage, in images.lock."""
        return self.lock.read_text().strip().rpartition("=")[2]


@dataclass(frozen=True)
class Site:
    """A registry and two machines.

    Attributes:
        registry: it runs.
        prefix: of the names of images in it.
        builder: a machine that builds and pushes.
        runner: another, which has nothing but images.lock and a login.
        engine: of the runner.
        pushed: id of the image that was pushed.
    """

    registry: Registry
    prefix: str
    builder: Machine
    runner: Machine
    engine: OtherEngine
    pushed: str


def build(machine: Machine, prefix: str, version: str) -> str:
    """Build a version of the stage; its id."""
    base = subprocess.check_output([ROOT / "images/base/build"], text=True).strip()
    command = ["docker", "build", "--quiet", f"--build-arg=BASE_IMAGE={base}", f"--label=version={version}"]
    machine.run(*command, f"--tag={prefix}/{STAGE}", str(DAG_TESTS / "fake_stage"))
    return machine.image(f"{prefix}/{STAGE}")


def log_in(machine: Machine, registry: Registry) -> None:
    command = ["docker", "login", "--username", USER, "--password-stdin", registry.address]
    subprocess.run(command, env=machine.environment, input=PASSWORD, text=True, check=True, capture_output=True)


@pytest.fixture(scope="module")
def site(docker: "DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both machines, and what the first has pushed."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        lack("a second engine needs root and dockerd")
    folder = tmp_path_factory.mktemp("site")
    registry = Registry(folder)
    registry.start()
    prefix = f"{registry.address}/team/faces"

    def machine(name: str, **environment: str) -> Machine:
        clone = folder / name
        (clone / "scripts").mkdir(parents=True)
        for script in ("registry", "image_tools.py"):
            shutil.copy(ROOT / "scripts" / script, clone / "scripts")
        (clone / "images" / STAGE).mkdir(parents=True)
        (clone / "images" / STAGE / "Dockerfile").touch()
        own = {"FACE_ATTRIBUTES_IMAGES": prefix, "DOCKER_CONFIG": str(clone / "docker")}
        return Machine(clone, os.environ | own | environment)

    try:
        with OtherEngine(SIZE) as engine:
            builder, runner = machine("builder"), machine("runner", DOCKER_HOST=engine.host)
            for both in (builder, runner):
                log_in(both, registry)
            pushed = build(builder, prefix, "1")
            builder.registry("push")
            shutil.copy(builder.lock, runner.lock)
            runner.registry("pull")
            yield Site(registry, prefix, builder, runner, engine, pushed)
    finally:
        registry.stop()
        for image in docker.images.list(name=f"{prefix}/{STAGE}"):
            docker.images.remove(str(image.id), force=True, noprune=True)


def test_what_is_pulled_is_what_was_built(site: Site) -> None:
    for name in (f"{site.prefix}/{STAGE}", f"{site.prefix}/{STAGE}@{site.runner.digest}"):
        assert site.runner.image(name) == site.builder.image(name) == site.pushed


@pytest.mark.parametrize("action", ["push", "pull"])
def test_who_has_not_logged_in_is_told_to(site: Site, action: str, tmp_path: Path) -> None:
    stranger = replace(site.builder, environment=site.builder.environment | {"DOCKER_CONFIG": str(tmp_path)})
    lock = site.builder.lock.read_text()
    site.builder.lock.write_text(lock.replace(site.builder.digest, NOWHERE))
    told = stranger.registry(action, status=69)
    assert told.startswith(f"registry: {action} of {STAGE} failed: ")
    assert told.endswith(f": log in first: docker login {site.registry.address}\n")
    assert told.count("\n") == 1
    assert site.builder.digest == NOWHERE  # of a push that failed nothing is written
    site.builder.lock.write_text(lock)


def test_a_full_disk_is_said_and_the_next_pull_goes_on(site: Site) -> None:
    site.runner.run("docker", "image", "rm", "--force", site.pushed)
    filler = site.engine.folder / "filler"
    free = shutil.disk_usage(site.engine.folder).free
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - 100 * 2**20)
    told = site.runner.registry("pull", status=69)
    assert told.endswith(": the disk is full: `docker image prune` and `docker builder prune` free it\n")
    assert told.count("\n") == 1
    filler.unlink()
    site.runner.registry("pull")
    assert site.runner.image(f"{site.prefix}/{STAGE}") == site.pushed


def test_a_tag_that_moved_changes_nothing_where_the_lock_is(site: Site) -> None:
    second = build(site.builder, site.prefix, "2")
    site.builder.registry("push")
    assert site.builder.digest != site.runner.digest
    site.runner.registry("pull")
    assert site.runner.image(f"{site.prefix}/{STAGE}") == site.pushed
    # Somebody who has no lock gets what the tag names, and a lock that says so.
    before = site.runner.lock.read_text()
    site.runner.lock.unlink()
    site.runner.registry("pull")
    assert site.runner.image(f"{site.prefix}/{STAGE}") == second
    assert site.runner.lock.read_text() == site.builder.lock.read_text()
    site.runner.lock.write_text(before)
    assert "the 1 images of images.lock are here" in site.runner.registry("provide")
    assert site.runner.image(f"{site.prefix}/{STAGE}") == site.pushed


def test_the_operator_runs_these_digests_and_no_others(site: Site, tmp_path: Path) -> None:
    digests = {STAGE: site.runner.digest, "absent": NOWHERE}
    own = {f"FACE_ATTRIBUTES_DIGEST_{stage}": digest for stage, digest in digests.items()}
    worker = Worker(tmp_path, own | {"FACE_ATTRIBUTES_IMAGES": site.prefix, "DOCKER_HOST": site.engine.host})
    try:
        done = worker.run("locked", "confined")
        assert done.state == "success", done.error
        assert done.xcoms["return_value"]["headline"]["image"] == site.pushed
        assert worker.run("unpulled").error == (
            f"AirflowFailException: image {site.prefix}/absent@{NOWHERE} is missing: fetch it with `make pull` on the "
            "engine's machine"
        )
        site.engine.docker("tag", f"{site.prefix}/{STAGE}", "face-attributes/test-stage")
        assert worker.run("plain").error == (
            "AirflowFailException: image face-attributes/test-stage is not in images.lock, and no others are run: "
            "`make push` where it is built"
        )
    finally:
        worker.close()


def test_a_digest_that_is_nowhere_is_named(site: Site) -> None:
    lock = site.runner.lock.read_text()
    site.runner.lock.write_text(lock.replace(site.runner.digest, NOWHERE))
    told = site.runner.registry("pull", status=69)
    assert f"{STAGE}@{NOWHERE}" in told
    assert told.endswith(": push it where it was built (make push), or take an images.lock that is newer\n")
    site.runner.lock.write_text(lock.replace(f"DIGEST_{STAGE}", "DIGEST_another"))
    told = site.runner.registry("pull", status=65)
    assert told == f"registry: images.lock has no digest of {STAGE}: `make push` where they are built\n"
    site.runner.lock.write_text(lock)


def test_a_registry_that_is_down_matters_to_those_only_who_need_it(site: Site) -> None:
    lock = site.runner.lock.read_text()
    site.registry.stop()
    try:
        assert "are here" in site.runner.registry("pull")
        site.runner.lock.write_text(lock.replace(site.runner.digest, NOWHERE))
        told = site.runner.registry("pull", status=69)
        assert told.endswith(f": see that the registry {site.registry.address} answers, and try again\n")
        assert told.count("\n") == 1
    finally:
        site.runner.lock.write_text(lock)
        site.registry.start()
