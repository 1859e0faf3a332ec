"""Names of images: scripts, docker compose, the operator and the proxy agree, also on those in images.lock."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from stages.common.contract.version import SUITES
from tests.pipeline import STAGES

ROOT = Path(__file__).parents[2]
STAGE = next(iter(SUITES))
FACES = "registry.example.com:5000/team/faces"
WITH_FACES = f"FACE_ATTRIBUTES_IMAGES={FACES}\n"
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
LOCK = f"# which\nFACE_ATTRIBUTES_DIGEST_{STAGE}={DIGEST}\nFACE_ATTRIBUTES_DIGEST_airflow={DIGEST}\n"
NAMES = "import json, image_tools; print(json.dumps([image_tools.image('airflow'), image_tools.variables()]))"
OPERATOR = f"from stage_operator.engine import image_name; print(image_name({STAGE!r}))"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what names images, with images.lock and a `.env` that has secrets alone."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    (tmp_path / "docker-compose.yml").write_text(compose, encoding="utf-8")
    (tmp_path / ".env").write_text("".join(f"{name}=x\n" for name in re.findall(r"\$\{(\w+):\?", compose)))
    (tmp_path / "images.lock").write_text(LOCK)
    return tmp_path


def call(*command: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that knows nothing of images from here."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("FACE_ATTRIBUTES_")}
    return subprocess.run(command, env=own | more, capture_output=True, text=True, check=False)


def names(clone: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    return call(sys.executable, "-c", NAMES, PYTHONPATH=str(clone / "scripts"), **more)


def services(clone: Path) -> Mapping[str, Any]:
    """Services, as docker compose reads its file."""
    program = next((ROOT / ".venv/lib").glob("python3.*/site-packages/compose/docker-compose"))
    done = call(str(program), "--file", str(clone / "docker-compose.yml"), "config", "--format=json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["services"])


@pytest.mark.parametrize(
    ("settings", "lock", "airflow", "stage"),
    [
        ("", True, "face-attributes/airflow:latest", f"face-attributes/{STAGE}:latest"),
        (f"{WITH_FACES}FACE_ATTRIBUTES_TAG=v2\n", False, f"{FACES}/airflow:v2", f"{FACES}/{STAGE}:v2"),
        (WITH_FACES, True, f"{FACES}/airflow:latest", f"{FACES}/{STAGE}@{DIGEST}"),
    ],
    ids=["of this machine", "by tag", "by digest"],
)
def test_all_agree(
    clone: Path, monkeypatch: pytest.MonkeyPatch, settings: str, lock: bool, airflow: str, stage: str
) -> None:
    with (clone / ".env").open("a") as file:
        file.write(settings)
    if not lock:
        (clone / "images.lock").unlink()
    found = services(clone)
    assert found["airflow-scheduler"]["image"] == airflow
    assert found["airflow-scheduler"]["pull_policy"] == "never"
    told = {
        name: value
        for service in ("airflow-scheduler", "engine-proxy")
        for name, value in found[service]["environment"].items()
        if re.match("FACE_ATTRIBUTES_(IMAGES|TAG|DIGEST_)", name)
    }
    # The operator and the proxy, as compose sets them up.
    assert call(sys.executable, "-c", OPERATOR, PYTHONPATH=str(ROOT / "dags"), **told).stdout.splitlines()[-1] == stage
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    policy = runpy.run_path(str(ROOT / "images/engine_proxy/policy.py"))

    def asks(image: str) -> bool:
        """Whether the proxy lets the docker SDK ask for an image, and run it."""
        client: Any = docker.APIClient(version="1.41")  # which asks nothing yet
        target = client._url("/images/{0}/json", image)
        try:
            policy["allowed"]("GET", target[target.index("/v1.41") :], b"")
        except policy["RefusedError"]:
            may = False
        else:
            may = True
        assert bool(re.fullmatch(policy["_IMAGE"], image)) == may
        return may

    assert asks(stage)
    others = [airflow, f"{FACES}/airflow@{DIGEST}", stage.replace("0123", "3210"), f"{FACES}/{STAGE}:other"]
    others += [f"face-attributes/{STAGE}:latest", f"{FACES}/{STAGE}:latest", f"elsewhere/{STAGE}@{DIGEST}"]
    assert [image for image in others if image != stage and asks(image)] == []
    # The scripts, and what they tell an operator that runs without compose: of a lock that counts, the digests.
    image, variables = json.loads(names(clone).stdout)
    assert image == airflow
    assert variables == {
        name: value or "face-attributes" for name, value in told.items() if settings or "DIGEST" not in name
    }


def test_the_environment_comes_before_env(clone: Path) -> None:
    with (clone / ".env").open("a") as file:
        file.write(WITH_FACES)
    own = names(clone, FACE_ATTRIBUTES_IMAGES="docker.io/team", FACE_ATTRIBUTES_TAG="v2")
    assert json.loads(own.stdout)[0] == "team/airflow:v2"
    assert json.loads(names(clone, FACE_ATTRIBUTES_IMAGES="").stdout)[0] == "face-attributes/airflow:latest"


@pytest.mark.parametrize("prefix", ["Faces", "registry.example.com/", "https://registry.example.com", "a/b:latest"])
def test_a_prefix_that_cannot_be_is_refused_in_a_line(clone: Path, prefix: str) -> None:
    done = names(clone, FACE_ATTRIBUTES_IMAGES=prefix)
    assert done.returncode == 64
    assert done.stderr == (
        f"FACE_ATTRIBUTES_IMAGES is {prefix!r}: it is a registry and a path in lower case, for example "
        "registry.example.com/faces\n"
    )


@pytest.mark.parametrize("line", [f"{STAGE}={DIGEST}", f"FACE_ATTRIBUTES_DIGEST_{STAGE}=latest"])
def test_a_lock_that_somebody_has_changed_is_refused_in_a_line(clone: Path, line: str) -> None:
    (clone / "images.lock").write_text(f"{line}\n")
    done = names(clone, FACE_ATTRIBUTES_IMAGES=FACES)
    assert done.returncode == 65
    assert done.stderr == f"images.lock: {line[:100]!r} is not an image digest: `make push` writes it anew\n"


def test_the_names_of_images_are_those_of_stages_and_services() -> None:
    found = runpy.run_path(str(ROOT / "scripts/image_tools.py"))["STAGES"]
    assert set(found) == {*STAGES, "airflow", "engine_proxy", "serve"}


@pytest.mark.parametrize("action", ["push", "pull"])
def test_without_a_registry_nothing_is_pushed_or_pulled(clone: Path, action: str) -> None:
    done = call(sys.executable, str(clone / "scripts/registry"), action)
    assert done.returncode == 64
    assert done.stderr == (
        "registry: FACE_ATTRIBUTES_IMAGES is not set: it names a registry, as registry.example.com/faces\n"
    )
