"""The settings that stages share: how images are answered, what of it the suite warns of, and what metric counts."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.inference.measures import Metric


class MetricSection(Section):
    """Of section `evaluate` what the other stages read, and what is part of their keys: all else in it is left alone.

    Attributes:
        metric: what the search, the release gate and monitoring go by.
    """

    model_config = ConfigDict(extra="ignore")

    metric: Metric


class ToLabelSection(Section):
    """Section `to_label`.

    Attributes:
        images: that predict and monitor ask to be labelled, at most.
    """

    images: int = Field(ge=1, le=10_000)


class PredictionSettings(Section):
    """Part of a section; what follows `batch_size` are the thresholds of suite `predictions`."""

    batch_size: Annotated[int, NOT_IN_KEY] = Field(ge=1, le=65536)
    low_confidence: float = Field(ge=0, le=1)
    max_low_confidence_fraction: float = Field(ge=0, le=1)
    max_abstained_fraction: float = Field(ge=0, le=1)

    def thresholds(self, lowest: Mapping[str, float], version: str = "") -> Mapping[str, Any]:
        """Values of the suite's parameters.

        Args:
            lowest: attribute -> the least confidence that an answer can have (`OnnxModel.lowest_confidences`).
            version: the model's, empty if it is none yet.
        """
        return {
            **{f"{name}_lowest_confidence": value for name, value in lowest.items()},
            "low_confidence": self.low_confidence,
            "min_confident_fraction": 1 - self.max_low_confidence_fraction,
            "min_answered_fraction": 1 - self.max_abstained_fraction,
            "versions": [version],
        }
