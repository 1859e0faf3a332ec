"""Corrections: the flat CSV that a report writes when a person corrects labels in it."""

from typing import ClassVar

import pandas as pd

from stages.validate.attributes_file import AttributesFile
from stages.validate.forms.flat_csv import FlatCsv
from stages.validate.forms.header import Header
from stages.validate.forms.text import brief

BY, AT = "corrected_by", "corrected_at"


class Corrections(FlatCsv):
    """Columns of labels, filled with the corrected ones; then the person, and the time (UTC).

    A cell with `unknown` means that the label cannot be told.

    A person who corrects a label has seen the picture, so a correction overrides all other files, whatever their dates.
    """

    name = "corrections"
    newest: ClassVar[bool] = True
    answers: ClassVar[bool] = True

    def __init__(self, asked: AttributesFile) -> None:
        """Read by what attributes.yaml asks for."""
        super().__init__(asked, more=(BY, AT))

    @property
    def expected(self) -> str:
        """Empty: people do not write such a file by hand."""
        return ""

    def recognises(self, header: Header, start: str) -> bool:
        """Whether it has columns of labels, person and time."""
        return {BY, AT} <= set(self._names(header.names)) and super().recognises(header, start)

    def says_who(self, header: Header) -> bool:
        """Whether it has columns of person and time, perhaps with labels that attributes.yaml no longer names."""
        return {"filename", BY, AT} <= set(self._names(header.names))

    def _called(self, cells: pd.DataFrame) -> str:
        people = sorted(cells[BY].dropna().unique())
        return f"{self.name} by {brief(', '.join(people), 100)}" if people else self.name
