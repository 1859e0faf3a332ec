"""Parameters of stage `archive`."""

from pydantic import Field

from stages.common.params import Section


class ArchiveSection(Section):
    """Section `archive`."""

    title: str = Field(min_length=1, max_length=80)


class Params(Section):
    """The sections that this stage reads."""

    archive: ArchiveSection
