"""`python -m stages.train`."""

import sys

from stages.common.contract.command_line import main
from stages.train.stage import STAGE

sys.exit(main(STAGE))
