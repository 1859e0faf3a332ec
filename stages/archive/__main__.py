"""`python -m stages.archive`, and `python -m stages.archive versions | lineage V | promote V | rollback | prune`."""

import signal
import sys
from dataclasses import replace

from stages.archive.commands import COMMANDS, run
from stages.archive.stage import STAGE
from stages.common.contract.command_line import ended, main


def _obey() -> int:
    found = run(sys.argv[1:])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` reads some lines and ends
    print(found)
    return 0


if set(COMMANDS) & set(sys.argv[1:]):
    sys.exit(ended("archive", _obey))
listed = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
commands = f"commands in place of a run, each with its own --help:\n{listed}"
sys.exit(main(replace(STAGE, description=f"{STAGE.description}\n\n{commands}")))
