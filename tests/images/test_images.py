"""Every image builds alone, runs confined, and holds what its stage needs and nothing else."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sbom
from packaging.utils import canonicalize_name

from data.make_samples import make_samples
from stages.common.contract.errors import EXIT_CODE_HELP
from stages.common.contract.version import code_version
from tests.pipeline import INPUTS, STAGES
from tests.test_docs_commands import commands_from, shell

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = Path(__file__).parents[2]
SERVICES = ["airflow", "engine_proxy", "serve"]
WITH_TORCH = [
    stage for stage in STAGES if "torch.in" in (ROOT / "images" / stage / "requirements.in").read_text(encoding="utf-8")
]
TAG = "test-images"
FACTS = """
import importlib.util, json, os
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": open("/proc/self/status").read().split("CapEff:")[1].split()[0],
    "code": sorted(name for name in os.listdir("/app/stages") if os.path.isdir(f"/app/stages/{name}")),
    "tests": os.path.exists("/app/tests") or os.path.exists("/app/.git"),
    "torch": bool(importlib.util.find_spec("torch")),
    "airflow": bool(importlib.util.find_spec("airflow")),
    "uv": os.path.exists("/opt/uv"),
}))
"""

INSTALLED = """
import json, os, re, sys
from pathlib import Path
stanzas = Path("/var/lib/dpkg/status").read_text().split("\\n\\n")
field = lambda name, text: re.search(f"^{name}: (.*)$", text, re.MULTILINE)[1]
print(json.dumps({
    "python": ".".join(map(str, sys.version_info[:3])),
    "deb": [[field("Package", one), field("Version", one)] for one in stanzas if "Status: install ok installed" in one],
    "pypi": [
        [field("Name", told), field("Version", told)]
        for root in ("/app", "/opt", "/usr", "/home", "/root") for folder, _, files in os.walk(root)
        if folder.endswith(".dist-info") and not folder.startswith("/usr/lib/python3/")  # of packages of the OS
        for told in [Path(folder, "METADATA").read_text()]
    ],
}))
"""


ORIGIN = {"SOURCE": "https://example.org/faces", "REVISION": "0" * 40, "VERSION": "1.2.3"}
"""Where an image comes from: build argument -> value, which becomes a label."""


@pytest.fixture(scope="session")
def image(docker: "DockerClient") -> Iterator[Callable[[str], str]]:
    """Builds a stage's image with plain `docker build` (once) and gives its name."""
    subprocess.run([ROOT / "scripts/images"], check=True)  # whose steps are found in the cache
    client = subprocess.check_output([ROOT / "scripts/engine", "cli"], text=True).strip()
    base = subprocess.check_output([ROOT / "images/base/build"], text=True).strip()
    built: dict[str, str] = {}

    def build(stage: str) -> str:
        if stage not in built:
            name = f"face-attributes/{stage}:{TAG}"
            command = [client, "build", "-f", f"images/{stage}/Dockerfile", "-t", name]
            for argument in (f"BASE_IMAGE={base}", *(f"{key}={value}" for key, value in ORIGIN.items())):
                command += ["--build-arg", argument]
            done = subprocess.run(
                [*command, "."],
                cwd=ROOT,
                env=os.environ | {"DOCKER_BUILDKIT": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            built[stage] = name
        return built[stage]

    yield build
    for name in built.values():
        docker.images.remove(name, noprune=True)


def run_confined(docker: "DockerClient", image: str, *command: str, **options: Any) -> str:
    """Run a container as the DAG does: read-only root, no network, no capabilities. Gives stdout."""
    confined: dict[str, Any] = {
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "remove": True,
    }
    output: bytes = docker.containers.run(image, list(command), **(confined | options))
    return output.decode()


@pytest.mark.docker
@pytest.mark.parametrize("stage", STAGES)
def test_help_names_inputs_outputs_and_exit_codes(
    docker: "DockerClient", image: Callable[[str], str], stage: str
) -> None:
    text = run_confined(docker, image(stage), "--help")
    for name in INPUTS[stage]:
        assert f"--{name} PATH" in text
    assert "manifest.json" in text
    for code in EXIT_CODE_HELP:
        assert re.search(rf"^  {code} ", text, re.MULTILINE)


@pytest.mark.docker
@pytest.mark.parametrize("stage", STAGES)
def test_image_holds_its_own_stage_only_and_runs_unprivileged(
    docker: "DockerClient", image: Callable[[str], str], stage: str
) -> None:
    name = image(stage)
    facts = json.loads(run_confined(docker, name, FACTS, entrypoint=["python", "-c"]))
    assert facts == {
        "uid": 10001,
        "capabilities": "0" * 16,
        "code": sorted(["common", stage]),
        "tests": False,
        "torch": stage in WITH_TORCH,
        "airflow": False,
        "uv": False,
    }
    inside = run_confined(docker, name, stage, entrypoint=["python", "-m", "stages.common.contract.version"])
    assert inside.strip() == code_version(stage)
    labels = {f"org.opencontainers.image.{key.lower()}": value for key, value in ORIGIN.items()}
    assert labels.items() <= docker.images.get(name).labels.items()


@pytest.mark.docker
@pytest.mark.parametrize("stage", [*STAGES, *SERVICES])
def test_the_bill_of_an_image_lists_what_is_installed_in_it(
    docker: "DockerClient", image: Callable[[str], str], stage: str
) -> None:
    name = image(stage)
    bill = sbom.bill_of(stage, name, docker.images.get(name).attrs)
    listed: dict[str, set[tuple[str, str]]] = {}
    for component in bill.components:
        assert component.purl
        listed.setdefault(component.purl.type, set()).add((component.name, component.version or ""))
    inside = json.loads(run_confined(docker, name, INSTALLED, entrypoint=["python", "-c"], user="0"))
    assert listed["deb"] == {(which, version) for which, version in inside["deb"]}
    assert listed["pypi"] == {(canonicalize_name(which), version) for which, version in inside["pypi"]}
    assert pins(ROOT / "images" / stage / "requirements.txt") <= {
        f"{package}=={which}" for package, which in listed["pypi"]
    }
    assert listed["generic"] == {("python", inside["python"])}


@pytest.mark.docker
@pytest.mark.parametrize("stage", WITH_TORCH)
def test_pytorch_is_the_cuda_build_with_torchvision(
    docker: "DockerClient", image: Callable[[str], str], stage: str
) -> None:
    code = "import torch, torchvision; print(torch.version.cuda)"
    assert re.match(r"\d+\.\d+", run_confined(docker, image(stage), code, entrypoint=["python", "-c"]))


@pytest.mark.docker
def test_stages_with_pytorch_share_their_heavy_layer(docker: "DockerClient", image: Callable[[str], str]) -> None:
    layers = [docker.images.get(image(stage)).attrs["RootFS"]["Layers"] for stage in WITH_TORCH]
    shared = [layer for layer, *others in zip(*layers, strict=True) if {layer} == set(others)]
    history = docker.images.get(image("train")).history()
    heavy = max(range(len(history)), key=lambda number: history[number]["Size"])
    below = [step for step in history[heavy:] if step["Size"] > 0]
    assert len(shared) >= len(below)


@pytest.mark.docker
def test_stages_run_on_data_as_the_page_says(
    docker: "DockerClient", image: Callable[[str], str], tmp_path: Path
) -> None:
    make_samples(tmp_path / "data", count=60)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    volume = docker.volumes.create()  # which belongs to nobody yet
    result = {"path": "none"}
    try:
        for command in commands_from("docs/stages.md", 'docker run --rm -v "$PWD'):
            stage = re.findall(r"face-attributes/(\w+)", command)[0]
            command = command.replace("faces:", f"{volume.name}:").replace(f"face-attributes/{stage}", image(stage))
            said = shell(command.replace("/artifacts/validate/<key>", result["path"]), tmp_path)
            result = json.loads(said.splitlines()[-1])
            assert result["path"].startswith(f"/artifacts/{stage}/")
    finally:
        volume.remove()


def dockerfile(stage: str) -> str:
    """A Dockerfile without the stage's name and what it does, and without suites, attributes and git that some need."""
    text = (ROOT / "images" / stage / "Dockerfile").read_text()
    text = re.sub(", which .*:", ":", text, count=1).replace(stage, "STAGE")
    text = re.sub(r"# git keeps the registry\.\n(.*\\\n)*.*\n", "", text)
    return re.sub("COPY --chmod=755 (expectations expectations|data/attributes.yaml data/)\n", "", text)


def test_dockerfiles_differ_in_the_name_of_the_stage_only() -> None:
    with_torch = {dockerfile(stage) for stage in WITH_TORCH}
    without = {dockerfile(stage) for stage in STAGES if stage not in WITH_TORCH}
    assert len(with_torch) == len(without) == 1


def pins(path: Path) -> set[str]:
    """The `name==version` pins of a lock."""
    return set(re.findall(r"^(\S+==\S+)", path.read_text(), re.MULTILINE))


def test_locks_of_the_stages_agree_with_the_development_lock() -> None:
    development = pins(ROOT / "requirements.txt")
    torch = pins(ROOT / "images/base/torch.txt")
    for stage in [*STAGES, *SERVICES]:
        lock = pins(ROOT / "images" / stage / "requirements.txt")
        assert lock
        assert lock <= development
        assert (torch <= lock) == (stage in WITH_TORCH)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Module `scripts/images`, at work on another folder than the repository."""
    loader = SourceFileLoader("scripts_images", str(ROOT / "scripts/images"))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    script = module_from_spec(spec)
    loader.exec_module(script)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script


def test_dockerfiles_of_one_size_and_time_are_told_apart(script: Any, tmp_path: Path) -> None:
    files = [tmp_path / "images" / stage / "Dockerfile" for stage in ("one", "two")]

    def times() -> list[float]:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"FROM {file.parent.name}\n")
            os.utime(file, (2e9, 2e9))
        script.set_times()
        return [file.stat().st_mtime for file in files]

    first, second = times()
    assert first != second
    assert times() == [first, second]  # another clone


@pytest.mark.docker
def test_images_that_do_not_fit_on_the_disk_are_refused_before_the_first_build(
    docker: "DockerClient", script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not script.no_room()
    monkeypatch.setattr(script, "ROOM", 10**18)
    assert re.fullmatch(
        rf"images: they take some 1000000000 GB, and [\d.]+ GB are free in {docker.info()['DockerRootDir']}: .*",
        script.no_room(),
    )


def test_an_image_is_built_again_when_and_only_when_what_it_holds_changed(script: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in (
        "data/attributes.yaml",
        "dags",
        "images",
        "stages",
        "expectations",
        "scripts",
        "params.yaml",
        "params-photographs.yaml",
        ".dockerignore",
    ):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)

    def digests() -> dict[str, str]:
        return {stage: script.inputs_digest(stage, "sha256:base") for stage in [*STAGES, *SERVICES]}

    def rebuilt(changed: str) -> list[str]:
        before, path = digests(), tmp_path / changed
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write("\n")
        return [stage for stage, digest in digests().items() if digest != before[stage]]

    assert digests() == digests()
    assert rebuilt("stages/train/stage.py") == ["train"]
    assert rebuilt("images/evaluate/requirements.txt") == ["evaluate"]
    assert rebuilt("expectations/raw_annotations.json") == [
        "validate",
        "prepare_train",
        "evaluate",
        "predict",
        "monitor",
    ]
    assert rebuilt("data/attributes.yaml") == ["validate"]
    assert rebuilt("stages/common/contract/stage.py") == [*STAGES, "serve"]
    assert rebuilt("params.yaml") == rebuilt("params-photographs.yaml") == [*STAGES, "airflow", "serve"]
    assert rebuilt("dags/stage_operator/operator.py") == rebuilt("images/airflow/plugins/reports.py") == ["airflow"]
    assert rebuilt("stages/common/reports/VERSION") == [*STAGES, *SERVICES]  # for the label; PyTorch lies below it
    assert rebuilt("images/engine_proxy/policy.py") == ["engine_proxy"]
    assert rebuilt("images/serve/page/index.html") == ["serve"]
    assert rebuilt("stages/train/__pycache__/new.pyc") == []
    assert script.inputs_digest("train", "sha256:other") != script.inputs_digest("train", "sha256:base")
