"""Parameters of stage `label_doubt`."""

from typing import Annotated

from pydantic import Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.training.augmentation import Augmentation
from stages.common.training.hyperparameters import FitSection


class LabelDoubtSection(FitSection):
    """Section `label_doubt`."""

    folds: int = Field(ge=2, le=100)
    width: int = Field(ge=4, le=512)
    batch_size: int = Field(ge=1, le=65_536)
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0, le=1024)
    max_shown: int = Field(ge=0, le=1000)


class Params(Section):
    """The sections that this stage reads."""

    augmentation: Augmentation
    label_doubt: LabelDoubtSection
