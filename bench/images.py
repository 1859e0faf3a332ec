"""Sizes of the images, their shared layers, the time of a rebuild after a change of code, and the trainer's device.

    python -m bench.images [--artifacts DIR] [--stage train] [--repeat N]

Needs a container engine and the images (`make images`). A change of code is a comment at the end of the stage's own
`stage.py` in a temporary copy of the tree; the new image gets a throw-away tag and is removed. With DIR, which holds
artifacts of prepare_train and hyperopt, the image of train also trains one epoch on the CPU, and is then told to use a
GPU, which its container does not have.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import table
from stages.common.contract.errors import ExitCode
from stages.common.contract.version import ROOT

WITH_TORCH = ("train", "hyperopt", "label_doubt")
CONTEXT = (".dockerignore", "expectations", "images", "params.yaml", "params-photographs.yaml", "scripts", "stages")
"""Files and folders from which the image of a stage is built."""

TORCH = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"


def ask(*command: str | Path) -> str:
    """Standard output of a command in the repository.

    Raises:
        subprocess.CalledProcessError: it failed, with its own message.
    """
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def history(docker: str, image: str) -> list[tuple[str, int]]:
    """Build steps of an image, the oldest first: the command and the bytes that it added."""
    lines = ask(docker, "history", "--no-trunc", "--human=false", "--format={{json .}}", image).splitlines()
    steps = [json.loads(line) for line in reversed(lines)]
    return [(step["CreatedBy"], int(step["Size"])) for step in steps]


def shared_bytes(docker: str, images: Sequence[str], layers: Sequence[Sequence[str]]) -> int:
    """Bytes of the common layers of all `images`.

    The engine lists layers without sizes, and steps without layers. So the equal first steps count, as many as there
    are shared layers; steps that add nothing may have no layer.
    """
    shared = sum(1 for _ in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*layers, strict=False)))
    agreed = itertools.takewhile(
        lambda steps: len(set(steps)) == 1, zip(*(history(docker, image) for image in images), strict=False)
    )
    sizes = [size for (_, size), *_ in agreed if size]
    return sum(sizes[:shared])


def list_images(docker: str, inspected: dict[str, dict[str, Any]]) -> None:
    """Print the sizes of all images, and what those with PyTorch share."""
    with_torch = [name for name in WITH_TORCH if name in inspected]
    names = [f"face-attributes/{name}" for name in with_torch]
    shared = shared_bytes(docker, names, [inspected[name]["RootFS"]["Layers"] for name in with_torch])
    rows = []
    for name, found in sorted(inspected.items(), key=lambda item: -item[1]["Size"]):
        size = found["Size"]
        own = (f"{shared / 1e6:,.0f}", f"{(size - shared) / 1e6:,.0f}") if name in with_torch else ("", "")
        rows.append((name, f"{size / 1e6:,.0f}", *own))
    together = shared + sum(inspected[name]["Size"] - shared for name in with_torch)
    print("\nImages, MB (10**6 bytes)\n")
    print(table(("image", "size", f"shared by {', '.join(with_torch)}", "own"), rows))
    print(f"\n{', '.join(with_torch)} take {together / 1e6:,.0f} MB together.")


def build(docker: str, stage: str, context: Path, base: str, tag: str) -> float:
    """Build the image of a stage, and return the seconds that it took."""
    started = time.monotonic()
    command = [docker, "build", "--quiet", f"--file=images/{stage}/Dockerfile", f"--build-arg=BASE_IMAGE={base}"]
    subprocess.run(
        [*command, f"--tag={tag}", "."], cwd=context, env=os.environ | {"DOCKER_BUILDKIT": "1"}, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - started


def change_code(docker: str, stage: str, repeat: int) -> None:
    """Print the seconds of a build after a change of the stage's code."""
    base = ask(ROOT / "images/base/build")
    tag = f"face-attributes/{stage}:bench-{os.getpid()}"
    seconds = []
    try:
        with tempfile.TemporaryDirectory() as name:
            for path in CONTEXT:
                source, target = ROOT / path, Path(name, path)
                shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
            unchanged = build(docker, stage, Path(name), base, tag)  # whatever the engine no longer has in its cache
            for number in range(repeat):
                with Path(name, "stages", stage, "stage.py").open("a") as file:
                    file.write(f"# changed by bench.images: {time.time_ns()}, {number}\n")
                seconds.append(build(docker, stage, Path(name), base, tag))
    finally:
        subprocess.run([docker, "image", "rm", "--force", tag], stdout=subprocess.DEVNULL, check=False)
    print(f"\nAfter a change of the code of {stage} its image is built in {statistics.median(seconds):.1f} s", end=" ")
    print(f"({min(seconds):.1f} to {max(seconds):.1f}, {repeat} changes; before, without a change: {unchanged:.1f} s).")


def run_trainer(docker: str, artifacts: Path | None) -> None:
    """Print the trainer's PyTorch, and its behaviour with the CPU, and with a missing GPU."""
    alone = [docker, "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp"]
    version, cuda, usable = ask(*alone, "--entrypoint=python", "face-attributes/train", "-c", TORCH).split()
    print(f"\nIn face-attributes/train: torch {version}, torch.version.cuda {cuda}, a GPU without --gpus: {usable}.")
    if not artifacts:
        return
    inputs = {name: (artifacts / name).resolve() for name in ("prepare_train", "hyperopt")}
    mounts = [f"--volume={path}:/{name}:ro" for name, path in inputs.items()]
    stage = [f"--{name}=/{name}" for name in inputs]
    stage += ["--out=/tmp/train", "--set=train.use_hyperopt=false", "--set=train.epochs=1"]
    for device in ("cpu", "cuda"):
        command = [*alone, *mounts, "face-attributes/train", *stage, f"--set=train.device={device}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:] or [""]
        if done.returncode == 0:
            last = [", ".join(f"{name} {value}" for name, value in json.loads(last[0])["headline"].items())]
        print(f"Told train.device={device}, without a GPU: exit code {done.returncode}, {last[0]}")
        if done.returncode != (ExitCode.DONE if device == "cpu" else ExitCode.UNAVAILABLE):
            sys.exit(f"bench.images: that is not what it ought to do:\n{done.stderr[-2000:]}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="holds prepare_train and hyperopt")
    parser.add_argument("--stage", default="train", help="whose code is changed (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="changes (default: %(default)s)")
    arguments = parser.parse_args()
    for question in ("status", "cli"):
        done = subprocess.run([ROOT / "scripts/engine", question], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(
                f"bench.images: no container engine to build with: {done.stdout.strip() or 'see above'}",
                file=sys.stderr,
            )
            sys.exit(ExitCode.UNAVAILABLE)
    docker = done.stdout.strip()
    inspected, missing = {}, []
    for name in sorted(path.parent.name for path in ROOT.glob("images/*/Dockerfile")):
        found = subprocess.run(
            [docker, "image", "inspect", f"face-attributes/{name}"], capture_output=True, text=True, check=False
        )
        if found.returncode:
            missing.append(name)
        else:
            inspected[name] = json.loads(found.stdout)[0]
    if missing:
        print(f"bench.images: there is no image of {', '.join(missing)}: make images", file=sys.stderr)
        sys.exit(ExitCode.UNAVAILABLE)
    list_images(docker, inspected)
    change_code(docker, arguments.stage, arguments.repeat)
    run_trainer(docker, arguments.artifacts)


if __name__ == "__main__":
    main()
