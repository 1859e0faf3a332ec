"""Parameters of stage `hyperopt`."""

from typing import Annotated

from pydantic import Field, model_validator

from stages.common.contract.params import NOT_IN_KEY, Range, Section
from stages.common.inference.settings import MetricSection
from stages.common.training.augmentation import Augmentation
from stages.common.training.hyperparameters import FitSection, Hyperparameters

LOGARITHMIC = ("learning_rate", "muon_learning_rate", "weight_decay")
"""Hyperparameters with lowest and highest value in the section, on a logarithmic scale."""
RANGES = (*LOGARITHMIC, "dropout")
"""The same, on any scale."""
CHOICES = ("width", "batch_size", "class_balance")
"""Hyperparameters with a list of choices in the section."""


class HyperoptSection(FitSection):
    """Section `hyperopt`; with `max_evals` 0 there is no search, and `first` is the result."""

    max_evals: int = Field(ge=0, le=10_000)
    timeout: float = Field(gt=0)
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0, le=256)
    lag: int = Field(ge=1, le=256)
    startup_trials: int = Field(ge=1)
    rungs: list[Annotated[float, Field(gt=0, lt=1)]]
    keep: float = Field(gt=0, le=1)
    learning_rate: Range
    muon_learning_rate: Range
    weight_decay: Range
    dropout: Range
    width: list[int] = Field(min_length=1)
    batch_size: list[int] = Field(min_length=1)
    class_balance: list[float] = Field(min_length=1)
    loss_weight: Range
    first: Hyperparameters

    @model_validator(mode="after")
    def _check_space(self) -> "HyperoptSection":
        for key in (*LOGARITHMIC, "loss_weight"):
            if getattr(self, key)[0] <= 0:
                raise ValueError(f"{key}: a logarithmic scale needs bounds above 0")
        for corner in (0, 1):  # report a wrong bound now, not in some trial
            ends = {key: getattr(self, key)[corner] for key in RANGES}
            ends |= {key: (min, max)[corner](getattr(self, key)) for key in CHOICES}
            Hyperparameters(**ends, loss_weights={"any": self.loss_weight[corner]})
        pairs = [(key, getattr(self.first, key), getattr(self, key)) for key in RANGES]
        weights = {f"loss_weights.{key}": weight for key, weight in self.first.loss_weights.items()}
        weights["loss_weights of what is not named"] = 1.0
        pairs += [(key, weight, self.loss_weight) for key, weight in weights.items()]
        for key, value, (low, high) in pairs:
            if not low <= value <= high:
                raise ValueError(f"first.{key}: {value} is outside of the search space {low} to {high}")
        for key in CHOICES:
            if getattr(self.first, key) not in getattr(self, key):
                raise ValueError(f"first.{key}: {getattr(self.first, key)} is not among {getattr(self, key)}")
        return self


class Params(Section):
    """The sections that this stage reads."""

    augmentation: Augmentation
    evaluate: MetricSection
    hyperopt: HyperoptSection
