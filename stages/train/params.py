"""Parameters of stage `train`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.common.contract.errors import UsageError
from stages.common.contract.params import Section
from stages.common.schema.attributes import Attributes
from stages.common.training.augmentation import Augmentation
from stages.common.training.hyperparameters import FitSection, Hyperparameters

Share = Annotated[float, Field(gt=0, le=1)]


class Wanted(Section):
    """The wanted recall or precision of one attribute.

    Attributes:
        of: a class of the attribute.
        precision: share of right answers among the answers with that class; or
        recall: share of the labels of that class that are answered with it.
    """

    of: str
    precision: Share | None = None
    recall: Share | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.precision is None) == (self.recall is None):
            raise ValueError("write either precision or recall")
        return self

    @property
    def words(self) -> str:
        """For people."""
        if self.recall is not None:
            return f"recall {self.recall:g} of {self.of}"
        return f"precision {self.precision:g} of {self.of}"


class TrainSection(Hyperparameters, FitSection):
    """Section `train`."""

    use_hyperopt: bool
    decide_by: Literal["accuracy", "balanced_accuracy"]
    wanted: dict[str, Wanted]
    mirrored_answers: bool
    answer_accuracy: float = Field(ge=0, le=1)
    compile: bool
    processes: int = Field(ge=0, le=1024)

    def hyperparameters(self) -> Hyperparameters:
        """The values of this section that a search may choose."""
        return Hyperparameters(**self.model_dump(include=set(Hyperparameters.model_fields)))

    def check_wanted(self, attributes: Attributes) -> None:
        """Refuse entries of `wanted` that do not fit the attributes.

        Raises:
            UsageError: an attribute or a class is unknown, or an attribute has not exactly two classes.
        """
        known = {attribute.name: attribute.classes for attribute in attributes}
        for name, rule in self.wanted.items():
            if name not in known:
                raise UsageError(f"train.wanted: {name}: no such attribute in the data, which have {', '.join(known)}")
            classes = ", ".join(known[name])
            if len(known[name]) != 2:
                raise UsageError(
                    f"train.wanted.{name}: it has the classes {classes}, but this works only with two classes"
                )
            if rule.of not in known[name]:
                raise UsageError(f"train.wanted.{name}.of: {rule.of}: no such class; there are {classes}")


class Params(Section):
    """The sections that this stage reads."""

    augmentation: Augmentation
    train: TrainSection
