"""`python -m stages.train`."""

from stages.common.contract.command_line import main
from stages.train.stage import STAGE

raise SystemExit(main(STAGE))
