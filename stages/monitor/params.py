"""Parameters of stage `monitor`."""

from stages.common.contract.params import Section
from stages.common.inference.settings import MetricSection, ToLabelSection
from stages.common.registry.monitor_settings import MonitorSection


class Params(Section):
    """The sections that this stage reads."""

    evaluate: MetricSection
    monitor: MonitorSection
    to_label: ToLabelSection
