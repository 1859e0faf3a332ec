"""Parameters of stage `evaluate`."""

from pydantic import Field

from stages.common.params import Section


class EvaluateSection(Section):
    """Section `evaluate`; what follows `batch_size` are the thresholds of its suite."""

    batch_size: int = Field(ge=1, le=65536)
    low_confidence: float = Field(ge=0, le=1)
    max_low_confidence_fraction: float = Field(ge=0, le=1)
    max_abstained_fraction: float = Field(ge=0, le=1)


class Params(Section):
    """The sections that this stage reads."""

    evaluate: EvaluateSection
