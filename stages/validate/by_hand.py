"""`python -m stages.validate FILE`: check annotations before they are committed, and print a short verdict."""

import contextlib
import io
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from stages.common.contract.command_line import Parser, main
from stages.common.contract.errors import UsageError
from stages.common.reports.report import REPORT
from stages.validate.attributes_file import find_attributes_file
from stages.validate.stage import STAGE

REASONS = 10
"""Reasons printed; the report has all."""


def is_by_hand(argv: Sequence[str]) -> bool:
    """Whether these arguments begin with the annotations, without the flag `--annotations` of the stage contract."""
    named = {argument.partition("=")[0] for argument in argv}
    return bool(argv) and not named & {"--annotations", "--help", "-h", "--version"}


def look(argv: Sequence[str]) -> int:
    """Validate the named annotations, print the verdict and the report's path, and return the exit code."""
    parser = Parser(prog="python -m stages.validate", description=__doc__)
    parser.add_argument("annotations", type=Path, help="annotation file in any format, or a folder of them")
    parser.add_argument("--raw", type=Path, help="folder of images; without it only the annotations are checked")
    parser.add_argument("--attributes", type=Path, help="attributes.yaml (default: beside them, or data/ here)")
    folder_of_data = "folder whose params.yaml and suites count (default: that of the images, or else the annotations)"
    parser.add_argument("--data", type=Path, help=folder_of_data)
    parser.add_argument("--out", type=Path, help="folder for the report (default: reports/validate-<name>)")
    parser.add_argument("--params", action="append", default=[], help="parameters; given again, a recipe")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one")
    try:
        arguments = parser.parse_args(argv)
        inputs = {name: path for name, path in vars(arguments).items() if name in ("annotations", "raw") and path}
        asked = arguments.attributes or find_attributes_file(inputs)
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    out = arguments.out or Path("reports") / f"validate-{arguments.annotations.resolve().name}"
    command = ["--annotations", str(arguments.annotations), "--out", str(out)]
    command += ["--raw", str(arguments.raw)] if arguments.raw else []
    command += ["--attributes", str(asked)]
    home = (arguments.raw or arguments.annotations).absolute().parent
    home = home.parent if home.name == "annotations" else home
    command += ["--data", str(arguments.data or home)] if arguments.data or home.is_dir() else []
    for option, items in (("--params", arguments.params), ("--set", arguments.set)):
        command += [word for item in items for word in (option, item)]

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the verdict contains the warnings
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            result = Path(folder) / "result.json"
            code = main(STAGE, [*command, "--result", str(result)])
            told = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    finally:
        logging.disable(level)
    if told:  # only with a report of this run: the folder may hold that of an earlier run
        left = Path(told["report"]).parent
        print("\n".join(verdict(str(arguments.annotations), asked, left, looked=bool(arguments.raw))))
    return code


def verdict(name: str, asked: Path, folder: Path, *, looked: bool) -> list[str]:
    """The lines to print.

    Args:
        name: name of the annotations.
        asked: attributes.yaml.
        folder: output of the stage: report, metrics and CSV files.
        looked: whether the images were inspected.
    """
    found = json.loads((folder / "metrics" / "validation.json").read_text(encoding="utf-8"))
    word = "PASS" if found["success"] else "FAIL"
    lines = [f"{word}  {name}: {found['accepted']:,} of {found['rows']:,} rows can be used"]
    lines.append(f"  attributes: {shorten(', '.join(found['labels_known']), 80, placeholder=' …')} ({asked})")
    for title, counts in (("rejected", found["reasons"]), ("kept with a warning", found["remarks"])):
        if counts:
            lines.append(f"  {title}: {sum(counts.values()):,}")
            most = list(counts.items())[:REASONS]
            lines += [f"  {number:>9,}  {reason}{found['examples'].get(reason, '')}" for reason, number in most]
            if len(counts) > len(most):
                lines.append(f"             and {len(counts) - len(most)} more reasons")
    # If rows are rejected, findings about the rest, such as classes without a row, follow from that.
    notices = found["notices" if found["success"] else "notices_of_reading"]
    lines += [f"  noticed: {line}" for line in notices]
    if not looked:
        lines.append("  the images were not checked: give --raw FOLDER")
    return [*lines, f"report: {(folder / REPORT).resolve()}"]
