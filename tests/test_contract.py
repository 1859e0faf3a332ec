"""The contract, over all stages: help, refusals, and the whole chain on a tiny data set in a store of its own."""

import html
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from data.make_samples import make_samples
from stages.archive.commands import COMMANDS, run
from stages.common.contract.artifacts import MANIFEST, artifact_key, read_manifest
from stages.common.contract.command_line import main
from stages.common.contract.params import Section, load_params
from stages.common.contract.stage import Stage
from stages.common.reports.report import text_of
from tests.pipeline import STAGES

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
TINY = (
    "hyperopt.max_evals=2", "hyperopt.epochs=1", "train.epochs=2", "label_doubt.folds=2", "label_doubt.epochs=1",
    # or each stage starts processes that import as much as itself
    *(f"{stage}.workers=1" for stage in ("validate", "prepare_train", "hyperopt", "label_doubt", "predict")),
    "train.processes=1", "archive.force=true",
    "data.train_split=0.6", "data.val_split=0.2", "data.test_split=0.2",
)  # fmt: skip


def load(stage: str) -> Stage[Any]:
    return importlib.import_module(f"stages.{stage}.stage").STAGE  # type: ignore[no-any-return]


def call(stage: str, *arguments: str) -> int:
    """Run a stage in this process, where its libraries are imported once for all tests; its exit code."""
    return main(load(stage), arguments)


def call_noted(notes: Path, store: Path, stage: str, *arguments: str) -> int:
    """Run it as users do, in a process of its own, which leaves in `notes` what the sitecustomize.py there notes."""
    spy = {"PYTHONPATH": str(notes), "NOTED": str(notes / stage), "BELOW": str(store)}
    process = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *arguments],
        cwd=ROOT, env=os.environ | spy, text=True, capture_output=True, check=False,
    )  # fmt: skip
    print(process.stderr)
    if process.returncode == 0:
        result = Path(arguments[arguments.index("--result") + 1])
        assert json.loads(process.stdout.splitlines()[-1]) == json.loads(result.read_text())
    return process.returncode


NOTE = """
import os, sys
noted = os.open(os.environ["NOTED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments, below=f"{os.environ['BELOW']}/"):
    if event == "open" and not isinstance(arguments[0], int) and os.fsdecode(arguments[0]).startswith(below):
        frame = sys._getframe(1)
        while frame and frame.f_code.co_name != "file_digest":  # which looks whether the artifact is whole
            frame = frame.f_back
        if not frame:
            os.write(noted, os.fsencode(arguments[0]) + b"\\n")
sys.addaudithook(note)
"""
"""A module that Python imports when it starts: it notes which files of a folder are opened."""

NOTE_IMPORTS = """
import atexit, os, sys
@atexit.register
def note():
    with open(os.environ["NOTED"], "a") as noted:
        noted.write("\\n".join(sys.modules) + "\\n")
"""
"""Another one: it notes what the process has imported when it ends."""


def raw_inputs(data: Path) -> dict[str, str]:
    """Input -> path, of a data folder of samples."""
    (data / "corrections").mkdir(exist_ok=True)
    own = {
        "corrections": str(data / "corrections"),
        "card": str(data),
        "raw": str(data / "raw"),
        "annotations": str(data / "annotations.csv"),
    }
    return own | {"attributes": str(ROOT / "data" / "attributes.yaml")}


