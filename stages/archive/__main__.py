"""`python -m stages.archive`."""

import sys

from stages.archive.stage import STAGE
from stages.common.stage import main

sys.exit(main(STAGE))
