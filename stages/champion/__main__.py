"""`python -m stages.champion`."""

import sys

from stages.champion.stage import STAGE
from stages.common.contract.stage import main

sys.exit(main(STAGE))
