"""The candidate and the released versions with which it is compared, on the test images of the candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from stages.common.contract.errors import DataError
from stages.common.images.settings import NetworkInput
from stages.common.inference.answers import Right, answers_of, right_answers
from stages.common.inference.onnx_model import OnnxModel, load
from stages.common.registry.registry import MODEL, Registry
from stages.common.registry.seen import Pictures, read_seen
from stages.common.schema.attributes import UNKNOWN, difference, names
from stages.common.schema.dataset import index_rows, read_split


class IncomparableError(ValueError):
    """A released model cannot answer the candidate's images; the message, which describes the model, is the reason."""


@dataclass(frozen=True)
class Met:
    """A released version that has answered the candidate's test images.

    Attributes:
        name: for example "v3".
        right: which of its answers are right.
        notes: limits of the comparison.
        objections: reasons why the candidate must not replace it, unless a person decides so.
    """

    name: str
    right: Right
    notes: Sequence[str]
    objections: Sequence[str]


class Candidate:
    """A model, and the test images of its data.

    Attributes:
        attributes: A attributes of the data.
        labels: (N, A) of the test images, -1 where unknown.
        groups: (N,), the same number for images that belong together.
        filenames, lots, pictures: name, lot and digest of the picture of each image.
        predicted: (N, A), the answered class, -1 without an answer.
        right: which of its answers are right.
    """

    def __init__(self, model: Path, prepared: Path, data: Mapping[str, Any], seen: Pictures | None) -> None:
        """Let it answer the test images.

        Args:
            model: its model.onnx.
            prepared: the artifact of prepare_train.
            data: the section of params.yaml of that artifact.
            seen: its pictures.
        """
        split = read_split(prepared, "test")
        self._images, self.labels, self.attributes = split.take(), split.labels, split.attributes
        self.groups, self.filenames = split.group, split.filenames
        rows = [row for row in index_rows(prepared) if row["split"] == "test"]
        self.lots, self.pictures = ([row[name] for row in rows] for name in ("lot", "pixels"))
        self._model, self._data, self._seen = load(model), data, seen
        self._said = self._model.predict(self._images)
        self.right, self.predicted = self._answers(self._model, self._said)

    def _answers(
        self, model: OnnxModel, said: Mapping[str, npt.NDArray[np.float32]]
    ) -> tuple[Right, npt.NDArray[np.int64]]:
        """Which answers are right, and their classes: (N, A) each. Unknown attributes are never answered."""
        right, predicted = np.full(self.labels.shape, np.nan), np.full(self.labels.shape, UNKNOWN, np.int64)
        known = [column for column, name in enumerate(names(self.attributes)) if name in said]
        asked = tuple(self.attributes[column] for column in known)
        answers = answers_of(asked, said, model.calibration, self.labels[:, known])
        right[:, known] = right_answers(answers)
        for column, answer in zip(known, answers, strict=True):
            predicted[:, column] = np.where(answer.finite & (not answer.never), answer.predicted, UNKNOWN)
        return right, predicted

    def meet(self, registry: Registry, name: str, folder: Path) -> Met:
        """Let a version answer the test images.

        Args:
            registry: the registry of the version.
            name: for example "v3".
            folder: gets its files.

        Raises:
            IncomparableError: the version cannot answer these images.
            DataError: a file of the version is damaged.
            UnavailableError: it cannot be fetched.
        """
        registry.fetch(name, folder, ["model", "reference"])
        model = load_released(folder / MODEL, self._model)
        said = model.predict(self._images)
        right, _ = self._answers(model, said)
        if not (np.isfinite(right) & np.isfinite(self.right)).any():
            raise IncomparableError("which shares no attribute with this one for which a test image has a label")
        notes, objections = self._compare_answered(name, model.answered)
        if _splitting(yaml.safe_load(registry.text(name, "params.yaml"))["data"]) != _splitting(self._data):
            notes.append(
                f"{name} was trained with other splits, so it may have been trained on some of these test images"
            )
        theirs = read_seen(folder / "reference")
        if theirs is None:
            notes.append(f"{name} comes from earlier code, which did not record its training images")
        elif self._seen is not None and not np.isin(self._seen, theirs).any():
            objections.append(
                f"it was trained on other data than {name}: none of its {len(self._seen):,} pictures is among the "
                f"{len(theirs):,} that {name} knows; archive.force or `archive promote` releases it anyway"
            )
        if model.calibration == self._model.calibration and all(
            np.array_equal(said[attribute], probabilities, equal_nan=True)
            for attribute, probabilities in self._said.items()
        ):
            objections.append(f"it answers every test image as {name} does: a release would change nothing")
        return Met(name, right, notes, objections)

    def _compare_answered(self, name: str, theirs: Sequence[str]) -> tuple[list[str], list[str]]:
        """Notes and objections about attributes that one of the two never answers; these are left out."""
        ours = self._model.answered
        more = [
            attribute.title.lower()
            for attribute in self.attributes
            if attribute.name in ours and attribute.name not in theirs
        ]
        fewer = [
            attribute.title.lower()
            for attribute in self.attributes
            if attribute.name in theirs and attribute.name not in ours
        ]
        notes, objections = [], []
        if more:
            notes.append(f"{name} never answers {' and '.join(more)}, so that is left out")
        if fewer:
            objections.append(
                f"it never answers {' and '.join(fewer)}, because its training has no label of that, and {name} does; "
                "archive.force or `archive promote` releases it anyway"
            )
        return notes, objections


def _splitting(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of section `data` that decides the split of an image."""
    return {key: value for key, value in data.items() if key not in NetworkInput.model_fields}


def load_released(path: Path, candidate: OnnxModel) -> OnnxModel:
    """Load the model of a released version for a comparison with the candidate.

    Raises:
        IncomparableError: it is from earlier code, it has another preprocessing, or it answers attributes or classes
            that the candidate does not. That must not end the run, or no training could ever replace such a champion.
    """
    try:
        champion = load(path)
    except DataError as error:
        raise IncomparableError(f"which this code cannot use ({str(error).replace(str(path), 'its model')})") from error
    if champion.preprocessing != candidate.preprocessing:
        raise IncomparableError(
            f"whose images are prepared differently ({champion.preprocessing} against {candidate.preprocessing})"
        )
    common = tuple(attribute for attribute in candidate.attributes if attribute.name in names(champion.attributes))
    if difference(common, champion.attributes):  # further attributes of the candidate are no obstacle
        raise IncomparableError(
            f"a model of other attributes ({difference(candidate.attributes, champion.attributes)})"
        )
    return champion
