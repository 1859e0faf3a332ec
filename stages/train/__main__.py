"""`python -m stages.train`."""

import sys

from stages.common.contract.stage import main
from stages.train.stage import STAGE

sys.exit(main(STAGE))
