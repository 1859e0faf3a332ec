"""`python -m stages.hyperopt`."""

import sys

from stages.common.contract.stage import main
from stages.hyperopt.stage import STAGE

sys.exit(main(STAGE))
