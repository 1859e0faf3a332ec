"""Parameters of stage `validate`."""

import warnings
from typing import Annotated

from pydantic import Field

from stages.common.contract.params import NOT_IN_KEY, Section
from stages.common.images.settings import ImagesSection


class ValidateSection(Section):
    """Section `validate`; the keys after `workers` are thresholds of its two suites, with the same names."""

    lots: list[str]
    max_rejected_fraction: float = Field(ge=0, le=1)
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0, le=256)
    min_rows: int = Field(ge=1)
    min_known_fraction: float = Field(ge=0, le=1)
    min_class_fraction: float = Field(ge=0, le=1)
    min_side: int = Field(ge=1)
    max_aspect_ratio: float = Field(ge=1)
    color_modes: list[str]
    near_duplicate_bits: int = Field(ge=0, le=64)


with warnings.catch_warnings():
    # The section is named after the stage; pydantic's BaseModel.validate, which it hides, is deprecated and unused.
    warnings.filterwarnings("ignore", 'Field name "validate"', UserWarning)

    class Params(Section):
        """The sections that `validate` reads."""

        images: ImagesSection
        validate: ValidateSection  # type: ignore[assignment]
