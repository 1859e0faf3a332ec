"""Make the files of a new stage, and name it where stages are named: `make stage NAME=explain`.

It begins with the libraries and the settings of the stage LIKE. Its inputs are the artifacts of the stages INPUTS, or
else the inputs of LIKE, and it is a task of the main DAG.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DAG = "dags/ml_pipeline_face_attributes"

PARAMS = '''"""Parameters of stage `NAME`."""

from pydantic import Field

from stages.common.contract.params import Section


class CLASSSection(Section):
    """Section `NAME`.

    Attributes:
        seed: of whatever is random.
    """

    seed: int = Field(ge=0)


class Params(Section):
    """The sections that this stage reads."""

    NAME: CLASSSection
'''

STAGE = '''"""The wiring of stage `NAME`: what goes in, what comes out."""

from stages.common.contract.artifacts import write_json
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.NAME.params import Params


def _run(context: Context[Params]) -> Headline:
    # Here goes what the stage does: it reads `context.inputs`, and writes its files to `context.out`.
    found = {"inputs": len(context.inputs)}
    write_json(context.out / "NAME.json", found)
    return found


STAGE = Stage(
    name="NAME",
    description="Says how many inputs it has.",
    params=Params,
    inputs={INPUTS},
    outputs={"NAME": ("NAME.json", "number of inputs")},
    run=_run,
)
'''

TEST = '''"""Stage `NAME`, on artifacts that are empty."""

import json
from pathlib import Path

from stages.common.contract.command_line import main
from stages.NAME.stage import STAGE
from tests.common.prepared import finish


def test_it_says_how_many_inputs_it_has(tmp_path: Path) -> None:
    arguments = []
    for name in STAGE.inputs:
        (tmp_path / name).mkdir()
        arguments += [f"--{name}", str(finish(tmp_path / name, name))]
    out = tmp_path / "out"
    assert main(STAGE, [*arguments, "--out", str(out)]) == 0
    assert json.loads((out / "NAME.json").read_text()) == {"inputs": len(STAGE.inputs)}
'''

DOCS = '''    "NAME": """
Says how many inputs it has.

