"""The hyperparameters that `hyperopt` searches and `train` uses; also the content of best_params.json."""

from typing import Annotated

from pydantic import AfterValidator, Field

from stages.common.contract.params import Section
from stages.common.schema.attributes import name_every_attribute

USED = "hyperparameters.json"
"""The hyperparameters that stage train used, in its artifact."""


class Hyperparameters(Section):
    """What shapes a training, apart from its length.

    Attributes:
        learning_rate: of AdamW, for normalisation and heads; peak of the one-cycle schedule.
        muon_learning_rate: of Muon, for convolutions; likewise.
        weight_decay: of both, decoupled; multiplied with the learning rate at each step.
        dropout: share of pooled features that are zeroed in training.
        width: channels of the network's first convolution; the cost grows with its square.
        batch_size: images per step, over all processes.
        loss_weights: attribute -> weight of its loss; only their proportions matter.
    """

    learning_rate: float = Field(gt=0, le=1)
    muon_learning_rate: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=1)
    dropout: float = Field(ge=0, lt=1)
    width: int = Field(ge=4, le=512)
    batch_size: int = Field(ge=1, le=65_536)
    loss_weights: Annotated[dict[str, Annotated[float, Field(gt=0, le=1000)]], AfterValidator(name_every_attribute)]
