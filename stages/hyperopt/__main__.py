"""`python -m stages.hyperopt`."""

import sys

from stages.common.contract.command_line import main
from stages.hyperopt.stage import STAGE

sys.exit(main(STAGE))
