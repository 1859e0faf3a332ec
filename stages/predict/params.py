"""Parameters of stage `predict`."""

from typing import Annotated

from pydantic import Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.images.settings import ImagesSection
from stages.common.inference.settings import PredictionSettings, ToLabelSection


class PredictSection(PredictionSettings):
    """Section `predict`. The preprocessing is not a parameter: it comes from the model.

    The largest picture in section `images` is a limit that no model raises.
    """

    lots: list[str]
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0, le=256)


class Params(Section):
    """The sections that this stage reads."""

    images: ImagesSection
    predict: PredictSection
    to_label: ToLabelSection
