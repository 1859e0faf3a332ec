"""Version of a stage: a digest of the code that it imports, of its suites and of its locked requirements.

The same files lie at the same relative paths in the repository and in the stage's image, so both compute the same
version. A changed line of code or a changed pin makes new artifacts of the stages that use it, and of no others.
Templates and styles of pages change no version, for they change no result; nor does a release of the whole product,
whose number lies in `stages/common/reports/VERSION`.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The repository's root, or /app in an image."""

SUITES = {
    "validate": ("raw_annotations", "images"),
    "prepare_train": ("prepared",),
    "evaluate": ("predictions",),
    "predict": ("predictions",),
    "monitor": ("drift",),
}
"""The suites of `expectations/` with which a stage checks its data."""

# Regular expressions, because the start of a stage waits for this: parsing its 40 modules takes 40 ms, this 3 ms.
_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t].*\n|\n)*", re.MULTILINE)
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(stages[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+(stages[\w.]*))", re.MULTILINE
)
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)


def stage_files(stage: str, root: Path = ROOT) -> list[Path]:
    """The code and the suites that decide what `stage` computes, sorted, relative to `root`.

    Code is all that `stages/<stage>/__main__.py` imports, directly or indirectly, also inside functions.
    """
    found, seen, queue = set[str](), set[str](), [f"stages.{stage}.__main__"]
    while queue:
        module = queue.pop()
        if not module or module in seen:
            continue
        seen.add(module)
        name = module.replace(".", "/")
        for file in (f"{name}.py", f"{name}/__init__.py"):
            if (path := root / file).is_file():
                found.add(file)
                queue += _imports(path.read_text(encoding="utf-8"))
                queue.append(module.rpartition(".")[0])  # its packages are imported before it
    suites = (f"expectations/{suite}.json" for suite in SUITES.get(stage, ()))
    return sorted(Path(path) for path in found | {path for path in suites if (root / path).is_file()})


def _imports(code: str) -> Iterator[str]:
    """Names that may be our modules, of all imports but those for type checkers."""
    for package, names, module in _IMPORT.findall(_FOR_TYPES.sub("", code)):
        yield package or module
        for name in re.findall(r"(\w+)(?:[ \t]+as[ \t]+\w+)?[ \t]*(?:,|$|\)|#|\n)", names):
            yield f"{package}.{name}"


def locked_requirements(stage: str, root: Path = ROOT) -> dict[str, str]:
    """Package -> version, of the stage's requirements.txt; {} without one. Names as `_normal`."""
    path = root / "images" / stage / "requirements.txt"
    if not path.is_file():
        return {}
    return {_normal(name): version for name, version in _PIN.findall(path.read_text(encoding="utf-8"))}


@cache
def installed_packages() -> dict[str, str]:
    """Package -> version, of all that this interpreter finds; by folder names, for reading metadata takes 0.3 s."""
    found: dict[str, str] = {}
    for folder in filter(Path.is_dir, map(Path, sys.path)):
        for path in folder.glob("*.dist-info"):
            name, _, version = path.stem.rpartition("-")
            found.setdefault(_normal(name), version)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unlike_lock(stage: str, root: Path = ROOT) -> dict[str, str]:
    """Locked packages that are installed in another version: package -> that version, or "absent"."""
    found = installed_packages()
    locked = locked_requirements(stage, root)
    return {name: there for name, version in locked.items() if (there := found.get(name, "absent")) != version}


def code_version(stage: str, root: Path = ROOT) -> str:
    """SHA-256 (16 hex digits) over names and contents of `stage_files`, and over the locked requirements."""
    digest = hashlib.sha256()
    for path in stage_files(stage, root):
        content = (root / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    for name, version in sorted(locked_requirements(stage, root).items()):
        digest.update(f"{name}=={version}\n".encode())
    return digest.hexdigest()[:16]


@cache
def stage_version(stage: str) -> str:
    """Version of a stage as it runs here: `code_version`, and the packages that differ from its lock.

    So an image that was built with other libraries shares no artifact with the right image.
    """
    version, other = code_version(stage), unlike_lock(stage)
    return hashlib.sha256(f"{version} {sorted(other.items())}".encode()).hexdigest()[:16] if other else version


if __name__ == "__main__":
    print(stage_version(sys.argv[1]))
