"""The exit codes of every stage, and the errors that lead to them.

They follow BSD's sysexits.h. An error of this module is one line for the person who reads the log: cause, then
remedy. 64, 65 and 69 are never retried; 75 is.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a stage ends."""

    DONE = 0
    USAGE = 64
    BAD_DATA = 65
    UNAVAILABLE = 69
    DEFECT = 70
    TRY_AGAIN = 75
    STOPPED = 143


EXIT_CODE_HELP = {
    ExitCode.DONE: "done",
    ExitCode.USAGE: "wrong usage or parameters (not retried)",
    ExitCode.BAD_DATA: "the data are bad (not retried)",
    ExitCode.UNAVAILABLE: "something needed is absent: no GPU, no disk space (not retried)",
    ExitCode.DEFECT: "a defect in the stage",
    ExitCode.TRY_AGAIN: "a passing fault, try again",
    ExitCode.STOPPED: "stopped by SIGTERM",
}


class StageError(Exception):
    """An expected failure: its message is one line that names cause and remedy."""

    exit_code = ExitCode.DEFECT


class UsageError(StageError):
    """The command line or a parameter is wrong."""

    exit_code = ExitCode.USAGE


class DataError(StageError):
    """The data are bad."""

    exit_code = ExitCode.BAD_DATA


class UnavailableError(StageError):
    """Something that the stage needs is absent: a GPU, disk space, memory."""

    exit_code = ExitCode.UNAVAILABLE


class TryAgainError(StageError):
    """A passing fault: the same call may succeed later."""

    exit_code = ExitCode.TRY_AGAIN


class Stopped(BaseException):
    """SIGTERM arrived. Derives from BaseException so that no `except Exception` swallows it."""
