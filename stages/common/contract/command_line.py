"""The command line that every stage has, and the exit codes that it ends with.

python -m stages.<name> --<input> PATH ... [--params params.yaml [--params RECIPE ...]] [--set section.key=value]
                        [--data DIR] [--expectations DIR]
                        (--out DIR | --store DIR) [--result FILE] [--recompute] [--check | --lots JSON]
python -m stages.<name> --help | --version
"""

import argparse
import errno
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from stages.common.contract.artifacts import MANIFEST
from stages.common.contract.data_folder import EXPECTATIONS, PARAMS, own_params, own_suites
from stages.common.contract.errors import (
    EXIT_CODE_HELP,
    ExitCode,
    StageError,
    Stopped,
    UsageError,
    errno_of,
    full_disk,
)
from stages.common.contract.hearing import end_if_deaf
from stages.common.contract.held import end_with_stdin
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import ParamsT, load_params
from stages.common.contract.run import Call, check, hand_over, run, run_lots
from stages.common.contract.stage import Stage
from stages.common.contract.version import SUITES, stage_version
from stages.common.reports.report import REPORT, VERSION

_CHECK = (
    "check parameters and inputs, do no work",
    "check parameters and inputs, do no work; with --store, also list the lots that are missing there",
)

_REMEDIES = {
    errno.ENOTDIR: "name a folder",
    errno.ENAMETOOLONG: "shorten it",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: f"let uid {os.getuid()} use it",
    errno.EPERM: f"let uid {os.getuid()} use it",
}

_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO})
"""Passing errors of a disk or of its server."""


def main(stage: Stage[ParamsT], argv: Sequence[str] | None = None) -> int:
    """Run a stage from its command line and return its exit code; never raises."""
    return ended(stage.name, lambda: _obey(stage, parser(stage).parse_args(argv)))


def ended(name: str, work: Callable[[], int]) -> int:
    """Do the work of a stage or of a command of it, and return its exit code; never raises.

    Args:
        name: of the stage, for its log.
        work: returns an exit code, or raises what `stages.common.contract.errors` and the system raise.
    """
    start_logging()
    signal.signal(signal.SIGTERM, _raise_stopped)
    end_if_deaf(_raise_stopped)
    end_with_stdin()
    try:
        return work()
    except Stopped:
        log.warning("stopped by SIGTERM; nothing half-made was published")
        return ExitCode.STOPPED
    except MemoryError:
        log.error("%s: out of memory: give the stage more memory or use less data", name)
        return ExitCode.UNAVAILABLE
    except Exception as error:
        if told := full_disk(error):
            error = told
        if isinstance(error, StageError):
            log.error("%s: %s", name, error)
            return error.exit_code
        number, file = errno_of(error)
        if remedy := _REMEDIES.get(number):
            log.error("%s: %s: %s: %s", name, file or "a file", os.strerror(number), remedy)
            return ExitCode.UNAVAILABLE
        if number in _PASSING:
            remedy = "see that its disk or file server works, then try again"
            log.error("%s: %s: %s: %s", name, file or "a file", os.strerror(number), remedy)
            return ExitCode.TRY_AGAIN
        logging.exception("%s: defect", name)
        return ExitCode.DEFECT


