"""What `validate` reads from params.yaml."""

import warnings

from pydantic import Field

from stages.common.params import Section


class ValidateSection(Section):
    """Section `validate`."""

    lots: list[str]
    max_rejected_fraction: float = Field(ge=0, le=1)


with warnings.catch_warnings():
    # The section is named after the stage; pydantic's BaseModel.validate, which it hides, is deprecated and unused.
    warnings.filterwarnings("ignore", 'Field name "validate"', UserWarning)

    class Params(Section):
        """The sections that `validate` reads."""

        validate: ValidateSection  # type: ignore[assignment]
