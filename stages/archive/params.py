"""Parameters of stage `archive`."""

from typing import Annotated

from pydantic import Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.inference.settings import MetricSection
from stages.common.registry.monitor_settings import MonitorSection
from stages.common.registry.registry import RegistrySection


class ArchiveSection(Section):
    """Section `archive`.

    Attributes:
        title: headline of the reports.
        alpha: a candidate is not released that is worse than the champion in an attribute by so much that equally good
            models would differ so less often than this, adjusted for all attributes.
        margin: how far below the best version so far a candidate may lie in the mean of `evaluate.metric` (0-1), on the
            same images.
        slice_margin: how far the accuracy (0-1) in an attribute may fall on the images of one slice, in comparison with
            the champion's on the same images, before the gate warns; `alpha` applies, adjusted for all slices.
        force: release it whatever the gate says.
        approval: seconds that one which the gate refuses waits in Airflow for a person who releases it all the same; 0
            asks nobody. The DAGs read it, no stage does.
    """

    title: Annotated[str, NOT_IN_KEY] = Field(min_length=1, max_length=80)
    alpha: float = Field(gt=0, lt=1)
    margin: float = Field(ge=0, le=1)
    slice_margin: float = Field(ge=0, le=1)
    force: bool
    approval: Annotated[int, NOT_IN_KEY] = Field(ge=0)


class Params(Section):
    """The sections that this stage reads."""

    archive: ArchiveSection
    evaluate: MetricSection
    monitor: MonitorSection
    registry: RegistrySection
