"""Section `monitor` of params.yaml, which `archive` (release gate) and `monitor` read."""

from pydantic import Field

from stages.common.contract.params import Section


class MonitorSection(Section):
    """Section `monitor`.

    Attributes:
        min_accuracy: mean of `evaluate.metric` over the attributes, 0-1; a model below is not released, and a released
            one that falls below on new lots is trained again.
        min_labels: labels of new images per attribute; fewer are not enough to measure its accuracy. For balanced
            accuracy, labels count as the number of labels of equally frequent classes that is as informative.
        min_images: different images of a lot; fewer are not enough to detect drift.
        alpha: probability, 0-1, that a check reports drift where there is none, over all its tests together.
        min_psi: population stability index beyond chance; a smaller shift is not drift, however significant it is.
    """

    min_accuracy: float = Field(ge=0, le=1)
    min_labels: int = Field(ge=1)
    min_images: int = Field(ge=10)
    alpha: float = Field(gt=0, le=0.5)
    min_psi: float = Field(ge=0)
