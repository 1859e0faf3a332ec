"""The lineage of a model: the chain of manifests from the evaluation back to the raw files."""

from collections.abc import Mapping
from typing import Any

from stages.common.contract.artifacts import used_and_given
from stages.common.contract.errors import DataError

Manifests = Mapping[str, Mapping[str, Any]]

KEPT = ("key", "version", "inputs", "image", "git_commit", "created", "seconds", "peak_memory_mb", "headline")


def check_one_run(manifests: Manifests) -> None:
    """Check that every artifact was made from the other given artifacts, or from equal content.

    Args:
        manifests: stage name -> manifest.

    Raises:
        DataError: an artifact was made from another artifact than the one given.
    """
    for stage, manifest in manifests.items():
        for name in manifest["inputs"]:
            if name in manifests and (unlike := used_and_given(manifests, stage, name)):
                raise DataError(
                    f"{stage} was made from {name} {unlike[0]}, but --{name} holds {unlike[1]}: "
                    f"give the artifacts of one run, or run {stage} again"
                )


def lineage(manifests: Manifests) -> dict[str, dict[str, Any]]:
    """Fields of every manifest in the lineage: stage name -> key, version, inputs, image, commit, cost, headline."""
    return {stage: {field: manifest[field] for field in KEPT} for stage, manifest in manifests.items()}


def used_params(manifests: Manifests) -> dict[str, Any]:
    """Parameters that the stages used, by section of params.yaml; some stages read only a part of a section."""
    sections: dict[str, Any] = {}
    for manifest in manifests.values():
        for name, values in manifest["params"].items():
            sections[name] = sections.get(name, {}) | values
    return sections
