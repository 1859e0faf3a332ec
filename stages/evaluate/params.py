"""Parameters of stage `evaluate`."""

from pydantic import Field

from stages.common.params import Section


class EvaluateSection(Section):
    """Section `evaluate`."""

    batch_size: int = Field(ge=1, le=65536)


class Params(Section):
    """The sections that this stage reads."""

    evaluate: EvaluateSection