**In**: INPUTS. **Out**: `NAME.json`.
""",
'''


class UnfitError(Exception):
    """Nothing is made; the message has the reason."""


def read(path: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


class Maker:
    """Makes the files; nothing is written before all files are complete.

    Attributes:
        inputs: the stages whose artifacts it takes.
        files: path in the repository -> its text.
    """

    def __init__(self, name: str, like: str, inputs: Sequence[str] = ()) -> None:
        """Check name, LIKE and INPUTS."""
        stages = re.findall(r"^  (\w+):\n    desc:", read("dvc.yaml"), re.MULTILINE)
        fit = [stage for stage in stages if self._task(stage)]
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UnfitError(f"{name!r} is not a name: small letters, digits and _, for example explain")
        if any((ROOT / folder / name).exists() for folder in ("stages", "images")):
            raise UnfitError(f"there is a stage or an image {name} already: choose another name")
        if like not in fit:
            raise UnfitError(f"LIKE={like}: a new stage can be like {' or '.join(fit)}")
        named = [stage for stage in stages if self._line(stage)]
        for stage in inputs:
            if stage not in named:
                raise UnfitError(f"INPUTS={stage}: a new stage can take the artifacts of {', '.join(named)}")
        self.name, self.like = name, like
        self.inputs = list(inputs) or re.findall(r"--(\w+) artifacts/\1\b", self._entry(like))
        self.behind = max([like, *inputs], key=stages.index)
        self.given = " | ".join(f"{stage}.artifact" for stage in inputs)
        self.files: dict[str, str] = {}

    @staticmethod
    def _task(stage: str) -> re.Match[str] | None:
        """The line of the DAG that makes the task of a stage, if the task has only inputs of other stages."""
        return re.search(
            rf'^( +){stage} = stage\("{stage}", inputs=(\w+)((, \*\*GPU)?\))\n', read(f"{DAG}.py"), re.MULTILINE
        )

    @staticmethod
    def _line(stage: str) -> str:
        """The line of the DAG that makes the task of a stage; "" if the DAG has no such task."""
        found = re.search(rf'^ +{stage} = stage\("{stage}", .*\n', read(f"{DAG}.py"), re.MULTILINE)
        return found[0] if found else ""

    @staticmethod
    def _entry(stage: str) -> str:
        """The entry of a stage in dvc.yaml."""
        return next(re.finditer(rf"^  {stage}:\n(    .*\n)+\n", read("dvc.yaml"), re.MULTILINE))[0]

    def make(self) -> None:
        """Make all files."""
        self._insert("dvc.yaml", re.escape(self._entry(self.behind)), lambda _: self._wiring())
        entries = "".join(f'"{name}": Input("artifact of stage {name}"),' for name in self.inputs)
        folder = f"stages/{self.name}"
        self._new(f"{folder}/__init__.py", '"""Stage `NAME`: says how many inputs it has."""\n')
        self.files[f"{folder}/__main__.py"] = self._renamed(read(f"stages/{self.like}/__main__.py"))
        self._new(f"{folder}/params.py", PARAMS)
        self._new(f"{folder}/stage.py", STAGE.replace("INPUTS", entries))
        self._new(f"tests/stages/test_{self.name}.py", TEST)
        for file in ("Dockerfile", "requirements.in", "requirements.txt"):
            self.files[f"images/{self.name}/{file}"] = self._renamed(read(f"images/{self.like}/{file}"))
        self._insert("params.yaml", rf"^{self.like}:\n(  .*\n)+\n", lambda _: self._named(
            "NAME:\n  seed: 42                     # of whatever is random\n\n"))  # fmt: skip
        self._insert("params.yaml", rf"^    {self.like}: {{.*\n", self._renamed)
        docs = DOCS.replace("INPUTS", ", ".join(f"the artifact of {name}" for name in self.inputs))
        self._insert("dags/task_docs.py", rf'^    "{self.like}": """\n(.*\n)*?""",\n', lambda _: self._named(docs))
        task = self._task(self.like)
        assert task  # noqa: S101 (checked before)
        line = f'{task[1]}stage("{self.name}", inputs={self.given or task[2]}{task[3]}\n'
        self._insert(f"{DAG}.py", re.escape(self._line(self.behind)), lambda _: line)
        self._draw()

    def write(self) -> None:
        """Write them, formatted."""
        for name, text in self.files.items():
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(text, encoding="utf-8")
        python = [ROOT / name for name in self.files if name.endswith(".py")]
        ruff = Path(sys.executable).with_name("ruff")
        subprocess.run([ruff, "format", "--quiet", *python], cwd=ROOT, check=True)
        subprocess.run([ruff, "check", "--quiet", "--fix", *python], cwd=ROOT, check=True)

    def _named(self, text: str) -> str:
        words = "".join(word.capitalize() for word in self.name.split("_"))
        return text.replace("CLASS", words).replace("NAME", self.name)

    def _renamed(self, text: str) -> str:
        """A text of the other stage, changed for this stage."""
        text = re.sub(r", which .*:\n", ", which says how many inputs it has:\n", text)
        text = re.sub(r"^.*expectations.*\n", "", text, flags=re.MULTILINE)
        return re.sub(rf"\b{self.like}\b", self.name, text)

    def _wiring(self) -> str:
        piece = self._renamed(re.sub("desc: .*", "desc: Say how many inputs it has", self._entry(self.like)))
        given = " ".join(f"--{name} artifacts/{name}" for name in self.inputs)
        piece = re.sub(r"^      (--(\w+) artifacts/\2 ?)+$", f"      {given}", piece, flags=re.MULTILINE)
        needed = "".join(f"      - artifacts/{name}\n" for name in sorted(self.inputs))
        piece = re.sub(r"(?<=    params:\n)(      - .*\n)+", f"      - {self.name}\n", piece)
        return re.sub(r"(?<=    deps:\n)(      - artifacts/.*\n)+", needed, piece)

    def _new(self, path: str, text: str) -> None:
        self.files[path] = self._named(text)

    def _insert(self, path: str, pattern: str, piece: Callable[[str], str]) -> str:
        """Insert the result of `piece` after the match of a pattern; return it."""
        text = self.files.get(path) or read(path)
        found = re.search(pattern, text, re.MULTILINE)
        if not found:
            raise UnfitError(f"{path} names {self.like} in another form than others: add {self.name} by hand")
        new = piece(found[0])
        self.files[path] = text[: found.end()] + new + text[found.end() :]
        return new

    def _draw(self) -> None:
        """Draw the task at the bottom of the DAG's picture, in a new row."""
        text = read(f"{DAG}.svg")
        height = int(re.findall(r'viewBox="0 0 \d+ (\d+)"', text)[0])
        text = text.replace(f' {height}"', f' {height + 48}"').replace(f'height="{height}"', f'height="{height + 48}"')
        box = (
            f'  <rect class="task" x="14" y="{height}" width="138" height="38" rx="5"/>\n'
            f'  <text class="name" x="83" y="{height + 16}">NAME</text>'
            f'<text class="makes" x="83" y="{height + 30}">NAME.json</text>\n'
        )
        self._new(f"{DAG}.svg", text.replace("</svg>", f"{box}</svg>"))


def main() -> int:
    """Make the files; 64 if the name or the other stage is invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--like", default="evaluate", metavar="STAGE", help="default: %(default)s")
    parser.add_argument("--inputs", nargs="*", default=(), metavar="STAGE", help="default: what the other one takes")
    arguments = parser.parse_args()
    try:
        maker = Maker(arguments.name, arguments.like, arguments.inputs)
        maker.make()
    except UnfitError as error:
        print(f"stage: {error}", file=sys.stderr)
        return 64
    maker.write()
    print("".join(f"{name}\n" for name in maker.files), end="")
    print(f"next: _run in stages/{arguments.name}/stage.py; then what git grep --untracked -i how.many.inputs finds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
