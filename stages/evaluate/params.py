"""Parameters of stage `evaluate`."""

from stages.common.contract.params import Section
from stages.common.inference.settings import PredictionSettings


class EvaluateSection(PredictionSettings):
    """Section `evaluate`."""


class Params(Section):
    """The sections that this stage reads."""

    evaluate: EvaluateSection
