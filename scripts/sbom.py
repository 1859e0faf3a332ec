"""Write the contents of each image as a CycloneDX bill of materials: sbom/<stage>.cdx.json.

Python packages come from the image's lock, with the digests of their files. Packages of the OS, Python itself, and
Python packages of the base or of other packages are read in the image. With an images.lock, its images are described,
or else those that `make images` has built.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from image_tools import ROOT, STAGES, image, inspect, locked, prefix, stop
from packageurl import PackageURL
from packaging.utils import canonicalize_name

FACTS = """
import json, platform, subprocess
from importlib.metadata import Distribution
from pathlib import Path
query = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package} ${Version} ${Architecture}\\n"]
packages = [line.split() for line in subprocess.check_output(query, text=True).splitlines()]
installed = [Distribution.at(path) for root in ("/opt/venv", "/usr/local") for path in Path(root).rglob("*.dist-info")]
print(json.dumps({
    "os": platform.freedesktop_os_release(),
    "packages": [package for status, *package in packages if status == "ii"],
    "python": platform.python_version(),
    "distributions": [[found.name, found.version] for found in installed],
}))
"""
"""Program that lists the packages of an image; the image's own Python runs it."""


def facts(name: str) -> dict[str, Any]:
    """Packages that are installed in an image."""
    run = ["docker", "run", "--rm", "--network=none", "--cap-drop=ALL", "--read-only", "--entrypoint=python3"]
    return dict(json.loads(subprocess.check_output([*run, name, "-c", FACTS])))


def in_lock(stage: str) -> Iterator[Component]:
    """The Python packages in the lock of a stage, as cyclonedx-py reads it."""
    program = str(Path(sys.executable).with_name("cyclonedx-py"))
    command = [program, "requirements", "--output-reproducible", "--no-validate", f"images/{stage}/requirements.txt"]
    read = json.loads(subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL))  # it reports omissions
    bom: Bom = Bom.from_json(read)  # type: ignore[attr-defined]
    for component in bom.components:
        component.description = None  # the lines of the lock
        component.bom_ref.value = str(component.purl)
        yield component


def package(kind: str, name: str, version: str, namespace: str | None = None, **qualifiers: str) -> Component:
    """A package, identified by name and version."""
    purl = PackageURL(kind, namespace, name, version, qualifiers)
    return Component(name=name, version=version, purl=purl, bom_ref=str(purl))


def bill_of(stage: str, name: str, found: dict[str, Any]) -> Bom:
    """Software bill of materials of an image.

    Args:
        stage: stage of the image.
        name: of the image, with its tag or digest.
        found: the engine's description of it.

    Raises:
        SystemExit: 65, its requirements differ from those here.
    """
    inside = facts(name)
    components = {(canonicalize_name(pinned.name), pinned.version or ""): pinned for pinned in in_lock(stage)}
    installed = {(canonicalize_name(which), version) for which, version in inside["distributions"]}
    if absent := sorted(components.keys() - installed):
        where, remedy = f"images/{stage}/requirements.txt", "make push" if "@" in name else "make images"
        stop(65, f"sbom: image {name} has no {absent[0][0]} {absent[0][1]}, which is now in {where}: {remedy}")
    for which, version in installed - components.keys():
        components[which, version] = package("pypi", which, version)
    system = inside["os"]
    distro = f"{system['ID']}-{system['VERSION_ID']}"
    bom = Bom(components=components.values(), serial_number=UUID(found["Id"].removeprefix("sha256:")[:32]))
    bom.components.add(package("generic", "python", inside["python"]))
    for which, version, architecture in inside["packages"]:
        bom.components.add(package("deb", which, version, system["ID"], arch=architecture, distro=distro))
    labels = found["Config"]["Labels"] or {}
    bom.metadata.timestamp = datetime.fromisoformat(found["Created"])
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER,
        name=f"{prefix()}/{stage}",
        version=name.partition("@")[2] or found["Id"],
        bom_ref=BomRef(name),
        properties=[Property(name=key, value=value) for key, value in labels.items() if "opencontainers" in key],
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def main() -> int:
    """Write the bills of materials; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "sbom", help="folder that gets them (default: sbom)")
    parser.add_argument("--built", action="store_true", help="the images that are built here, despite an images.lock")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    digests = {} if arguments.built else locked()
    names = {stage: f"{prefix()}/{stage}@{digests[stage]}" if stage in digests else image(stage) for stage in STAGES}
    here = inspect(names.values())
    if missing := [name for name in names.values() if name not in here]:
        stop(69, f"sbom: image {missing[0]} is missing: {'make pull' if digests else 'make images'}")
    folder.mkdir(parents=True, exist_ok=True)
    for stage, name in names.items():
        bom = bill_of(stage, name, here[name])
        text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
        (folder / f"{stage}.cdx.json").write_text(f"{text}\n", encoding="utf-8")
    print(f"sbom: the contents of {len(names)} images are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
