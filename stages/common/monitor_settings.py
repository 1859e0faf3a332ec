"""Section `monitor` of params.yaml, which `archive` (release gate) and `monitor` read."""

from pydantic import Field

from stages.common.params import Section


class MonitorSection(Section):
    """Section `monitor`.

    Attributes:
        min_accuracy: mean accuracy over the attributes, 0-1; a model below is not released, and a released one that
            falls below on new lots is trained again.
    """

    min_accuracy: float = Field(ge=0, le=1)
