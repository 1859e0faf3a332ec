"""`python -m stages.validate FILE`: what people run before they commit annotations."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.common.contract.command_line import main
from stages.common.schema.attributes import names
from stages.prepare_train.stage import STAGE as PREPARE_TRAIN
from stages.validate import by_hand
from stages.validate.attributes_file import DEFAULT
from tests.common.samples import DEFAULT_ATTRIBUTES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]
Look = Callable[..., Done]
ATTRIBUTES = f"  attributes: {', '.join(names(DEFAULT_ATTRIBUTES))} ({DEFAULT})"
ROWS = [f"s1_{n}.png,{n % 2},{n % 2},{n % 2},{n % 5},{1 + n % 2}" for n in range(19)] + ["s1_19.png,0,0,0,,0"]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(["filename,beard,mustache,glasses_binary,hair_color_label,hair_length", *ROWS]))
    return file


@pytest.fixture
def look(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Look:
    """Run the command in a folder, in this process, where its libraries are imported once."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        words = [*map(str, arguments)]
        assert by_hand.is_by_hand(words)
        caplog.clear()
        code, printed = by_hand.look(words), capsys.readouterr()
        return Done(words, code, printed.out, printed.err + "".join(f"{line}\n" for line in caplog.messages))

    return call


def test_good_annotations_pass_in_four_lines(annotations: Path, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "stages.validate", annotations],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    report = tmp_path / "reports/validate-labels.csv/report.html"
    assert process.stdout.splitlines() == [
        f"PASS  {annotations}: 20 of 20 rows can be used",
        ATTRIBUTES,
        "  the images were not checked: give --raw FOLDER",
        f"report: {report}",
    ]
    assert (process.returncode, process.stderr) == (0, "")
    assert "20 of 20 rows accepted" in report.read_text()


def test_a_file_and_a_folder_of_one_name_have_reports_of_their_own(
    look: Look, annotations: Path, tmp_path: Path
) -> None:
    (folder := annotations.with_suffix("")).mkdir()
    (folder / "all.csv").write_text(annotations.read_text())
    reports = {look(path).stdout.splitlines()[-1] for path in (annotations, folder)}
    assert reports == {f"report: {tmp_path}/reports/validate-{name}/report.html" for name in ("labels", "labels.csv")}


