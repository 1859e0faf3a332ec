"""Choose the images that are most worth a label, and write to_label.csv, a list for people to fill in.

BADGE draws them one after the other (Ash et al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower
Bounds", https://arxiv.org/abs/1906.03671): k-means++ on the gradients of the last layer, with the answers as labels. A
gradient is long if the model is unsure and the features are large. Two gradients are similar if the images look alike
and the same answers are unsure. The images of the reference are the first centres, so known images are not drawn, nor
images similar to those on the list. Answers that another answer makes unknown count as sure.

bench/README.md has the value of such labels, and the other rules that were tried. The same images give the same list.
Memory does not grow with the number of images: of all lots together some are kept, drawn with the same weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
"""Images of the reference from which distances are measured."""
KEPT = 20
"""Images that are kept in memory for each image that is drawn."""
NEAR = 0.1
"""A nearer image is nearly the same; the unit is the median distance of an image of the reference to its nearest."""
FAR = 1.5
"""An image farther away, in the same unit, is unlike the reference."""
UNSURE = 0.75
"""Confidence below which an answer is unsure."""
CHUNK = 4096
"""Images whose distances are computed at once: 16 MB."""
SEED = 0
"""Seed of the draws."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Worth:
    """An image that is worth labels.

    Attributes:
        lot: its lot.
        filename: its name there.
        why: reason of the choice.
        said: attribute -> class and confidence (0-1) of the answer, for answered attributes.
    """

    lot: str
    filename: str
    why: str
    said: Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class _Pool:
    """Columns of candidates, and of centres."""

    pull: Vectors  # (N, classes of all attributes): probabilities less the answer
    embedding: Vectors  # (N, D); the gradient is the outer product of both
    key: npt.NDArray[np.float64]  # images with the highest keys are kept
    worth: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.pull)

    def take(self, chosen: npt.NDArray[Any]) -> "_Pool":
        return _Pool(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def join(self, other: "_Pool") -> "_Pool":
        return _Pool(
            *(np.concatenate([getattr(self, field.name), getattr(other, field.name)]) for field in fields(self))
        )


class Chooser:
    """Draws images from lots that are shown one after the other."""

    def __init__(self, attributes: Attributes, reference: Features, most: int) -> None:
        """Take images of the reference as centres, and measure the distances between them.

        Args:
            attributes: all attributes of labels, including those that the model answers.
            reference: images on which the model was measured, at least one.
            most: number of images to draw.
        """
        self._attributes = tuple(attribute for attribute in attributes if attribute.name in reference.answered)
        self._most = most
        self._random = np.random.default_rng(SEED)
        self._centres = self._look(reference.take(np.array(evenly_spread(len(reference), CENTRES))))[0]
        apart = _distances(self._centres.embedding, self._centres.embedding, but_itself=True)
        self._usual = float(np.median(apart)) if len(apart) > 1 else 0.0
        self._pool: _Pool | None = None
        self._drawn: list[Worth] = []

    def show(self, lot: str, features: Features, candidates: npt.NDArray[np.bool_]) -> None:
        """Add the candidates of a lot, bool (N,): images without labels."""
        if not (candidates.any() and self._attributes):
            return
        pool, answers = self._look(features.take(np.flatnonzero(candidates)))
        weight = _gaps(pool, self._centres)
        # the highest of u^(1/w), u uniform, are a sample with weights w (Efraimidis and Spirakis 2006)
        with np.errstate(divide="ignore"):
            key = np.log(self._random.random(len(pool))) / weight
        kept = np.argsort(-key, kind="stable")[: KEPT * self._most]
        pool = replace(pool, key=key).take(kept)
        pool = replace(
            pool, worth=_objects(self._describe(lot, features, np.flatnonzero(candidates)[kept], answers, kept))
        )
        self._pool = self._pool.join(pool) if self._pool else pool
        self._pool = self._pool.take(np.argsort(-self._pool.key, kind="stable")[: KEPT * self._most])

    def choose(self) -> list[Worth]:
        """Images chosen among all that were shown; images that are shown later only add to them."""
        pool, self._pool = self._pool, None
        if pool is None:
            return self._drawn
        weight, far = _gaps(pool, self._centres), _distances(pool.embedding, self._centres.embedding)
        new = []
        while len(self._drawn) < self._most:
            weight = np.where(far > NEAR * self._usual, weight, 0)
            if not weight.any():
                break
            at = int(self._random.choice(len(pool), p=weight / weight.sum()))
            new.append(at)
            self._drawn.append(pool.worth[at])
            drawn = pool.take(np.array([at]))
            weight = np.minimum(weight, _gaps(pool, drawn))
            far = np.minimum(far, _distances(pool.embedding, drawn.embedding))
        self._centres = self._centres.join(pool.take(np.array(new, np.intp)))
        return self._drawn

    def _look(self, features: Features) -> tuple[_Pool, list[Answers]]:
        answers = answers_of(self._attributes, features.probabilities, decision=features.decision)
        pulls = [np.empty((len(features), 0))]
        for answer, told in zip(answers, tellable(answers), strict=True):
            classes = len(answer.attribute.classes)
            probabilities = np.where(answer.finite[:, None], answer.probabilities, 1 / classes)
            chosen = np.eye(classes + 1)[answer.predicted, :classes]
            pulls.append(np.where(told[:, None], probabilities - chosen, 0))
        count = len(features)
        embedding = np.nan_to_num(features.embeddings.astype(np.float32))
        pull = np.concatenate(pulls, axis=1).astype(np.float32)
        return _Pool(pull, embedding, np.zeros(count), np.empty(count, object)), answers

    def _describe(
        self,
        lot: str,
        features: Features,
        at: npt.NDArray[np.intp],
        answers: Sequence[Answers],
        among: npt.NDArray[np.intp],
    ) -> list[Worth]:
        """Descriptions of the images of a lot at the positions `at`, whose answers are at `among`."""
        far = _distances(np.nan_to_num(features.embeddings[at]), self._centres.embedding)
        told = np.stack([flags[among] for flags in tellable(answers)], axis=1)
        described = []
        for number, said in enumerate(_said(answers, among)):
            counted = [
                pair
                for pair, counts in zip(zip(self._attributes, said, strict=True), told[number], strict=True)
                if counts
            ]
            least, (answer, sure) = min(
                counted or list(zip(self._attributes, said, strict=True)), key=lambda pair: pair[1][1]
            )
            reasons = []
            if sure < UNSURE:
                reasons.append(
                    f"unsure of {least.title}: {answer} {sure:.0%}" if answer else f"no number for {least.title}"
                )
            if self._usual and far[number] > FAR * self._usual:
                reasons.append(f"unlike the reference: {far[number] / self._usual:.1f} times its usual distance")
            why = "; ".join(reasons) or f"of the rest, least sure of {least.title}: {answer} {sure:.0%}"
            named = {attribute.name: pair for attribute, pair in zip(self._attributes, said, strict=True)}
            described.append(Worth(lot, features.filenames[at[number]], why, named))
        return described


def _said(answers: Sequence[Answers], chosen: npt.NDArray[np.intp]) -> list[list[tuple[str, float]]]:
    columns = []
    for answer in answers:
        shown = [*answer.attribute.classes, ""]
        sure = np.where(answer.finite, answer.confidence, 0)[chosen].tolist()
        columns.append(
            [(shown[said], value) for said, value in zip(answer.predicted[chosen].tolist(), sure, strict=True)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _objects(values: Sequence[object]) -> npt.NDArray[np.object_]:
    """An array (N,) of objects that are sequences themselves."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _distances(of: Vectors, to: Vectors, *, but_itself: bool = False) -> npt.NDArray[np.float64]:
    """(N,): distance of each vector (N, D) to the nearest of others (M, D); `but_itself`: both are the same vectors."""
    lengths = np.square(to).sum(axis=1)
    nearest = np.empty(len(of))
    for start in range(0, len(of), CHUNK):
        part = of[start : start + CHUNK]
        squares = np.square(part).sum(axis=1)[:, None] + lengths - 2 * part @ to.T
        if but_itself:
            np.fill_diagonal(squares[:, start:], np.inf)
        nearest[start : start + CHUNK] = squares.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0))


def _gaps(of: _Pool, to: _Pool) -> npt.NDArray[np.float64]:
    """(N,): squared distance of each gradient to the nearest of others.

    The gradients are outer products, so their products are products of the factors.
    """
    squared, lengths = (np.square(pool.pull).sum(axis=1) * np.square(pool.embedding).sum(axis=1) for pool in (of, to))
    nearest = np.empty(len(of))
    for start in range(0, len(of), CHUNK):
        part = slice(start, start + CHUNK)
        products = (of.pull[part] @ to.pull.T) * (of.embedding[part] @ to.embedding.T)
        nearest[part] = (squared[part, None] + lengths - 2 * products).min(axis=1)
    return np.maximum(nearest, 0)


def write_to_label(
    path: Path, attributes: Attributes, chosen: Sequence[Worth], places: Mapping[tuple[str, str], str]
) -> None:
    """Write the list, with an empty cell for every label; `validate` reads it once it is filled in.

    Columns: filename, lot, `WORTH_LABELLING` (why), and per attribute its column, empty, `<attribute>_predicted`,
    `<attribute>_confidence` (0-1), both empty where the attribute is not answered.

    Args:
        path: the file.
        attributes: all attributes, also those that the model never answers, because it lacks their labels.
        chosen: the images.
        places: (lot, file name) -> path in the raw folder, which then names the image.
    """
    columns = ["filename", "lot", WORTH_LABELLING]
    for attribute in attributes:
        columns += [attribute.column, f"{attribute.name}_predicted", f"{attribute.name}_confidence"]
    rows = []
    for image in chosen:
        row = [places.get((image.lot, image.filename), image.filename), image.lot, image.why]
        for attribute in attributes:
            answer, sure = image.said.get(attribute.name, ("", 0.0))
            row += ["", answer, f"{sure:.4f}" if answer else ""]
        rows.append(row)
    write_csv(path, columns, rows, for_people=True)
