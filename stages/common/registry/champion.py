"""The artifact of stage `champion`: the released version, as predict and monitor use it.

champion.json   {"version": "v3", "model_digest": SHA-256 of model.onnx, "mean_accuracy": on its test split,
                "mean_balanced_accuracy": likewise, null if earlier code has registered it, "lots": the lots on which
                it was trained or measured}; {"version": null} before any release
model.onnx      absent before any release, like the following files
attributes.json the answered attributes (`stages.common.schema.attributes`)
reference/      features.npz (`stages.common.inference.features`) of images that were not used in training, and the
                other files of stage evaluate for drift; seen.npy (`stages.common.registry.seen`): the pictures on
                which it was trained or measured, absent if earlier code has registered it
lineage.json, params.yaml  of the version
"""

from dataclasses import dataclass
from pathlib import Path

from stages.common.contract.artifacts import read_json, reading
from stages.common.schema.attributes import Attributes, read_attributes

CHAMPION = "champion.json"


@dataclass(frozen=True)
class Champion:
    """A released version.

    Attributes:
        version: its name, for example "v3".
        model_digest: SHA-256 (64 hex digits) of its model.onnx, which identifies the model.
        mean_accuracy: on its own test split.
        mean_balanced_accuracy: likewise; None if earlier code has registered it.
        lots: the lots on which it was trained or measured.
        attributes: the answered attributes.
        model: its model.onnx.
        reference: folder with the reference for drift, and with the pictures that it knows.
    """

    version: str
    model_digest: str
    mean_accuracy: float
    lots: frozenset[str]
    attributes: Attributes
    model: Path
    reference: Path
    mean_balanced_accuracy: float | None = None


def read_champion(artifact: Path) -> Champion | None:
    """The version in an artifact of stage `champion`; None if no version was released yet.

    Raises:
        DataError: the artifact is not one of stage champion.
    """
    with reading(artifact / CHAMPION, "champion"):
        found = read_json(artifact / CHAMPION, "champion")
        if found["version"] is None:
            return None
        return Champion(
            version=found["version"],
            model_digest=found["model_digest"],
            mean_accuracy=found["mean_accuracy"],
            lots=frozenset(found["lots"]),
            attributes=read_attributes(artifact),
            model=artifact / "model.onnx",
            reference=artifact / "reference",
            mean_balanced_accuracy=found.get("mean_balanced_accuracy"),
        )
