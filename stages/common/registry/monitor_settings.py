"""Section `monitor` of params.yaml, which `archive` (release gate) and `monitor` read."""

from pydantic import Field

from stages.common.contract.params import Section


class MonitorSection(Section):
    """Section `monitor`.

    Attributes:
        min_accuracy: mean of `evaluate.metric` over the attributes, 0-1; a model below is not released, and a released
            one that falls below on new lots is trained again.
        min_labels: of new images per attribute; with fewer there is not enough data to tell its accuracy. Of balanced
            accuracy, in which a rare class has few, that is as many as tell as much where classes are equally frequent.
        min_images: different images of a lot; with fewer there is not enough data to tell drift.
        alpha: probability, 0-1, that a check says drift where there is none, over all its tests together.
        min_psi: population stability index beyond what chance makes; what has moved less is no drift, however certain.
    """

    min_accuracy: float = Field(ge=0, le=1)
    min_labels: int = Field(ge=1)
    min_images: int = Field(ge=10)
    alpha: float = Field(gt=0, le=0.5)
    min_psi: float = Field(ge=0)
