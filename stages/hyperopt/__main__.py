"""`python -m stages.hyperopt`."""

from stages.common.contract.command_line import main
from stages.hyperopt.stage import STAGE

raise SystemExit(main(STAGE))