def _raise_stopped(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not interrupt the clean-up
    raise Stopped


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser(stage: Stage[Any]) -> argparse.ArgumentParser:
    """The command line of a stage; its help explains inputs, outputs and exit codes."""
    lines = ["outputs (files and folders of the artifact):"]
    lines += [f"  {path:<32} {text}" for path, text in stage.outputs.values()]
    lines += [f"  {REPORT:<32} the page to open; it needs no network"]
    lines += [f"  {MANIFEST:<32} inputs, parameters, and every file with size and SHA-256"]
    lines += ["", "exit codes:"] + [f"  {code:<4} {text}" for code, text in EXIT_CODE_HELP.items()]
    lines += ["", "The last line of stdout is the result, one JSON object; logs go to stderr."]
    result = Parser(
        prog=f"python -m stages.{stage.name}",
        description=stage.description,
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    told = f"Face Attributes {VERSION}, {stage.name} {stage_version(stage.name)}"
    result.add_argument("--version", action="version", version=told)
    for name, spec in stage.inputs.items():
        result.add_argument(f"--{name}", type=Path, required=spec.required, metavar="PATH", help=spec.help)
    result.add_argument(
        "--params",
        action="append",
        type=Path,
        metavar="FILE",
        help=f"parameters (default: {PARAMS}); repeated: a recipe with the keys that differ",
    )
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one parameter; repeatable",
    )
    result.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="data folder: its params.yaml is the last recipe, and its suites replace those of the repository",
    )
    if stage.name in SUITES:
        result.add_argument(
            "--expectations", type=Path, metavar="DIR", help="folder of suites, which replace those of the same name"
        )
    where = result.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="write the artifact exactly here")
    where.add_argument(
        "--store", type=Path, metavar="DIR", help="artifact store: write to DIR/<stage>/<key>, or reuse it"
    )
    result.add_argument("--result", type=Path, metavar="FILE", help="also write the result JSON here")
    result.add_argument("--recompute", action="store_true", help="compute even if the artifact is cached")
    alone = result.add_mutually_exclusive_group()
    alone.add_argument("--check", action="store_true", help=_CHECK[bool(stage.new_lots)])
    if stage.run_lots:
        text = 'do only the part of these lots, into the cache of --store, for example \'["s1", "s2"]\''
        alone.add_argument("--lots", type=_lots, metavar="JSON", help=text)
    return result


def _lots(text: str) -> list[str]:
    try:
        lots = json.loads(text)
    except ValueError:
        lots = None
    if not (isinstance(lots, list) and lots and all(isinstance(lot, str) for lot in lots)):
        raise argparse.ArgumentTypeError(f'expected a JSON list of lots, for example ["s1", "s2"], not {text!r}')
    return lots


def _obey(stage: Stage[ParamsT], arguments: argparse.Namespace) -> int:
    if not (arguments.check or arguments.out or arguments.store):
        raise UsageError("--out DIR or --store DIR is needed")
    file, *recipes = arguments.params or [PARAMS]
    own, suites = _own(stage, arguments.data, getattr(arguments, "expectations", None))
    params = load_params(stage.params, file, arguments.set, recipes, own)
    inputs = {name: Path(path) for name in stage.inputs if (path := getattr(arguments, name))}
    for name, spec in stage.inputs.items():
        if spec.default and name not in inputs and (found := spec.default(inputs)):
            inputs[name] = found
    for name, path in inputs.items():
        if stage.inputs[name].created:
            path.mkdir(parents=True, exist_ok=True)
        if not (path.is_file() or path.is_dir()):
            raise UsageError(f"--{name} {path}: no such file or folder")
    for path in filter(None, (arguments.out, arguments.store)):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file: name a folder")
    out = arguments.out and arguments.out.absolute()
    call = Call(stage, params, inputs, arguments.store, out, arguments.result, arguments.recompute, suites)
    if arguments.check:
        result = check(call)
    elif lots := getattr(arguments, "lots", None):
        result = run_lots(call, lots)
    else:
        result = run(call)
    hand_over(result, call.result)
    return ExitCode.DONE


def _own(stage: Stage[Any], data: Path | None, folder: Path | None) -> tuple[Path | None, dict[str, Path]]:
    """The params.yaml that the data bring, and the suites of theirs that the stage takes: name -> file."""
    for name, path in (("data", data), ("expectations", folder)):
        if path and not path.is_dir():
            raise UsageError(f"--{name} {path}: no such folder")
    if data and not folder and (data / EXPECTATIONS).is_dir():
        folder = data / EXPECTATIONS
    own, suites = data and own_params(data), own_suites(folder, stage.name) if folder else {}
    for file in (*([own] if own else []), *suites.values()):
        log.info("uses %s of the data folder", file)
    return own, suites
