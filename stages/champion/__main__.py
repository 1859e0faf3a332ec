"""`python -m stages.champion`."""

from stages.champion.stage import STAGE
from stages.common.contract.command_line import main

raise SystemExit(main(STAGE))
