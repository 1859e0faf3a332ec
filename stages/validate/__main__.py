"""`python -m stages.validate`: the stage, or `python -m stages.validate FILE` to check annotations by hand."""

import sys

from stages.common.contract.command_line import main
from stages.validate.by_hand import is_by_hand, look
from stages.validate.stage import STAGE

if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(look(arguments) if is_by_hand(arguments) else main(STAGE, arguments))
