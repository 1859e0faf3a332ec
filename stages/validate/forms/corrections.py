"""Corrections: the flat CSV that a report writes when a person corrects labels in it."""

from typing import ClassVar

import pandas as pd

from stages.validate.attributes_file import AttributesFile
from stages.validate.forms.flat_csv import FlatCsv
from stages.validate.forms.header import Header
from stages.validate.forms.text import brief

BY, AT = "corrected_by", "corrected_at"


class Corrections(FlatCsv):
    """Columns of labels, of which a row fills those that were wrong; who corrected them, and when (UTC).

    A cell with `unknown` says that the label cannot be told.

    Whoever corrects a label has looked at the picture, so a correction counts whatever the dates of other files say.
    """

    name = "corrections"
    newest: ClassVar[bool] = True
    answers: ClassVar[bool] = True

    def __init__(self, asked: AttributesFile) -> None:
        """Read by what attributes.yaml asks for."""
        super().__init__(asked, more=(BY, AT))

    @property
    def expected(self) -> str:
        """Nobody is asked to write one."""
        return ""

    def recognises(self, header: Header, start: str) -> bool:
        """Whether it says who has corrected labels, and when."""
        return {BY, AT} <= set(self._names(header.names)) and super().recognises(header, start)

    def says_who(self, header: Header) -> bool:
        """Whether it is such a file, perhaps of labels that nobody asks for any more."""
        return {"filename", BY, AT} <= set(self._names(header.names))

    def _called(self, cells: pd.DataFrame) -> str:
        people = sorted(cells[BY].dropna().unique())
        return f"{self.name} by {brief(', '.join(people), 100)}" if people else self.name
