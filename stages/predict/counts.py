"""Counts of answers, and the images with the least sure answers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from stages.common.inference.answers import Answers

ABSTAINED = "abstained"

Counts = dict[str, dict[str, int]]
"""Attribute -> class name, or `ABSTAINED` -> number of images with that answer."""


def count_answers(answers: Iterable[Answers]) -> Counts:
    """Count given answers per class, and abstentions."""
    counts = {}
    for answer in answers:
        given = answer.predicted[answer.answered]
        classes = {name: int((given == number).sum()) for number, name in enumerate(answer.attribute.classes)}
        counts[answer.attribute.name] = {**classes, ABSTAINED: int((~answer.answered).sum())}
    return counts


def add_counts(counts: Iterable[Counts]) -> Counts:
    """The sums of several counts, at least one."""
    first, *others = counts
    total = {name: dict(classes) for name, classes in first.items()}
    for other in others:
        for name, classes in other.items():
            for title, count in classes.items():
                total[name][title] += count
    return total


class Unsure(NamedTuple):
    """The least sure answer about an image: its confidence, the image, and the answer."""

    confidence: float
    lot: str
    filename: str
    attribute: str
    answer: str
    answered: bool


def least_sure(lot: str, filenames: Sequence[str], answers: Sequence[Answers], most: int) -> list[Unsure]:
    """Up to `most` images with the least sure answers, the least sure first, each once."""
    confidences = np.stack([np.where(answer.finite, answer.confidence, np.inf) for answer in answers])
    column = confidences.argmin(axis=0)
    lowest = confidences.min(axis=0)
    found = []
    for index in np.argsort(lowest, kind="stable")[:most]:
        least = answers[column[index]]
        if least.finite[index]:
            said = least.attribute.classes[least.predicted[index]]
            confidence, answered = float(lowest[index]), bool(least.answered[index])
            found.append(Unsure(confidence, lot, filenames[index], least.attribute.title, said, answered))
    return found
