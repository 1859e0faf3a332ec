"""`python -m stages.predict`."""

import sys

from stages.common.contract.stage import main
from stages.predict.stage import STAGE

sys.exit(main(STAGE))
