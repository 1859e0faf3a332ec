"""Parameters of stage `prepare_train`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.common.contract.params import NOT_IN_KEY, Range, Section
from stages.common.images.settings import ImagesSection, NetworkInput, Preprocessing


class DataSection(NetworkInput):
    """Section `data`: the network's input, and the shares of the splits."""

    image_size: int = Field(ge=16, le=224)  # the network halves it three times
    train_split: float = Field(gt=0, lt=1)
    val_split: float = Field(gt=0, lt=1)
    test_split: float = Field(gt=0, lt=1)
    seed: int
    split: Literal["digest", "given"]

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train_split + self.val_split + self.test_split
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train_split + val_split + test_split must be 1, not {total:g}")
        return self


class PrepareTrainSection(Section):
    """Section `prepare_train`; the keys after `workers` are thresholds of its suite."""

    max_rejected_fraction: float = Field(ge=0, le=1)
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0, le=256)
    split_deviations: float = Field(gt=0)
    min_std: float = Field(ge=0, le=255)
    mean_range: Range
    std_range: Range


class Params(Section):
    """The sections that this stage reads."""

    images: ImagesSection
    data: DataSection
    prepare_train: PrepareTrainSection

    @property
    def preprocessing(self) -> Preprocessing:
        """The settings of the preprocessing function that training and prediction share."""
        return Preprocessing(**self.images.model_dump(), **self.data.model_dump(include=set(NetworkInput.model_fields)))
