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
        alpha: level of significance, adjusted for all attributes: a candidate that is significantly worse than the
            champion in an attribute is not released.
        margin: largest distance of a candidate below the best version so far in the mean of `evaluate.metric` (0-1), on
            the same images.
        slice_margin: largest fall of the accuracy (0-1) in an attribute on the images of one slice, below the
            champion's on the same images, without a warning of the gate; `alpha` applies, adjusted for all slices.
        force: release the candidate even if the gate refuses it.
        approval: seconds that a refused candidate waits in Airflow for a person to release it anyway; 0 asks nobody.
            Only the DAGs read it, no stage.
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
