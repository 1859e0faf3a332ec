"""`python -m stages.predict`."""

from stages.common.contract.command_line import main
from stages.predict.stage import STAGE

raise SystemExit(main(STAGE))
