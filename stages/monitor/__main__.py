"""`python -m stages.monitor`."""

import sys

from stages.common.contract.stage import main
from stages.monitor.stage import STAGE

sys.exit(main(STAGE))
