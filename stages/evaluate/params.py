"""Parameters of stage `evaluate`."""

from stages.common.contract.params import Section
from stages.common.inference.measures import Metric
from stages.common.inference.settings import PredictionSettings


class EvaluateSection(PredictionSettings):
    """Section `evaluate`.

    Attributes:
        metric: what the search, the release gate and monitoring go by (`stages.common.inference.settings`).
    """

    metric: Metric


class Params(Section):
    """The sections that this stage reads."""

    evaluate: EvaluateSection
