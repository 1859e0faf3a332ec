"""Settings that stages share: prediction, thresholds of its suite, and the metric."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.inference.measures import Metric


class MetricSection(Section):
    """The part of section `evaluate` that other stages read and that is part of their keys; its other keys are ignored.

    Attributes:
        metric: the metric of search, release gate and monitoring.
    """

    model_config = ConfigDict(extra="ignore")

    metric: Metric


class ToLabelSection(Section):
    """Section `to_label`.

    Attributes:
        images: greatest number of images that predict and monitor ask people to label.
    """

    images: int = Field(ge=1, le=10_000)


class PredictionSettings(Section):
    """Part of a section; the keys after `batch_size` are thresholds of suite `predictions`."""

    batch_size: Annotated[int, NOT_IN_KEY] = Field(ge=1, le=65536)
    low_confidence: float = Field(ge=0, le=1)
    max_low_confidence_fraction: float = Field(ge=0, le=1)
    max_abstained_fraction: float = Field(ge=0, le=1)

    def thresholds(self, lowest: Mapping[str, float], version: str = "") -> Mapping[str, Any]:
        """Values of the suite's parameters.

        Args:
            lowest: attribute -> the least possible confidence of an answer (`OnnxModel.lowest_confidences`).
            version: of the model, empty if it is not a version yet.
        """
        return {
            **{f"{name}_lowest_confidence": value for name, value in lowest.items()},
            "low_confidence": self.low_confidence,
            "min_confident_fraction": 1 - self.max_low_confidence_fraction,
            "min_answered_fraction": 1 - self.max_abstained_fraction,
            "versions": [version],
        }
