"""`python -m stages.champion`."""

import sys

from stages.champion.stage import STAGE
from stages.common.contract.command_line import main

sys.exit(main(STAGE))
