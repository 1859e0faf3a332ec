"""Parameters of stage `train`."""

from typing import Literal

from pydantic import Field

from stages.common.contract.params import Section
from stages.common.training.hyperparameters import Hyperparameters


class TrainSection(Hyperparameters):
    """Section `train`."""

    epochs: int = Field(ge=1, le=10_000)
    use_hyperopt: bool
    answer_accuracy: float = Field(ge=0, le=1)
    seed: int = Field(ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"]
    processes: int = Field(ge=0, le=1024)

    def hyperparameters(self) -> Hyperparameters:
        """Those of this section that a search may choose."""
        return Hyperparameters(**self.model_dump(include=set(Hyperparameters.model_fields)))


class Params(Section):
    """The sections that this stage reads."""

    train: TrainSection
