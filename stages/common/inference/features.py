"""Features of images for drift detection: statistics of pixels, embeddings and probabilities.

Stage `evaluate` writes those of images that were not used in training, stage `predict` those of each lot, and stage
`monitor` compares both. All are computed from the network's input, so both sides were prepared alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import reading
from stages.common.schema.face import NO_FACES

EXAMPLES = 24
"""Images that are kept whole, for a report that shows reference and current images."""


def evenly_spread(count: int, most: int = EXAMPLES) -> list[int]:
    """Up to `most` different positions among `count`, evenly spread from the first to the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


@dataclass(frozen=True)
class Features:
    """Features of N images, in the order of `filenames`.

    Attributes:
        filenames: N names.
        statistics: name of a statistic -> float32 (N,).
        embeddings: float32 (N, D), the network's pooled features.
        probabilities: attribute -> float32 (N, classes), calibrated; NaN if the attribute is never answered.
        examples: uint8 (E, S, S, 3), RGB, E <= EXAMPLES: some of the images, evenly spread.
        example_names: their E names.
        pictures: uint64 (N,), identifies each picture (`stages.common.registry.seen`); (0,) if not needed.
        decision: attribute -> offsets of the decision rule (`stages.common.inference.decision`).
        faces: int32 (N, F), the F fields of `stages.common.schema.face.Face`; (0, F) if faces are not cut out.
    """

    filenames: Sequence[str]
    statistics: Mapping[str, npt.NDArray[np.float32]]
    embeddings: npt.NDArray[np.float32]
    probabilities: Mapping[str, npt.NDArray[np.float32]]
    examples: npt.NDArray[np.uint8]
    example_names: Sequence[str]
    pictures: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    decision: Mapping[str, Sequence[float]] = field(default_factory=dict)
    faces: npt.NDArray[np.int32] = field(default_factory=lambda: NO_FACES)

    def __len__(self) -> int:
        return len(self.filenames)

    @property
    def answered(self) -> list[str]:
        """Attributes that the model answers; for the others it gives no number for any image."""
        return [name for name, values in self.probabilities.items() if np.isfinite(values).any()]

    def take(self, chosen: npt.NDArray[np.intp]) -> "Features":
        """Some of the images, by their positions, with the examples among them."""
        names = [self.filenames[position] for position in chosen]
        kept = set(names)
        examples = [position for position, name in enumerate(self.example_names) if name in kept]
        return Features(
            filenames=names,
            statistics={name: values[chosen] for name, values in self.statistics.items()},
            embeddings=self.embeddings[chosen],
            probabilities={name: values[chosen] for name, values in self.probabilities.items()},
            examples=self.examples[examples],
            example_names=[self.example_names[position] for position in examples],
            pictures=self.pictures[chosen] if len(self.pictures) else self.pictures,
            decision=self.decision,
            faces=self.faces[chosen] if len(self.faces) else self.faces,
        )

    def save(self, path: Path) -> None:
        """Write a .npz without pickles; embeddings as float16, whose 3 digits show drift as well at half the size."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "filenames": np.array(self.filenames, np.str_),
            "embeddings": self.embeddings.astype(np.float16),
            "examples": self.examples,
            "example_names": np.array(self.example_names, np.str_),
            "pictures": self.pictures,
            **({"faces": self.faces} if len(self.faces) else {}),
            **{f"statistic_{name}": values for name, values in self.statistics.items()},
            **{f"probability_{name}": values for name, values in self.probabilities.items()},
            **{f"decision_{name}": np.array(offsets, np.float64) for name, offsets in self.decision.items()},
        }
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def load_features(path: Path) -> Features:
    """Read what `Features.save` has written.

    Raises:
        DataError: it is not such a file.
    """
    with reading(path):
        # a file that numpy opens itself stays open if it is not in numpy's form
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return Features(
            filenames=found["filenames"].tolist(),
            statistics=_named("statistic_", found),
            embeddings=found["embeddings"].astype(np.float32),
            probabilities=_named("probability_", found),
            examples=found["examples"],
            example_names=found["example_names"].tolist(),
            pictures=found.get("pictures", np.empty(0, np.uint64)),  # earlier code kept none
            decision={name: offsets.tolist() for name, offsets in _named("decision_", found).items()},
            faces=found.get("faces", NO_FACES),
        )


def _named(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def join_features(parts: Sequence[Features]) -> Features:
    """Join features of the same model, at least one part; examples are thinned out evenly."""
    examples = np.concatenate([part.examples for part in parts])
    names = [name for part in parts for name in part.example_names]
    chosen = evenly_spread(len(names))
    return Features(
        filenames=[name for part in parts for name in part.filenames],
        statistics={name: np.concatenate([part.statistics[name] for part in parts]) for name in parts[0].statistics},
        embeddings=np.concatenate([part.embeddings for part in parts]),
        probabilities={
            name: np.concatenate([part.probabilities[name] for part in parts]) for name in parts[0].probabilities
        },
        examples=examples[chosen],
        example_names=[names[position] for position in chosen],
        pictures=np.concatenate([part.pictures for part in parts]),
        decision=parts[0].decision,
        faces=np.concatenate([part.faces for part in parts]),
    )
