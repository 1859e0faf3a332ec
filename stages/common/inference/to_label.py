"""Which images are most worth a label, and to_label.csv, the list of them that somebody fills in.

One image after the other is chosen, each time the one with the highest product of
    unsure    the number of its answers that are expected to be wrong: the sum of 1 - confidence over the attributes
              (but those that cannot be told, as other answers say)
    far       the distance of its embedding from the nearest one of the reference, or of the images chosen before
so a picture that the model knows, or that is nearly on the list, does not come on it. That is the farthest-first
traversal of a core-set (Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks",
https://arxiv.org/abs/1708.00489), weighted by least confidence (Lewis and Gale 1994). bench/README.md tells what such
labels are worth, and what other rules were tried.

Nothing is drawn by chance. Memory does not grow with the number of images: of all lots together only those are kept
whose product is highest before any is chosen, for afterwards it can but fall.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.tables import write_csv
from stages.common.inference.answers import Answers, answers_of, tellable
from stages.common.inference.features import Features, evenly_spread
from stages.common.schema.annotations import WORTH_LABELLING
from stages.common.schema.attributes import Attributes

TO_LABEL = "to_label.csv"
CENTRES = 1000
"""Images of the reference that distances are measured from."""
KEPT = 20
"""Images that are kept in memory for one that is chosen."""
NEAR = 0.1
"""Nearer than this to another image, in median distances of the reference to its nearest one, is nearly the same."""
FAR = 1.5
"""Farther than this, likewise, is called unlike the reference."""
UNSURE = 0.75
"""Confidence below which an answer is called unsure."""
CHUNK = 4096
"""Images whose distances are computed at once: 16 MB."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Worth:
    """An image that is worth labels.

    Attributes:
        lot: it is from.
        filename: what it is called there.
        why: it was chosen.
        said: attribute -> class and confidence (0-1) of the answer; of those that are answered.
    """

    lot: str
    filename: str
    why: str
    said: Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class _Pool:
    """Columns of the images that may be chosen."""

    unsure: npt.NDArray[np.float64]
    far: npt.NDArray[np.float64]
    embedding: Vectors
    name: npt.NDArray[np.object_]  # lot and file name
    said: npt.NDArray[np.object_]  # of each attribute class and confidence

    def take(self, chosen: npt.NDArray[Any]) -> "_Pool":
        return _Pool(*(getattr(self, one.name)[chosen] for one in fields(self)))

    def join(self, other: "_Pool") -> "_Pool":
        return _Pool(*(np.concatenate([getattr(self, one.name), getattr(other, one.name)]) for one in fields(self)))


