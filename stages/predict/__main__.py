"""`python -m stages.predict`."""

import sys

from stages.common.contract.command_line import main
from stages.predict.stage import STAGE

sys.exit(main(STAGE))
