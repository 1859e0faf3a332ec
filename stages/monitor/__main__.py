"""`python -m stages.monitor`."""

import sys

from stages.common.contract.command_line import main
from stages.monitor.stage import STAGE

sys.exit(main(STAGE))
