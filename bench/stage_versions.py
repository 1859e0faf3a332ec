"""How often a commit that touches stages/common changes the version of a stage, which makes all its artifacts anew.

    python -m bench.stage_versions

Walks the history: of each commit, against the one before it, the version by the imports of the stage (as
`stages.common.contract.version` has it), and by all of stages/common, as it was before.
"""

import argparse
import hashlib
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from bench.machine import table
from stages.common.contract.version import ROOT, SUITES, code_version


def git(*arguments: str) -> bytes:
    """Standard output of git in the repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def by_all_of_common(stage: str, root: Path) -> str:
    """SHA-256 over all files that the version was made of up to commit 56d1a1e."""
    folders = (root / "stages/common", root / "stages" / stage)
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".json", ".html"}]
    files += [root / f"expectations/{suite}.json" for suite in SUITES.get(stage, ())]
    files.append(root / f"images/{stage}/requirements.txt")
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def versions(commit: str, stages: list[str]) -> dict[str, tuple[str, str]]:
    """Stage that is there -> its version at a commit by all of stages/common, and by its imports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "stages", "expectations", "images"))) as files:
            files.extractall(folder, filter="data")
        there = [stage for stage in stages if (folder / "stages" / stage / "__main__.py").exists()]
        return {stage: (by_all_of_common(stage, folder), code_version(stage, folder)) for stage in there}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=74, help="the last so many that touch stages/common")
    parser.add_argument("--until", default="56d1a1e", metavar="COMMIT", help="the newest one (default: %(default)s)")
    arguments = parser.parse_args()
    stages = sorted(path.parent.name for path in ROOT.glob("stages/*/stage.py") if path.parent.name != "common")
    limit = f"--max-count={arguments.commits}"
    commits = git("log", "--no-merges", limit, "--format=%H", arguments.until, "--", "stages/common").decode().split()
    changes = dict.fromkeys(stages, (0, 0, 0))
    for commit in commits:
        old, new = (versions(revision, stages) for revision in (f"{commit}~1", commit))
        for stage in old.keys() & new.keys():
            count, before, after = changes[stage]
            before, after = before + (old[stage][0] != new[stage][0]), after + (old[stage][1] != new[stage][1])
            changes[stage] = (count + 1, before, after)
    print(f"{len(commits)} commits to stages/common up to {arguments.until}; so many change the version:\n")
    rows = [(stage, *changes[stage]) for stage in stages]
    print(table(("stage", "commits", "by all of stages/common", "by the stage's imports"), rows))


if __name__ == "__main__":
    main()
