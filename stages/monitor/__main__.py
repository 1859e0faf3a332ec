"""`python -m stages.monitor`."""

from stages.common.contract.command_line import main
from stages.monitor.stage import STAGE

raise SystemExit(main(STAGE))
