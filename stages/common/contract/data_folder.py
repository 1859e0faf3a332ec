"""Parameters and suites of a data folder, which override ours.

    params.yaml           keys that differ from ours, in their sections, as in a recipe
    expectations/*.json   suites, each in place of ours of the same name

Its annotations, images and attributes.yaml are inputs of stages.
"""

import json
from pathlib import Path

from stages.common.contract.errors import DataError
from stages.common.contract.version import ROOT, SUITES

EXPECTATIONS = "expectations"
PARAMS = ROOT / "params.yaml"
OURS = ROOT / EXPECTATIONS
"""Suites of data that have none of their own."""


def own_params(data: Path) -> Path | None:
    """The params.yaml of a data folder; None if there is none, or if it is that of the repository."""
    file = data / PARAMS.name
    return file if file.is_file() and file.resolve() != PARAMS else None


def own_suites(folder: Path, stage: str) -> dict[str, Path]:
    """Suites of a folder that replace suites of the stage: name -> file; empty if the folder is `expectations/` itself.

    All files are read, so the first stage of a run already reports an error in the suite of a later stage.

    Raises:
        DataError: a file has the name of no suite, or is not JSON.
    """
    if folder.resolve() == OURS:
        return {}
    known = sorted({f"{suite}.json" for suites in SUITES.values() for suite in suites})
    found = {file.name: file for file in sorted(folder.iterdir()) if not file.name.startswith(".")}
    for name, file in found.items():
        if name not in known:
            raise DataError(f"{file}: there is no such suite: call it {', '.join(known)}, or remove it")
        read_suite_file(file)
    return {suite: found[f"{suite}.json"] for suite in SUITES.get(stage, ()) if f"{suite}.json" in found}


def read_suite_file(file: Path) -> str:
    """The text of a suite.

    Raises:
        DataError: it is not JSON; the line is named.
    """
    try:
        text = file.read_text(encoding="utf-8")
        json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: not JSON ({error.msg}): correct it") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): write it as JSON in UTF-8, readable for all") from error
    return text
