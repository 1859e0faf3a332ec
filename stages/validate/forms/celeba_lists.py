"""CelebA's lists with a number per image: `identity_CelebA.txt` (person) and `list_eval_partition.txt` (split).

`000001.jpg 2880` is a line of the first, `000001.jpg 0` of the second (0 train, 1 validation, 2 test). Both also exist
as CSV with a header such as `image_id,partition`. Their names distinguish the two.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pandas as pd

from stages.common.images.listing import as_text
from stages.common.schema.annotations import GROUP, SPLIT
from stages.common.schema.dataset import SPLITS
from stages.validate.forms.header import Header
from stages.validate.forms.part import Broken, Form, Part, with_places
from stages.validate.forms.text import brief, lines_of, read_text

_LINE = re.compile(r"(\S+\.(?:png|jpe?g))(?:\s+|\s*,\s*)(\S+)", re.IGNORECASE)


def is_list(start: str) -> bool:
    """Whether a file begins with a line of an image and a number, perhaps below a header."""
    lines = [line.strip() for line in lines_of(start) if line.strip()]
    return any(_LINE.fullmatch(line) for line in lines[:2])


class _CelebAList(Form):
    """A number per image, and no labels."""

    published = True
    has_labels = False
    column: ClassVar[str]
    line: ClassVar[str]
    """Contents of a line, for messages."""

    @abstractmethod
    def meaning(self, number: str) -> str:
        """Value of `column` for a number; "" if the number means nothing."""

    def recognises(self, _header: Header, start: str) -> bool:
        """Whether it begins with an image and a number."""
        return is_list(start)

    def read(self, folder: Path, files: Sequence[Path], _header: Header) -> Part:
        """Read the one file."""
        path, source = folder / files[0], as_text(files[0])
        lines, rows = list[int](), list[tuple[str, str]]()
        broken: list[Broken] = []
        for number, line in enumerate(lines_of(read_text(path, f"lines of {self.line}")), start=1):
            found = _LINE.fullmatch(line.strip())
            if found and (meaning := self.meaning(found[2])):
                lines.append(number)
                rows.append((found[1], meaning))
            elif found or (line.strip() and number > 1):  # the first line may be a header
                reason = f"not {self.line} (found {brief(line.strip())})"
                broken.append(Broken(source, number, found[1] if found else "", reason))
        columns = ("filename", self.column)
        cells = pd.DataFrame(rows, columns=pd.Index(columns), dtype="str")
        return Part(self.name, columns, with_places(self.columns, cells, source, lines), broken)


class CelebAIdentities(_CelebAList):
    """`identity_CelebA.txt`: images of one identity are a group."""

    name = "CelebA's identity_CelebA.txt"
    called = "identity"
    column = GROUP
    line = "an image and the number of its identity"

    def meaning(self, number: str) -> str:
        """The number itself."""
        return number if number.isdecimal() else ""


class CelebAPartition(_CelebAList):
    """`list_eval_partition.txt`: 0 is train, 1 validation, 2 test."""

    name = "CelebA's list_eval_partition.txt"
    called = "partition"
    column = SPLIT
    line = "an image and 0 (train), 1 (validation) or 2 (test)"

    def meaning(self, number: str) -> str:
        """The split."""
        return dict(zip("012", SPLITS, strict=True)).get(number, "")
