"""`python -m stages.validate`."""

import sys

from stages.common.stage import main
from stages.validate.stage import STAGE

if __name__ == "__main__":
    sys.exit(main(STAGE))
