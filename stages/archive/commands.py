"""Commands on registry and store: `python -m stages.archive versions | lineage | promote | rollback | prune`."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from stages.archive.release import released, standing
from stages.archive.versions_page import write_versions
from stages.common.contract.artifacts import read_manifest, write_json
from stages.common.contract.command_line import Parser
from stages.common.contract.errors import DataError, UnavailableError, UsageError
from stages.common.contract.run import told_run
from stages.common.registry.registry import LINEAGE, PAGE, Registry, Release
from stages.common.reports.report import REPORT

COMMANDS = {
    "versions": "list all versions, and which is the champion",
    "lineage": "print the lineage of a version, down to the raw files",
    "promote": "make a version the champion",
    "rollback": "go back to the previous champion",
    "prune": "remove unused artifacts from the store, and say what is kept and why",
}
"""Name of a command -> its help."""
IN_STORE = Path("/artifacts/registry")
LOCAL = Path("artifacts/registry")


def run(argv: Sequence[str]) -> str:
    """Do what a command line says, and return what it prints.

    Raises:
        StageError: it cannot be done; the error is one line with the cause.
    """
    where = Parser(add_help=False)
    where.add_argument("--registry", type=Path, default=IN_STORE if IN_STORE.exists() else LOCAL, metavar="DIR",
                       help="default: %(default)s")  # fmt: skip
    parser = Parser(prog="python -m stages.archive", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _, lineage, promote, rollback = (
        commands.add_parser(name, parents=[where], help=COMMANDS[name], description=COMMANDS[name])
        for name in ("versions", "lineage", "promote", "rollback")
    )
    for command in (lineage, promote):
        command.add_argument("version", help="for example v3")
    for command in (promote, rollback):
        command.add_argument("--reason", default="", help="why, for the history")
        command.add_argument("--by", default="", metavar="NAME", help="who decided, for the history")
        command.add_argument(
            "--store", type=Path, metavar="DIR", help="artifact store, which gets a page about the decision"
        )
        command.add_argument("--result", type=Path, metavar="FILE", help="gets the result as JSON; needs --store")
    promote.add_argument("--against", default="", metavar="VERSION", help="refuse if the champion is another version")
    add_prune(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "prune":
        return clean_up(arguments)
    registry = Registry(arguments.registry)
    if arguments.command == "versions":
        return list_versions(registry)
    if arguments.command == "lineage":
        return print_lineage(registry, arguments.version)
    if arguments.result and not arguments.store:
        raise UsageError("--result FILE needs --store DIR, which holds the version")
    return decide(registry, arguments)


def decide(registry: Registry, arguments: argparse.Namespace) -> str:
    """Promote a version or roll back, as the command line says.

    With a store, the run of the command (`told_run`) gets a page, and a second try does nothing.

    Raises:
        UsageError: there is no such version, no previous champion, or the champion is not `against`.
        DataError: the version was released, but the store has lost its archive.
        UnavailableError: the version was released, but the page of all versions cannot be written.
    """
    started, run = time.monotonic(), told_run()
    by, name = arguments.by or run.get("by", ""), " ".join(run[part] for part in ("dag_id", "run_id") if part in run)
    with registry.locked():
        if arguments.command == "promote":
            reason = arguments.reason or "by hand"
            release = registry.promote(arguments.version, reason, by, name, arguments.against)
        else:
            release = registry.rollback(arguments.reason, by, name)
        try:
            write_versions(registry, registry.home.parent / "run")
        except OSError as error:
            page = error.filename or registry.home / PAGE
            raise UnavailableError(
                f"{release.version} is the champion now, and the page of all versions cannot be written: {page}: "
                f"{error.strerror}: let uid {os.getuid()} use it; the next run writes the page"
            ) from error
    if arguments.store:
        try:
            result = write_decision(registry, release, arguments.store)
        except DataError as error:
            raise DataError(f"{release.version} is the champion now, and its page cannot be written: {error}") from None
        if arguments.result:
            write_json(arguments.result, result | {"seconds": round(time.monotonic() - started, 3)})
        return standing(registry, registry.version(release.version))
    return (
        f"{release.version} is the champion now ({release.told})\n"
        "the next prediction uses it: airflow dags trigger predict_new_lots, or without containers dvc repro"
    )


def write_decision(registry: Registry, release: Release, store: Path) -> dict[str, object]:
    """Write the page of a decision, and return its result in the form of a stage's result.

    Args:
        registry: the registry of the release.
        release: the decision.
        store: the artifact store with the archive of the version.
    """
    from stages.archive.run_page import write_run  # not needed by the other commands

    version = registry.version(release.version)
    artifact = store / "archive" / version.archive
    title = read_manifest(artifact)["params"]["archive"]["title"]
    page = write_run(store / "run", title, artifact, registry, version)
    return {
        "stage": "archive",
        "path": str(artifact),
        "key": version.archive,
        "outputs": {"report": str(artifact / REPORT)},
        "report": str(page),
        "cached": False,
        "headline": {
            **released(registry, version),
            "action": release.action,
            "by": release.by,
            "reason": release.reason,
            "mean_accuracy": round(version.mean_accuracy, 4),
        },
    }


def add_prune(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The command line of `prune`."""
    text = COMMANDS["prune"]
    prune = commands.add_parser("prune", help=text, description=text, allow_abbrev=False)
    prune.add_argument("--store", type=Path, default=(IN_STORE if IN_STORE.exists() else LOCAL).parent, metavar="DIR",
                       help="artifact store; default: %(default)s")  # fmt: skip
    prune.add_argument("--keep", required=True, metavar="TIME",
                       help="keep artifacts used within it, such as 12h, 30d or 2w; longer than a run")  # fmt: skip
    prune.add_argument("--registry", type=Path, metavar="DIR", help="default: registry in the store")
    prune.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    prune.add_argument("--result", type=Path, metavar="FILE", help="gets the result as JSON")


