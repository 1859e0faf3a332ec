"""`python -m stages.archive`, and `python -m stages.archive versions | lineage V | promote V | rollback`."""

import sys

from stages.archive.commands import COMMANDS, run
from stages.archive.stage import STAGE
from stages.common.errors import StageError
from stages.common.logs import log, start_logging
from stages.common.stage import main

if not set(COMMANDS) & set(sys.argv[1:]):
    sys.exit(main(STAGE))
start_logging()
try:
    print(run(sys.argv[1:]))
except StageError as error:
    log.error("archive: %s", error)
    sys.exit(error.exit_code)
