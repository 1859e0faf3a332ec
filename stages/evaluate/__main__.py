"""`python -m stages.evaluate`."""

from stages.common.contract.command_line import main
from stages.evaluate.stage import STAGE

raise SystemExit(main(STAGE))
