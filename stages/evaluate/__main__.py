"""`python -m stages.evaluate`."""

import sys

from stages.common.contract.command_line import main
from stages.evaluate.stage import STAGE

sys.exit(main(STAGE))
