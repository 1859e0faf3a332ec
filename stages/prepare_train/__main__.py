"""`python -m stages.prepare_train`."""

from stages.common.contract.command_line import main
from stages.prepare_train.stage import STAGE

raise SystemExit(main(STAGE))
