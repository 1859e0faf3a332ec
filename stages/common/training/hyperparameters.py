"""The hyperparameters that `hyperopt` searches and `train` uses; also the content of best_params.json."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from stages.common.contract.artifacts import reading
from stages.common.contract.errors import UsageError
from stages.common.contract.params import Section
from stages.common.schema.attributes import Attributes, names

BEST = "best_params.json"
"""The best hyperparameters that stage hyperopt has found, in its artifact."""
USED = "hyperparameters.json"
"""The hyperparameters that stage train used, in its artifact."""


class Hyperparameters(Section):
    """The settings of a training, apart from its length.

    Attributes:
        learning_rate: of AdamW, for normalisation and heads; peak of the one-cycle schedule.
        muon_learning_rate: of Muon, for convolutions; likewise.
        weight_decay: of both, decoupled; multiplied with the learning rate at each step.
        dropout: share of pooled features that are zeroed in training.
        width: channels of the network's first convolution; the cost grows with its square.
        batch_size: images per step, over all processes.
        loss_weights: attribute -> weight of its loss, 1 if it is not named; only their proportions matter.
        class_balance: how much more labels of rare classes count in training (`stages.common.training.balance`).
    """

    learning_rate: float = Field(gt=0, le=1)
    muon_learning_rate: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=1)
    dropout: float = Field(ge=0, lt=1)
    width: int = Field(ge=4, le=512)
    batch_size: int = Field(ge=1, le=65_536)
    loss_weights: dict[str, Annotated[float, Field(gt=0, le=1000)]]
    class_balance: float = Field(0.0, ge=0, le=1)  # absent in results of earlier code

    def complete(self, attributes: Attributes) -> Self:
        """The same with the loss weight of every attribute, in their order.

        Raises:
            UsageError: a loss weight names an unknown attribute.
        """
        known = names(attributes)
        if unknown := [name for name in self.loss_weights if name not in known]:
            raise UsageError(
                f"loss_weights: {', '.join(unknown)}: no such attribute in the data, which have {', '.join(known)}"
            )
        return self.model_copy(update={"loss_weights": {name: self.loss_weights.get(name, 1.0) for name in known}})


class FitSection(Section):
    """Keys of every section of a stage that fits networks."""

    epochs: int = Field(ge=1, le=10_000)
    seed: int = Field(ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"]


def read_hyperparameters(path: Path, stage: str) -> Hyperparameters:
    """The hyperparameters in a file of an artifact.

    Args:
        path: `BEST` of stage hyperopt, or `USED` of stage train.
        stage: whose artifact it is.

    Raises:
        DataError: the artifact does not have them.
    """
    with reading(path, stage):
        return Hyperparameters.model_validate_json(path.read_bytes())
