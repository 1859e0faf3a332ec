"""`python -m stages.label_doubt`."""

import sys

from stages.common.contract.command_line import main
from stages.label_doubt.stage import STAGE

sys.exit(main(STAGE))
