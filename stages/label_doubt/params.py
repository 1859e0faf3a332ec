"""Parameters of stage `label_doubt`."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.training.augmentation import Augmentation


class LabelDoubtSection(Section):
    """Section `label_doubt`."""

    folds: int = Field(ge=2, le=100)
    epochs: int = Field(ge=1, le=10_000)
    width: int = Field(ge=4, le=512)
    batch_size: int = Field(ge=1, le=65_536)
    seed: int = Field(ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"]
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0, le=1024)
    max_shown: int = Field(ge=0, le=1000)


class Params(Section):
    """The sections that this stage reads."""

    augmentation: Augmentation
    label_doubt: LabelDoubtSection
