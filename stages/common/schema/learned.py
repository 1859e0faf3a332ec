"""Classes that a training has seen: a network can choose only among these.

Fresh weights give every class a probability, and for an attribute without any label one class may get nearly 1. So a
class without a training label is never answered, nor is an attribute with fewer than two seen classes. The seen classes
are in the metadata of the model, and the others are masked in the model itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.schema.attributes import UNKNOWN, Attribute, Attributes

Labels = npt.NDArray[np.integer[Any]]
"""(N, A) class indices in the order of A attributes, -1 where unknown."""

Learned = Mapping[str, Sequence[str]]
"""Attribute -> the names of its classes that training has seen, in the attribute's order."""


def all_learned(attributes: Attributes) -> dict[str, list[str]]:
    """Every class of every attribute, as if training had seen them all."""
    return {attribute.name: list(attribute.classes) for attribute in attributes}


def learned_classes(attributes: Attributes, labels: Labels) -> dict[str, list[str]]:
    """The classes that a training with these labels has seen."""
    return {
        attribute.name: [name for number, name in enumerate(attribute.classes) if (labels[:, column] == number).any()]
        for column, attribute in enumerate(attributes)
    }


def class_shares(attributes: Attributes, labels: Labels) -> list[npt.NDArray[np.float64]]:
    """Share of every class among the known labels of each attribute, (classes,) each; all 0 if none is known."""
    counts = [
        np.array([(labels[:, column] == number).sum() for number in range(len(attribute.classes))], np.float64)
        for column, attribute in enumerate(attributes)
    ]
    return [count / max(1.0, count.sum()) for count in counts]


def is_answered(learned: Sequence[str]) -> bool:
    """Whether an attribute is answered, given the classes that training has seen: two are needed."""
    return len(learned) > 1


def never_answered(attributes: Attributes, learned: Learned) -> dict[str, str]:
    """The attributes that are never answered -> why, for people."""
    return {attribute.name: why for attribute in attributes if (why := why_never(learned[attribute.name]))}


def why_never(learned: Sequence[str]) -> str:
    """Why an attribute is never answered, given the classes that training has seen; empty if it is."""
    if is_answered(learned):
        return ""
    return f"training knows no class but {learned[0]!r}" if learned else "training has no label of it"


def unlearned(attribute: Attribute, learned: Sequence[str]) -> list[str]:
    """Classes of an answered attribute that are never the answer, for training has no label of them."""
    return [name for name in attribute.classes if name not in learned] if is_answered(learned) else []


def remarks(attributes: Attributes, learned: Learned) -> list[str]:
    """A line for every attribute that is never answered, and for the classes of others that are never answered."""
    lines = [f"{name} is never answered: {why}" for name, why in never_answered(attributes, learned).items()]
    for attribute in attributes:
        if absent := unlearned(attribute, learned[attribute.name]):
            shown = " and ".join(filter(None, (", ".join(absent[:-1]), absent[-1])))
            lines.append(f"{attribute.name} is never answered with {shown}: training has no label of it")
    return lines


def answerable(attributes: Attributes, labels: npt.NDArray[np.int16], learned: Learned) -> npt.NDArray[np.int16]:
    """Labels that can be compared with answers: labels of attributes that are never answered become unknown."""
    kept = labels.copy()
    for column, attribute in enumerate(attributes):
        if not is_answered(learned[attribute.name]):
            kept[:, column] = UNKNOWN
    return kept


def learnable(attributes: Attributes, labels: npt.NDArray[np.int16], learned: Learned) -> npt.NDArray[np.int16]:
    """Labels that an answer can match: as `answerable`, without the classes that training has not seen."""
    kept = answerable(attributes, labels, learned)
    for column, attribute in enumerate(attributes):
        seen = [attribute.classes.index(name) for name in learned[attribute.name]]
        kept[~np.isin(kept[:, column], seen), column] = UNKNOWN
    return kept


def masks(attributes: Attributes, learned: Learned) -> list[npt.NDArray[np.float32]]:
    """Terms to add to the logits of every attribute, (classes,) each, in their order.

    Returns:
        0 for a class that training has seen; minus infinity, hence probability 0, for a class that it has not; NaN for
        all classes of an attribute that is never answered, so that its output cannot be mistaken for an answer.
    """
    return [
        np.array(
            [0 if name in learned[attribute.name] else -np.inf for name in attribute.classes]
            if is_answered(learned[attribute.name])
            else [np.nan] * len(attribute.classes),
            np.float32,
        )
        for attribute in attributes
    ]
