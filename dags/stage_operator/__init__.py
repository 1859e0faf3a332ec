"""The operator that runs a stage: its container image on the stage contract, fenced, confined and accounted for.

`DockerOperator` reaches the engine; the code that makes, follows, ends and reads a container is written anew here,
because the stock code (provider 4.6.1) leaves a killed worker's container running beside its retry, masks the cause of
a timeout, misses a child's out-of-memory kill, and reads the last line of a mixed log as the result.

`engine` reaches the container engine, `container` makes a container with its limits and checks its end, `log` reads its
output, `result` checks its result and values of other tasks, `link` leads to the report, `lineage` reports to
OpenLineage; `operator` puts them together.
"""

from stage_operator.operator import StageOperator

__all__ = ["StageOperator"]
