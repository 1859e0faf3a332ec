"""Parameters of stage `monitor`."""

from stages.common.monitor_settings import MonitorSection
from stages.common.params import Section


class Params(Section):
    """The sections that this stage reads."""

    monitor: MonitorSection
