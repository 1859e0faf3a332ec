"""Lineage of a stage for OpenLineage: inputs and outputs with their versions, and its figures.

Airflow's OpenLineage provider calls it when a task has ended, and only if a transport is configured.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import store_paths

from stage_operator.engine import ARTIFACTS_VOLUME, DATA, DATA_VOLUME

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

SOURCE = "face-attributes"


def lineage(inputs: Mapping[str, str], result: Mapping[str, Any]) -> "OperatorLineage[Any, Any]":
    """Inputs and outputs of a task, and its figures as tags of the run.

    The name of a data set is its volume and its path there; for an artifact, it is the volume and the stage, and the
    key of the artifact is its version.

    Args:
        inputs: name of an input -> its path in the container.
        result: result of the stage; {} if it has failed.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.generated import base, dataset_version_dataset, tags_run

    def data_set(kind: Any, path: str) -> Any:
        if found := store_paths.parse(path):
            version = dataset_version_dataset.DatasetVersionDatasetFacet(found.key)
            return kind(ARTIFACTS_VOLUME, found.stage, facets={"version": version})
        volume = DATA_VOLUME if path.startswith(f"{DATA}/") else ARTIFACTS_VOLUME
        return kind(volume, path.strip("/").partition("/")[2])

    told = {name: result[name] for name in ("content", "cached", "report") if result.get(name) is not None}
    told |= result.get("headline", {})
    tags = [tags_run.TagsRunFacetFields(name, str(value), SOURCE) for name, value in told.items()]
    return OperatorLineage(
        inputs=[data_set(base.InputDataset, path) for path in inputs.values()],
        outputs=[data_set(base.OutputDataset, result["path"])] if "path" in result else [],
        run_facets={"tags": tags_run.TagsRunFacet(tags)} if tags else {},
    )