class Chooser:
    """Chooses images out of lots that are shown one after the other."""

    def __init__(self, attributes: Attributes, reference: Features, most: int) -> None:
        """Measure how far images of the reference lie from each other.

        Args:
            attributes: what images are labelled with; those that the model answers among them.
            reference: images that the model was measured on, at least one.
            most: images to choose.
        """
        self._attributes = [one for one in attributes if one.name in reference.answered]
        self._most = most
        known = np.nan_to_num(reference.embeddings[evenly_spread(len(reference), CENTRES)])
        self._middle = known.mean(axis=0)  # near which rounding does no harm
        self._centres = known - self._middle
        apart = _distances(self._centres, self._centres, but_itself=True)
        self._usual = float(np.median(apart)) if len(known) > 1 else 0.0
        self._pool: _Pool | None = None
        self._chosen: list[Worth] = []

    def show(self, lot: str, features: Features, candidates: npt.NDArray[np.bool_]) -> None:
        """Look at those images of a lot, bool (N,), that have no labels."""
        at = np.flatnonzero(candidates)
        if not (len(at) and self._attributes):
            return
        answers = answers_of(
            tuple(self._attributes), {name: values[at] for name, values in features.probabilities.items()},
            decision=features.decision,
        )  # fmt: skip
        wrong = [
            np.where(told, 1 - np.where(one.finite, one.confidence, 0), 0)
            for one, told in zip(answers, tellable(answers), strict=True)
        ]
        unsure = np.sum(wrong, axis=0, dtype=np.float64)
        embedding = np.nan_to_num(features.embeddings[at]) - self._middle
        far = _distances(embedding, self._centres)
        best = np.argsort(-unsure * far, kind="stable")[: KEPT * self._most]
        pool = _Pool(
            unsure[best], far[best], embedding[best],
            _objects([(lot, features.filenames[at[one]]) for one in best]), _objects(_said(answers, best)),
        )  # fmt: skip
        self._pool = self._pool.join(pool) if self._pool else pool
        kept = np.argsort(-self._pool.unsure * self._pool.far, kind="stable")[: KEPT * self._most]
        self._pool = self._pool.take(kept)

    def choose(self) -> list[Worth]:
        """What was chosen of all that was shown, the most worth first; what is shown later only adds to it."""
        pool, self._pool = self._pool, None
        if pool is None:
            return self._chosen
        far, new = pool.far.copy(), []
        for _ in range(self._most - len(self._chosen)):
            product = np.where(far > NEAR * self._usual, pool.unsure * far, 0)
            best = int(product.argmax())
            if product[best] <= 0:
                break
            self._chosen.append(self._describe(pool, best))
            new.append(best)
            far = np.minimum(far, np.linalg.norm(pool.embedding - pool.embedding[best], axis=1))
        self._centres = np.concatenate([self._centres, pool.embedding[new]])
        return self._chosen

    def _describe(self, pool: _Pool, at: int) -> Worth:
        said = {one.name: (cls, sure) for one, (cls, sure) in zip(self._attributes, pool.said[at], strict=True)}
        reasons = []
        told = [
            one for one in self._attributes
            if not any(name in said and said[name][0] == untold for name, untold in one.unknown_when.items())
        ]  # fmt: skip
        least = min(told or self._attributes, key=lambda one: said[one.name][1])
        answer, sure = said[least.name]
        if sure < UNSURE:
            reasons.append(
                f"unsure of {least.title}: {answer} {sure:.0%}" if answer else f"no number for {least.title}"
            )
        if self._usual and pool.far[at] > FAR * self._usual:
            reasons.append(f"unlike the reference: {pool.far[at] / self._usual:.1f} times its usual distance")
        lot, filename = pool.name[at]
        return Worth(lot, filename, "; ".join(reasons) or "unlike those above", said)


def _said(answers: Sequence[Answers], chosen: npt.NDArray[np.intp]) -> list[list[tuple[str, float]]]:
    columns = []
    for one in answers:
        shown = [*one.attribute.classes, ""]
        sure = np.where(one.finite, one.confidence, 0)[chosen].tolist()
        columns.append([(shown[said], value) for said, value in zip(one.predicted[chosen].tolist(), sure, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def _objects(values: Sequence[object]) -> npt.NDArray[np.object_]:
    """An array (N,) of things that are sequences themselves."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _distances(of: Vectors, to: Vectors, *, but_itself: bool = False) -> npt.NDArray[np.float64]:
    """(N,): distance of each vector (N, D) from the nearest of others (M, D); or, of the same ones, from another."""
    lengths = np.square(to).sum(axis=1)
    nearest = np.empty(len(of))
    for start in range(0, len(of), CHUNK):
        part = of[start : start + CHUNK]
        squares = np.square(part).sum(axis=1)[:, None] + lengths - 2 * part @ to.T
        if but_itself:
            np.fill_diagonal(squares[:, start:], np.inf)
        nearest[start : start + CHUNK] = squares.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0))


def write_to_label(
    path: Path, attributes: Attributes, chosen: Sequence[Worth], places: Mapping[tuple[str, str], str]
) -> None:
    """Write the list: an empty cell for every label, which `validate` reads when it is filled in.

    Columns: filename, lot, `WORTH_LABELLING` (why), and per attribute its column, empty, `<attribute>_predicted`,
    `<attribute>_confidence` (0-1), which are empty where it is not answered.

    Args:
        path: the file.
        attributes: all of them, also those that the model never answers: labels are what it lacks.
        chosen: the images.
        places: (lot, file name) -> path in the raw folder, by which an image is named where it is known.
    """
    columns = ["filename", "lot", WORTH_LABELLING]
    for one in attributes:
        columns += [one.column, f"{one.name}_predicted", f"{one.name}_confidence"]
    rows = []
    for image in chosen:
        row = [places.get((image.lot, image.filename), image.filename), image.lot, image.why]
        for one in attributes:
            answer, sure = image.said.get(one.name, ("", 0.0))
            row += ["", answer, f"{sure:.4f}" if answer else ""]
        rows.append(row)
    write_csv(path, columns, rows, for_people=True)
