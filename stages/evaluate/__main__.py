"""`python -m stages.evaluate`."""

import sys

from stages.common.stage import main
from stages.evaluate.stage import STAGE

sys.exit(main(STAGE))