def clean_up(arguments: argparse.Namespace) -> str:
    """Clean up the store as the command line says.

    Raises:
        UnavailableError: something could not be removed, or the page or the result could not be written.
    """
    from stages.archive.prune import prune  # not needed by the other commands
    from stages.archive.prune_report import result, table, write_page

    started = time.monotonic()
    try:
        found = prune(arguments.store, arguments.keep, dry_run=arguments.dry_run, registry=arguments.registry)
        print(table(found), flush=True)
        page = write_page(found, arguments.store)
        if arguments.result:
            write_json(arguments.result, result(found, page, round(time.monotonic() - started, 3)))
    except OSError as error:
        where = error.filename or arguments.store
        raise UnavailableError(
            f"{where}: {error.strerror}: let uid {os.getuid()} write there, or free space"
        ) from error
    if found.problems:
        raise UnavailableError(f"{len(found.problems)} could not be removed; the first: {found.problems[0]}")
    return f"report: {page}"


def list_versions(registry: Registry) -> str:
    """A line per version, and one per release."""
    champion = registry.champion()
    lines = []
    for version in registry.versions():
        mark = "champion" if version == champion else ""
        lots = f"{len(version.lots)} lot{'' if len(version.lots) == 1 else 's'}"
        lines.append(f"{version.name:<5} {mark:<8} {version.created}  {version.means}  {lots}  {version.gate_verdict}")
    lines += ["releases:"] if lines else [f"no version in {registry.home} yet"]
    for release in registry.releases():
        by = f"{release.by}: " if release.by else ""
        lines.append(f"  {release.time}  {release.action:<8} {release.version:<5} {by}{release.reason}")
    return "\n".join(lines)


def print_lineage(registry: Registry, name: str) -> str:
    """The chain of artifacts behind a version: each with key, image, commit, and inputs."""
    version = registry.version(name)
    chain = json.loads(registry.text(name, LINEAGE))
    lines = [f"{name}  {version.means}, registered {version.created}"]
    lines += [f"  model {version.model_digest or 'registered by earlier code, which did not keep its digest'}"]
    lines += [f"  compared with {version.champion or 'nothing'}: {'; '.join(version.reasons)}"]
    for stage, entry in reversed(chain.items()):
        lines += ["", f"{stage} {entry['key']}"]
        lines += [f"  made {entry['created']} in {entry['seconds']:.1f} s, stage version {entry['version']}"]
        lines += [f"  image {entry['image'] or 'none'}, commit {entry['git_commit'] or 'unknown'}"]
        for source, origin in entry["inputs"].items():
            files = ""
            if "files" in origin:
                files = f", {origin['files']} file{'' if origin['files'] == 1 else 's'} in {origin['path']}"
            lines.append(f"  from {source} {origin.get('key') or origin['digest']}{files}")
    return "\n".join(lines)
