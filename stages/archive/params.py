"""Parameters of stage `archive`."""

from typing import Annotated

from pydantic import Field

from stages.common.monitor_settings import MonitorSection
from stages.common.params import NOT_IN_KEY, Section
from stages.common.registry import RegistrySection


class ArchiveSection(Section):
    """Section `archive`.

    Attributes:
        title: headline of the reports.
        alpha: a candidate that is worse than the champion in an attribute with a lower probability by chance, adjusted
            for five attributes, is not released.
        force: release it whatever the gate says.
    """

    title: Annotated[str, NOT_IN_KEY] = Field(min_length=1, max_length=80)
    alpha: float = Field(gt=0, lt=1)
    force: bool


class Params(Section):
    """The sections that this stage reads."""

    archive: ArchiveSection
    monitor: MonitorSection
    registry: RegistrySection
