"""The one operator that runs a stage: its container image on the stage contract, fenced, confined and accounted for.

`DockerOperator` knows how to reach the engine; how a container is made, followed, ended and read is written anew here,
because the stock way (provider 4.6.1) leaves a killed worker's container running beside its retry, masks the cause of a
timeout, misses a child's out-of-memory kill, and takes the last line of a mixed log for the result.

`engine` reaches the container engine, `container` makes one with its limits and judges its end, `log` reads what it
prints, `result` what it hands over and what comes from other tasks, `link` leads to the report, `lineage` tells
OpenLineage; `operator` puts them together.
"""

from stage_operator.engine import (
    ARTIFACTS_VOLUME,
    DATA,
    DATA_VOLUME,
    connect,
    image_ids,
    image_name,
    missing_image,
    volumes,
)
from stage_operator.link import ReportLink, address_of
from stage_operator.operator import NEWS, OF_DATA, StageOperator

__all__ = [
    "ARTIFACTS_VOLUME",
    "DATA",
    "DATA_VOLUME",
    "NEWS",
    "OF_DATA",
    "ReportLink",
    "StageOperator",
    "address_of",
    "connect",
    "image_ids",
    "image_name",
    "missing_image",
    "volumes",
]
