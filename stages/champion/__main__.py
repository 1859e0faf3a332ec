"""`python -m stages.champion`."""

import sys

from stages.champion.stage import STAGE
from stages.common.stage import main

sys.exit(main(STAGE))