def run_all(
    data: Path, store: Path, *overrides: str, last: str = "", notes: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Run every stage, or those up to one, in order into `store`; each stage reads only the sections that it knows.

    With `notes` each runs in a process of its own, and a file for each stage there takes what is noted.
    """
    results: dict[str, dict[str, Any]] = {}
    raw = raw_inputs(data)
    raw |= {name: str(store / name) for name in ("registry", "logs")} | {"runs": str(store / "run")}
    for name in STAGES[: STAGES.index(last) + 1 if last else None]:
        stage = load(name)
        told = store / f"{name}.json"
        arguments = ["--store", str(store), "--result", str(told)]
        for needed in stage.inputs:
            arguments += [f"--{needed}", results[needed]["path"] if needed in results else raw[needed]]
        for item in (*TINY, *overrides):
            if item.split(".")[0] in stage.params.model_fields:
                arguments += ["--set", item]
        code = call_noted(notes, store, name, *arguments) if notes else call(name, *arguments)
        assert code == 0, name
        results[name] = json.loads(told.read_text())
    return results


def the_line(caplog: pytest.LogCaptureFixture) -> str:
    """All that a stage has said, which is one line."""
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    return record.getMessage()


def cached(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [stage for stage, result in results.items() if result["cached"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_samples(folder, count=96)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "sitecustomize.py").write_text(NOTE)
    return folder


@pytest.fixture(scope="module")
def results(data: Path, store: Path, notes: Path) -> dict[str, dict[str, Any]]:
    return run_all(data, store, notes=notes)


@pytest.mark.parametrize("name", STAGES)
def test_help_explains_inputs_outputs_and_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage = load(name)
    with pytest.raises(SystemExit, match="0"):
        call(name, "--help")
    text = capsys.readouterr().out
    assert stage.name == name
    for word in [*(f"--{needed}" for needed in stage.inputs), *(path for path, _ in stage.outputs.values())]:
        assert word in text
    for code in (0, 64, 65, 69, 70, 75, 143):
        assert re.search(rf"^  {code} ", text, re.MULTILINE)


def test_help_of_archive_lists_its_commands() -> None:
    text = subprocess.check_output([sys.executable, "-m", "stages.archive", "--help"], cwd=ROOT, text=True)
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.MULTILINE)


@pytest.mark.parametrize("name", STAGES)
def test_an_unknown_parameter_is_refused_before_any_work(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = load(name)
    section = name  # of another stage's, some keys alone may be read
    inputs = [item for needed in stage.inputs for item in (f"--{needed}", str(tmp_path))]
    assert call(name, *inputs, "--out", str(tmp_path / "o"), "--set", f"{section}.tpyo=1") == 64
    assert f"{section}.tpyo" in the_line(caplog)
    assert not (tmp_path / "o").exists()


NOT_IN_KEY = {
    "validate": {"validate.workers"},
    "prepare_train": {"prepare_train.workers"},
    "hyperopt": {"hyperopt.workers"},
    "evaluate": {"evaluate.batch_size"},
    "label_doubt": {"label_doubt.workers"},
    "archive": {"archive.approval", "archive.title", "registry.remote"},
    "champion": {"registry.remote"},
    "predict": {"predict.batch_size", "predict.workers"},
}  # written out, for with a wrong one a stage would take a stale result for its own


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_parameter_is_part_of_the_key_but_those_that_change_no_result(name: str) -> None:
    params = load_params(load(name).params, ROOT / "params.yaml")

    def key_with(params: Section) -> str:
        told = {"params": params.model_dump(mode="json"), "not_in_key": params.not_in_key()}
        return artifact_key({"stage": name, "version": "", "inputs": {}, **told})

    key, same = key_with(params), set()
    for section in type(params).model_fields:
        old = getattr(params, section)
        for parameter in type(old).model_fields:
            value = getattr(old, parameter)
            other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "another"
            new = params.model_copy(update={section: old.model_copy(update={parameter: other})})
            if key_with(new) == key:
                same.add(f"{section}.{parameter}")
    assert same == NOT_IN_KEY.get(name, set())


@pytest.mark.parametrize("name", STAGES)
def test_content_that_later_stages_read_is_declared(name: str) -> None:
    stage = load(name)
    assert (stage.content != ()) == any(name in load(other).inputs for other in STAGES)


@pytest.mark.parametrize("name", [name for name in STAGES if name != "champion"])  # which takes none
def test_an_input_that_is_no_finished_artifact_is_refused(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [item for needed in load(name).inputs for item in (f"--{needed}", str(tmp_path))]
    assert call(name, *inputs, "--out", str(tmp_path / "o")) in {64, 65}
    assert "Traceback" not in caplog.text
    assert capsys.readouterr().out == ""


def test_every_stage_writes_what_its_help_promises(results: dict[str, dict[str, Any]]) -> None:
    for name, result in results.items():
        read_manifest(Path(result["path"]))
        for output in result["outputs"].values():
            assert Path(output).exists(), f"{name}: {output}"


def test_a_stage_reads_nothing_of_another_but_what_decides_its_key(
    results: dict[str, dict[str, Any]], notes: Path
) -> None:
    noticed, outside = set[tuple[str, str]](), dict[tuple[str, str], set[Path]]()
    for name in (stage for stage in STAGES if stage != "archive"):  # which keeps pages as they are
        opened = {Path(line) for line in (notes / name).read_text().splitlines()}
        for other in (stage for stage, spec in load(name).inputs.items() if spec.artifact):
            artifact, content = Path(results[other]["path"]), load(other).content
            files = {file.relative_to(artifact) for file in opened if file.is_relative_to(artifact)}
            noticed |= {(name, other)} if len(files) > 1 else set()
            read = {
                file for file in files - {Path(MANIFEST)} if not any(file.is_relative_to(folder) for folder in content)
            }
            outside |= {(name, other): read} if read and content else {}
    assert outside == {}
    assert {("prepare_train", "validate"), ("train", "hyperopt"), ("monitor", "predict")} <= noticed


def test_a_second_run_computes_nothing_and_imports_little(
    results: dict[str, dict[str, Any]], data: Path, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTE_IMPORTS)
    again = run_all(data, store, notes=tmp_path)
    assert cached(again) == STAGES
    assert {name: result["path"] for name, result in again.items()} == {name: r["path"] for name, r in results.items()}
    imported = {name: set((tmp_path / name).read_text().split()) for name in STAGES}
    assert all("stages.common.contract.run" in names for names in imported.values())
    heavy = {"torch", "great_expectations", "matplotlib", "onnxruntime", "onnx", "pandas", "scipy", "PIL", "kornia_rs"}
    assert {name: heavy & names for name, names in imported.items() if heavy & names} == {
        "validate": {"pandas", "PIL", "kornia_rs"}  # its forms of annotations are tables
    }


def test_speed_and_titles_compute_nothing(results: dict[str, dict[str, Any]], data: Path, store: Path) -> None:
    other = ("validate.workers=2", "hyperopt.workers=2", "predict.batch_size=7", "archive.title=Faces")
    assert cached(run_all(data, store, *other)) == STAGES
    manifest = read_manifest(Path(results["predict"]["path"]))
    assert manifest["params"]["predict"]["batch_size"] == 128  # of the run that computed it


def test_an_image_that_nobody_annotated_trains_and_releases_nothing(
    results: dict[str, dict[str, Any]], data: Path, store: Path, tmp_path: Path
) -> None:
    more = tmp_path / "data"
    shutil.copytree(data, more)
    (more / "raw" / "s9").mkdir()
    shutil.copy(next((more / "raw" / "s1").iterdir()), more / "raw" / "s9" / "s9_00000.png")
    after = run_all(more, store)
    assert cached(after) == [name for name in STAGES if name not in {"validate", "predict", "monitor"}]
    assert after["validate"]["content"] == results["validate"]["content"]
    assert after["validate"]["key"] != results["validate"]["key"]
    assert after["archive"]["headline"] == results["archive"]["headline"]
    lots = results["predict"]["headline"]["lots"]
    assert after["predict"]["headline"] | {"lots": lots + 1, "lots_reused": lots} == after["predict"]["headline"]


def test_a_changed_parameter_of_train_recomputes_train_onward(
    results: dict[str, dict[str, Any]], data: Path, store: Path
) -> None:
    assert cached(run_all(data, store, "train.epochs=1")) == ["validate", "prepare_train", "hyperopt"]


def test_a_changed_lot_recomputes_only_its_shard(
    results: dict[str, dict[str, Any]], data: Path, store: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    images = sorted((changed / "raw" / "s2").iterdir())
    images[0].write_bytes(images[1].read_bytes())
    after = run_all(changed, store)
    assert cached(after) == []
    assert after["prepare_train"]["headline"]["lots_reused"] == after["prepare_train"]["headline"]["lots"] - 1


def test_a_flipped_bit_in_the_model_is_found_before_it_is_loaded(
    results: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "train"
    shutil.copytree(results["train"]["path"], model)
    content = bytearray((model / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (model / "model.onnx").write_bytes(content)
    inputs = ["--prepare_train", results["prepare_train"]["path"], "--train", str(model)]
    assert call("evaluate", *inputs, "--out", str(tmp_path / "o")) == 65
    assert "damaged (digest expected" in the_line(caplog)


def test_the_lineage_leads_from_the_version_to_the_raw_files(results: dict[str, dict[str, Any]]) -> None:
    chain = json.loads((Path(results["archive"]["path"]) / "lineage.json").read_text())
    assert set(chain) == {name for name, spec in load("archive").inputs.items() if spec.artifact}
    for entry in chain.values():
        for name, source in entry["inputs"].items():
            assert (
                source.get("key") == chain[name]["key"]
                if name in chain
                else re.fullmatch("[0-9a-f]{64}", source["digest"])
            )


def test_the_parameters_of_a_version_give_its_metrics_again_to_the_last_digit(
    results: dict[str, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    version = Path(results["archive"]["path"])
    paths = raw_inputs(data)
    for name in ("validate", "prepare_train", "hyperopt", "train", "evaluate"):
        inputs = [item for needed in load(name).inputs for item in (f"--{needed}", paths[needed])]
        told = tmp_path / "result.json"
        params = ["--params", str(version / "params.yaml"), "--store", str(tmp_path), "--result", str(told)]
        assert call(name, *inputs, *params) == 0, name
        result = json.loads(told.read_text())
        assert not result["cached"]
        paths[name] = result["path"]
    for metrics in (Path(paths["evaluate"]) / "metrics").iterdir():
        assert metrics.read_text() == (version / "metrics" / metrics.name).read_text()


def test_every_report_asks_the_network_for_nothing_and_its_links_lead_somewhere(
    results: dict[str, dict[str, Any]],
) -> None:
    archive = Path(results["archive"]["path"])
    for name in json.loads((archive / "lineage.json").read_text()):
        assert (archive / name / "report.html").is_file()
    for suite in ("raw_annotations", "images"):
        assert (archive / "validate" / "data_docs" / suite / "index.html").is_file()
    for page in [path for result in results.values() for path in Path(result["path"]).rglob("*.html")]:
        text = page.read_text()
        assert "default-src 'none'" in text
        assert not re.findall(r"""\bsrc=["'](?!data:)|<link|\burl\((?!["']?data:)""", text)
        assert "<script" not in text or ("default-src 'none'" in text and "script-src 'sha256-" in text)
        for link in re.findall(r"""\bhref=["']([^"'#]+)""", text):
            assert (page.parent / unquote(html.unescape(link))).is_file(), f"{page}: {link}"
    assert text_of(results["archive"]["headline"]["mean_accuracy"]) in (archive / "report.html").read_text()


def test_the_cards_of_a_version_tell_its_lots_its_device_and_what_people_wrote(
    results: dict[str, dict[str, Any]], data: Path, store: Path
) -> None:
    own = data / "card.md"
    own.write_text("# Licences\nAs you like.\n")
    changed = run_all(data, store)
    own.unlink()
    assert [stage for stage, result in results.items() if changed[stage]["key"] != result["key"]] == ["archive"]
    model, about_data = (Path(changed["archive"]["outputs"][f"{name}_card"]).read_text() for name in ("model", "data"))
    assert "As you like." in model
    assert "As you like." in about_data
    assert re.search(r"^\| train \| [\d.]+ \| [\w .-]+ \| \w+ \| \d+ \|", model, re.MULTILINE)
    for lot in ("s1", "s2"):
        assert f"| lot {lot} |" in model
        assert f"| {lot} |" in about_data


def test_the_archive_refuses_artifacts_of_different_runs(
    results: dict[str, dict[str, Any]], data: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = run_all(data, store, "train.epochs=1", last="train")
    paths = {name: results[name]["path"] for name, spec in load("archive").inputs.items() if spec.artifact}
    paths |= {"train": other["train"]["path"], "registry": str(tmp_path / "r"), "runs": str(tmp_path / "run")}
    inputs = [item for name, path in paths.items() for item in (f"--{name}", path)]
    assert call("archive", *inputs, "--out", str(tmp_path / "o")) == 65
    assert "evaluate was made from train" in caplog.text


def test_an_image_that_nobody_annotated_undoes_no_rollback(
    results: dict[str, dict[str, Any]], data: Path, store: Path, tmp_path: Path
) -> None:
    first = results["archive"]["headline"]["version"]
    run_all(data, store)  # it is the champion again, whatever other tests have released
    other = run_all(data, store, "train.epochs=1")["archive"]["headline"]
    assert other["champion"] == other["version"] != first
    run(["rollback", "--registry", str(store / "registry")])
    more = tmp_path / "data"
    shutil.copytree(data, more)
    (more / "raw" / "s8").mkdir()
    shutil.copy(next((more / "raw" / "s1").iterdir()), more / "raw" / "s8" / "s8_00000.png")
    after = run_all(more, store, "train.epochs=1", "archive.force=false")
    assert (after["archive"]["headline"]["version"], after["archive"]["headline"]["champion"]) == (
        other["version"],
        first,
    )
    assert after["champion"]["headline"]["version"] == first
    told = after["predict"]["headline"]
    assert told["lots_reused"] == told["lots"] - 1
