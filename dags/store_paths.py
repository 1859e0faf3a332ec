"""The only accepted form of a path in the artifact store.

The output of a container must not choose files that others read or remove. So a path from a container is accepted only
if it is `/artifacts/<stage>/<key>` or below, without `..`, hidden names and control characters.
"""

import re
from typing import NamedTuple

STAGE = "[a-z][a-z0-9_]*"
KEY = "(?:[0-9a-f]{64}|failed-[0-9a-f]{12})"  # as stages/common/contract/run.py names them
_PATH = re.compile(f"/artifacts/({STAGE})/({KEY})((?:/[^/.\\x00-\\x1f\\x7f][^/\\x00-\\x1f\\x7f]*)*)")
LONGEST = 1024  # characters; the longest path of a stage has some 200
SHOWN = 80  # characters of a path that is refused


class StorePath(NamedTuple):
    """A path in the store; `rest` follows the artifact's folder, without a slash before it."""

    stage: str
    key: str
    rest: str

    @property
    def failed(self) -> bool:
        """Whether it belongs to the report of a failed stage."""
        return self.key.startswith("failed-")


def parse(path: object) -> StorePath | None:
    """The parts of a path; None if it does not have exactly the form of the store."""
    found = _PATH.fullmatch(path) if isinstance(path, str) and len(path) <= LONGEST else None
    return StorePath(found[1], found[2], found[3].removeprefix("/")) if found else None


def describe(path: object, stage: str = "<stage>") -> str:
    """A value that should be a path of a stage, in a few words for a refusal."""
    if isinstance(path, str) and len(path) > LONGEST:
        return f"{len(path) / 1000:,.0f} kB long, not a path"
    text = repr(path)
    return f"{text if len(text) <= SHOWN else f'{text[:SHOWN]}...'}, not /artifacts/{stage}/<64 hex digits>"
