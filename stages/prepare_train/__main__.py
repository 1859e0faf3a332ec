"""`python -m stages.prepare_train`."""

import sys

from stages.common.contract.command_line import main
from stages.prepare_train.stage import STAGE

sys.exit(main(STAGE))
