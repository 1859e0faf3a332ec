"""Parameters of stage `evaluate`."""

from stages.common.params import Section
from stages.common.prediction_settings import PredictionSettings


class EvaluateSection(PredictionSettings):
    """Section `evaluate`."""


class Params(Section):
    """The sections that this stage reads."""

    evaluate: EvaluateSection
