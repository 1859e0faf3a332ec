"""The exit codes of every stage, and the errors that lead to them.

They follow BSD's sysexits.h. An error of this module is one line for the person who reads the log: cause, then
remedy. 64, 65 and 69 are never retried; 75 is.
"""

import errno
import os
import re
from enum import IntEnum
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of the operating system that mean a full disk."""

SMALL = 2**16
"""Bytes."""


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


class ChangedError(TryAgainError):
    """A file is no longer what its digest said when the key was made."""

    def __init__(self, path: Path) -> None:
        """Name the file; the text is the error's."""
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} changed while it was being read: let its copying finish, and try again"


def errno_of(error: BaseException) -> tuple[int, str]:
    """Number and file of the operating system's error behind an exception; 0 and "" if there is none.

    Libraries wrap that error, or keep only its text: shutil.Error lists texts, safetensors says "(os error 28)", and
    git and DVC only print it.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current and current not in seen:
        seen.append(current)
        if isinstance(current, OSError) and current.errno:
            return current.errno, str(current.filename or "")
        text = str(current)
        if found := re.search(r"\[Errno (\d+)\]|\(os error (\d+)\)", text):
            return int(found[1] or found[2]), ""
        for number in FULL:
            if os.strerror(number).lower() in text.lower():
                return number, ""
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return 0, ""


class FullDiskError(UnavailableError):
    """The disk is full."""


def full_disk(error: BaseException, *folders: Path) -> FullDiskError | None:
    """The error to report if a full disk is the cause of this one; None if it is not.

    Args:
        error: some programs only say that they failed, without a word about the disk.
        folders: the folders to which it was writing; call this before the clean-up there.
    """
    if isinstance(error, FullDiskError):
        return error
    number, file = errno_of(error)
    places = [place for place in (*([Path(file).parent] if file else ()), *folders) if place.is_dir()]
    full = next((place for place in places if _is_full(place)), None)
    if number not in FULL and not full:
        return None
    place = full or (places or [Path.cwd()])[0]
    free = os.statvfs(place)
    room = f"{free.f_bavail * free.f_frsize / 2**20:.1f} MB and {free.f_favail} inodes free"
    remedy = "free space there, or raise the quota" if number == errno.EDQUOT else "free space or inodes there"
    return FullDiskError(f"{place}: {os.strerror(number if number in FULL else errno.ENOSPC)} ({room}): {remedy}")


def _is_full(place: Path) -> bool:
    """Whether there is no room even for a small file. Some file systems count no inodes and report 0 of 0."""
    free = os.statvfs(place)
    return free.f_bavail * free.f_frsize < SMALL or (free.f_files > 0 and free.f_favail == 0)


class Stopped(BaseException):
    """SIGTERM arrived. Derives from BaseException so that no `except Exception` swallows it."""