def test_bad_annotations_fail_with_reasons_examples_and_a_report(look: Look, annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    annotations.write_text(annotations.read_text().replace("s1_3.png,1", "s1_3.png,2").replace(",0,0,0,,0", ",,,,1,0"))
    process = look(annotations, "--raw", tmp_path / "raw", "--out", tmp_path / "look")
    assert process.returncode == 65
    report = tmp_path / "failed-look/report.html"
    assert process.stdout.splitlines() == [
        f"FAIL  {annotations}: 0 of 20 rows can be used",
        ATTRIBUTES,
        "  rejected: 20",
        "         19  image missing, first labels.csv row 2: 's1_0.png'; put the image below the raw folder, or "
        "correct its name",
        "          1  beard not in 0,1, first labels.csv row 5: 's1_3.png' (found '2'); write 0 no, 1 yes, or nothing "
        "if it is not known",
        f"report: {report}",
    ]
    assert report.exists()
    assert process.stderr.count("\n") == 1


def test_pointers_in_place_of_images_are_told_with_the_remedy(look: Look, annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(20):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{number:064x}\nsize 12345\n"
        (tmp_path / "raw" / f"s1_{number}.png").write_text(pointer)
    (tmp_path / "raw" / "s1_19.png").write_bytes(b"RIFF\x24\0\0\0WEBPVP8 ")
    process = look(annotations, "--raw", tmp_path / "raw", "--out", tmp_path / "look")
    assert process.returncode == 65
    pointers = "image cannot be used: Git LFS pointer in place of the image (run `git lfs pull`)"
    webp = "image cannot be used: WebP image (convert it to PNG or JPEG)"
    first = ", first labels.csv row 2: 's1_0.png'; "
    assert f"19 {pointers}{first}1 {webp}, first labels.csv row 21: 's1_19.png'; see " in process.stderr
    assert process.stdout.splitlines()[2:5] == [
        "  rejected: 20",
        f"         19  {pointers}, first labels.csv row 2: 's1_0.png'",
        f"          1  {webp}, first labels.csv row 21: 's1_19.png'",
    ]
    assert pointers in (tmp_path / "failed-look/report.html").read_text()


def test_damaged_images_are_counted_as_one_kind_whatever_the_detail(
    look: Look, annotations: Path, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(20):
        (tmp_path / "raw" / f"s1_{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(number + 20))
    (tmp_path / "raw" / "s1_3.png").write_bytes(b"\xff\xd8\xff\xe0")
    process = look(annotations, "--raw", tmp_path / "raw", "--out", tmp_path / "look")
    assert (
        "20 rows rejected (100.0% > 5.0% allowed): 20 image cannot be used: damaged, first labels.csv row 2"
        in process.stderr
    )


def test_a_table_that_cannot_be_used_at_all_fails_without_remarks_on_what_follows(
    look: Look, annotations: Path, tmp_path: Path
) -> None:
    process = look(annotations, "--set", "validate.lots=[s2]")
    assert process.returncode == 65
    assert "found 0, expected at least 1; 20 are of lots that validate.lots does not select" in process.stderr
    assert "noticed" not in process.stdout


def test_what_cannot_be_read_is_one_line(look: Look, annotations: Path, tmp_path: Path) -> None:
    annotations.write_text('filename,beard\n"a.png,1\n')
    process = look(annotations)
    assert (process.returncode, process.stdout) == (65, "")
    assert "unclosed quote" in process.stderr
    assert process.stderr.count("\n") == 1
    assert look("--wrong").returncode == look(annotations, "--wrong").returncode == 64


def test_a_report_of_an_earlier_run_is_not_taken_for_this_one(look: Look, annotations: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "a.csv").write_text(annotations.read_text().replace("png,1", "png,2"))
    assert "FAIL" in look(folder).stdout
    (folder / "b.csv").write_text("something,else\n1,2\n")
    process = look(folder)
    assert (process.returncode, process.stdout) == (65, "")
    assert "b.csv is not an annotation file" in process.stderr


def test_past_validations_of_the_same_file_are_a_trend(look: Look, annotations: Path, tmp_path: Path) -> None:
    good = annotations.read_text()
    look(annotations, "--out", tmp_path / "look")
    annotations.write_text(good.replace("s1_3.png,1", "s1_3.png,2").replace("s1_4.png,0", "s1_4.png,2"))
    assert look(annotations, "--out", tmp_path / "look").returncode == 65
    annotations.write_text(good.replace("s1_3.png,1", "s1_3.png,2"))
    look(annotations, "--out", tmp_path / "look")
    page = (tmp_path / "look/report.html").read_text()
    assert page.count("</span> passed</span>") == 2
    assert page.count("</span> failed</span>") == 1


def test_annotations_that_were_checked_without_images_are_not_prepared(
    look: Look, annotations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    look(annotations, "--out", tmp_path / "validate")
    (tmp_path / "raw").mkdir()
    inputs = ["--raw", tmp_path / "raw", "--validate", tmp_path / "validate", "--out", tmp_path / "out"]
    assert main(PREPARE_TRAIN, list(map(str, inputs))) == 65
    assert "run stage validate with --raw" in caplog.text


def test_a_wrong_label_is_told_with_the_file_that_it_stands_in(look: Look, annotations: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    wrong = annotations.read_text().replace("s1_3.png,1", "s1_3.png,2")
    (folder / "labels_2026-01-01.csv").write_text(wrong)
    (folder / "mended_2026-01-02.csv").write_text("filename,mustache\ns1_3.png,0\ns1_4.png,1\n")
    look("--out", tmp_path / "look", folder)
    assert (tmp_path / "look/rejected.csv").read_text().splitlines()[1:] == [
        "mended_2026-01-02.csv,2,s1_3.png,\"beard not in 0,1 (found '2' in labels_2026-01-01.csv row 5)\""
    ]


def test_the_thresholds_of_the_folder_of_the_images_count(look: Look, annotations: Path, tmp_path: Path) -> None:
    raw = tmp_path / "faces" / "raw"
    raw.mkdir(parents=True)
    (raw.parent / "params.yaml").write_text("validate: {min_rows: 1000}\n")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "params.yaml").write_text("validate: {min_row: 1}\n")
    assert "expected at least 1000" in look(annotations, "--raw", raw).stderr
    wrong = look(annotations, "--raw", raw, "--data", tmp_path / "others")
    assert (wrong.returncode, "validate.min_row: params.yaml has no such key" in wrong.stderr) == (65, True)
