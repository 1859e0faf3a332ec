"""New images without labels: their expected accuracy, and the images to label first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.images.listing import as_text, list_folder, lot_of, name_of
from stages.common.inference.answers import answers_of
from stages.common.inference.expected import Trusts, certainty, expect, figures
from stages.common.inference.features import Features
from stages.common.inference.to_label import Chooser, Worth
from stages.common.schema.attributes import Attributes
from stages.monitor.drift import ALL
from stages.monitor.performance import Labels

Figures = Mapping[str, Any] | None
"""`stages.common.inference.expected.figures`."""


@dataclass(frozen=True)
class Unlabelled:
    """Expected accuracy of images without labels.

    Attributes:
        images: number of images.
        expected: expected accuracy on all of them.
        lots: each lot with such images -> their number, and their expected accuracy.
    """

    images: int
    expected: Figures
    lots: Mapping[str, tuple[int, Figures]]

    @property
    def told(self) -> dict[str, Any]:
        """The same for JSON."""
        lots = {lot: {"images": images, "expected": expected} for lot, (images, expected) in self.lots.items()}
        return {"images": self.images, "expected": self.expected, "lots": lots}

    def low(self, least: float) -> list[str]:
        """Lots whose share of right answers is below `least` with 95 %; `ALL` if that holds only for all together."""

        def is_low(expected: Figures) -> bool:
            return bool(expected) and expected["mean"]["high"] < least  # type: ignore[index]

        own = [lot for lot, (_, expected) in self.lots.items() if is_low(expected)]
        return own or ([ALL] if is_low(self.expected) else [])


NONE = Unlabelled(0, None, {})


def without_label(features: Features, labels: Labels | None) -> npt.NDArray[np.bool_]:
    """(N,): images without a label; all images if no labels could be read."""
    known = labels or {}
    return np.array([picture not in known for picture in features.pictures.tolist()], np.bool_)


def find_unlabelled(
    attributes: Attributes, lots: Mapping[str, Features], labels: Labels | None, trusts: Trusts
) -> Unlabelled:
    """Estimate the accuracy on the new images without labels, lot by lot; there is at least one lot."""
    found = {}
    for lot, features in lots.items():
        answers = answers_of(attributes, features.probabilities, decision=features.decision)
        found[lot] = certainty(answers, without_label(features, labels))
    first, *others = found.values()
    total = sum(others, first)
    each = {lot: (sure.images, figures(expect(sure, trusts))) for lot, sure in found.items() if sure.images}
    return Unlabelled(total.images, figures(expect(total, trusts)), each)


def choose_worth(
    attributes: Attributes,
    reference: Features,
    lots: Mapping[str, Features],
    labels: Labels | None,
    needed: Collection[str],
    most: int,
) -> list[Worth]:
    """Images that are most worth labels, in lots that need labels first.

    Args:
        attributes: the labelled attributes.
        reference: the images on which the champion was measured.
        lots: lot -> its new images.
        labels: known labels; None if no labels could be read: then no image is chosen, for it may have labels.
        needed: lots that need labels, or `ALL`.
        most: greatest number of images.
    """
    if labels is None:
        return []
    chooser = Chooser(attributes, reference, most)
    chosen: list[Worth] = []
    for first in (True, False):
        for lot in lots if len(chosen) < most else ():
            if (lot in needed or ALL in needed) == first:
                features = lots[lot]
                chooser.show(lot, features, without_label(features, labels))
        chosen = chooser.choose()
    return chosen


def find_places(raw: Path, worth: Sequence[Worth]) -> dict[tuple[str, str], str]:
    """Paths of images: (lot, file name) -> path in the raw folder, for images that are still there."""
    wanted = {(image.lot, image.filename) for image in worth}
    places = {}
    for path in list_folder(raw).images if wanted else ():
        shown = as_text(path)
        for name in (name_of(shown), shown):
            if (lot_of(shown), name) in wanted:
                places[lot_of(shown), name] = path
    return places
