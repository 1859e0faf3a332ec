"""`python -m stages.archive`, and `python -m stages.archive versions | lineage V | promote V | rollback | prune`."""

import signal
import sys
from dataclasses import replace

from stages.archive.commands import COMMANDS, run
from stages.archive.stage import STAGE
from stages.common.contract.command_line import main
from stages.common.contract.errors import StageError
from stages.common.contract.held import end_with_stdin
from stages.common.contract.logs import log, start_logging

if not set(COMMANDS) & set(sys.argv[1:]):
    listed = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    commands = f"commands in place of a run, each with its own --help:\n{listed}"
    sys.exit(main(replace(STAGE, description=f"{STAGE.description}\n\n{commands}")))
start_logging()
end_with_stdin()
try:
    found = run(sys.argv[1:])
except StageError as error:
    log.error("archive: %s", error)
    sys.exit(error.exit_code)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` reads some lines and goes away
print(found)
