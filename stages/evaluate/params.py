"""Parameters of stage `evaluate`."""

from stages.common.contract.params import Section
from stages.common.inference.measures import Metric
from stages.common.inference.settings import PredictionSettings


class EvaluateSection(PredictionSettings):
    """Section `evaluate`.

    Attributes:
        metric: the metric of search, release gate and monitoring (`stages.common.inference.settings`).
    """

    metric: Metric


class Params(Section):
    """The sections that this stage reads."""

    evaluate: EvaluateSection
