"""`python -m stages.evaluate`."""

import sys

from stages.common.contract.stage import main
from stages.evaluate.stage import STAGE

sys.exit(main(STAGE))
