"""`python -m stages.label_doubt`."""

from stages.common.contract.command_line import main
from stages.label_doubt.stage import STAGE

raise SystemExit(main(STAGE))
