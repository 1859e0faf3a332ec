"""Shared by the scripts about images: the images' names, the file of their digests, and a call that takes minutes.

FACE_ATTRIBUTES_IMAGES (in the environment, else in `.env`) is the prefix of the images' names, such as
`registry.example.com/faces`. Without it images are called `face-attributes/<stage>`, and belong to this machine.
FACE_ATTRIBUTES_TAG is their tag.

`images.lock` holds the digests of images in a registry. If it exists, no other images with that prefix are run.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(file.parent.name for file in ROOT.glob("images/*/Dockerfile"))
"""Stages and services, all of which have images of ours."""
LOCAL = "face-attributes"
PREFIX = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*")
LOCK = ROOT / "images.lock"
DIGEST = "FACE_ATTRIBUTES_DIGEST_"
"""Prefix of a stage's name in images.lock, which docker compose reads as variables."""
LOGS = ROOT / ".cache" / "images"
REPORT_S = 30.0  # between two lines of progress


def stop(code: int, text: str) -> NoReturn:
    """End with a line about the cause."""
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def setting_of(line: str) -> tuple[str, str] | None:
    """Name and value in a line of a `.env`, as docker compose reads it: without quotes and a trailing comment."""
    found = re.fullmatch(r"""\s*([^#=\s][^=]*?)\s*=\s*(?:(["'])(.*?)\2(?:\s.*)?|(.*?)(?:\s+#.*|\s*))""", line)
    return (found[1], found[3] if found[2] else found[4]) if found else None


def read_settings(file: Path) -> dict[str, str]:
    """The settings of a `.env`; {} if there is none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return dict(filter(None, map(setting_of, lines)))


def _setting(name: str, default: str) -> str:
    """Value in the environment, even if it is empty, or else in `.env`."""
    return os.environ.get(name, read_settings(ROOT / ".env").get(name, "")) or default


def prefix() -> str:
    """Prefix of the images' names, before `/<stage>`.

    Raises:
        SystemExit: 64, it is not a prefix.
    """
    found = _setting("FACE_ATTRIBUTES_IMAGES", LOCAL)
    if not PREFIX.fullmatch(found):
        stop(
            64,
            f"FACE_ATTRIBUTES_IMAGES is {found!r}: it is a registry and a path in lower case, for example "
            "registry.example.com/faces",
        )
    return found.removeprefix("docker.io/")  # the engine leaves this out


def image(stage: str) -> str:
    """Name and tag of the image of a stage or a service."""
    return f"{prefix()}/{stage}:{_setting('FACE_ATTRIBUTES_TAG', 'latest')}"


def locked() -> dict[str, str]:
    """Stage -> digest, of images.lock; {} if there is none, or if images are not from a registry.

    Raises:
        SystemExit: 65, a digest is invalid.
    """
    if prefix() == LOCAL:
        return {}
    lines = read_settings(LOCK)
    for name, digest in lines.items():
        if not (name.startswith(DIGEST) and re.fullmatch("sha256:[0-9a-f]{64}", digest)):
            stop(65, f"{LOCK.name}: {f'{name}={digest}'[:100]!r} is not an image digest: `make push` writes it anew")
    return {name.removeprefix(DIGEST): digest for name, digest in lines.items()}


def write_lock(digests: Mapping[str, str]) -> None:
    """Write images.lock, whole or not at all."""
    partial = LOCK.with_name(f"{LOCK.name}.partial")
    head = "# By `make push` or `make pull`. With FACE_ATTRIBUTES_IMAGES set, these images are run and no others.\n"
    lines = "".join(f"{DIGEST}{stage}={digest}\n" for stage, digest in sorted(digests.items()))
    partial.write_text(head + lines, encoding="utf-8")
    partial.replace(LOCK)


def variables() -> dict[str, str]:
    """Environment variables by which Airflow's operator knows the names of the images."""
    names = {"FACE_ATTRIBUTES_IMAGES": prefix(), "FACE_ATTRIBUTES_TAG": _setting("FACE_ATTRIBUTES_TAG", "latest")}
    return names | {f"{DIGEST}{stage}": digest for stage, digest in locked().items()}


def inspect(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> the engine's description of the image, for existing images; in one call, as each takes 20 ms."""
    done = subprocess.run(["docker", "image", "inspect", *names], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "[]")  # it ends with 1 if an image is absent
    return {name: details for details in found for name in (*details["RepoTags"], *details["RepoDigests"])}


def watch(command: Sequence[str], log: Path, what: str) -> int:
    """Run a command in the repository, its output into `log`, with a line now and then; return its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"DOCKER_BUILDKIT": "1"}
        ) as process,
    ):
        while process.poll() is None:
            try:
                process.wait(REPORT_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(IndexError):
                    print(f"{what}: {log.read_text(errors='replace').splitlines()[-1][:100]}", flush=True)
    return process.returncode
