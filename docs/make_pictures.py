"""Take the pictures of README.md and docs/ anew, each from the running program.

python -m docs.make_pictures [--only NAME ...] [--quick]

Needs the engine (`make engine`), Debian's Chromium (`make test` installs it) and the images, which it builds. It draws
sample avatars of its own, starts a stack of its own, and removes both. NAME is one of:
    validation  data with faults: docs/validation.png, data_docs.png
    doubts      3 % of the labels wrong, found, corrected and trained on: docs/label_doubt.png, corrections_read.png;
                the figures that docs/data.md quotes go to standard output
    service     a model asked and searched: docs/serve.png, docs/gallery.png
    versions    two versions, slices, a card, a clean-up: docs/versions.png, slices.png, model_card.png, clean_up.png;
                needs no engine
    question    a version that the gate refused waits for a person: docs/airflow_question.png
    life        docs/model_life.md, through Airflow: all others; the outputs that the page quotes go to standard output
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.airflow_user import sign_in
from tests.serve.serving import Server
from tests.stack.conftest import BRIEF, impatient
from tests.stack.stack import DAG_ID, ROOT, Stack
from tests.stack.test_model_life import MONITOR, Life
from tests.waiting import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PICTURES = Path(__file__).parent
LOT = 500  # images
LONG_S = 3600  # for a run with a whole search; six minutes on two idle cores
QUICK = {"epochs": 60, "max_evals": 1}
STAGES_OF_A_VERSION = ("validate", "prepare_train", "hyperopt", "train", "evaluate", "label_doubt")


def shoot(page: "Page", name: str, width: int, height: int, heading: str = "") -> None:
    """Write a picture of this size in pixels, from the top of a page or from a heading on."""
    page.set_viewport_size({"width": width, "height": height})
    if heading:
        page.get_by_role("heading", name=heading, exact=True).first.evaluate(
            "element => window.scrollTo(0, element.getBoundingClientRect().top + window.scrollY - 12)"
        )
    page.screenshot(path=PICTURES / f"{name}.png")
    print(f"docs/{name}.png", file=sys.stderr)


def run(*command: object) -> str:
    """Standard output of a program of this project."""
    return subprocess.run([*map(str, command)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def draw(folder: Path, count: int, lots: int) -> list[dict[str, str]]:
    """Draw samples and return their annotations."""
    run(sys.executable, "-m", "data.make_samples", "--out", folder, "--count", count, "--lots", lots)
    with (folder / "annotations.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write annotations."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def stage(name: str, folder: Path, *arguments: object) -> Path:
    """Run a stage by hand on a folder; return the folder of its artifact, or of the report on faults of the data."""
    run(sys.executable, "-m", f"stages.{name}", *arguments, "--out", folder / name)
    return folder / name


def validation(browser: "Browser", folder: Path) -> None:
    """Samples with faults of all kinds: invalid labels, names without an image, damaged and tiny images, duplicates."""
    rows = draw(folder, 3 * LOT, 3)
    column = [name for name in rows[0] if name != "filename"]
    dice = random.Random(1)  # noqa: S311
    faulty = dice.sample(range(len(rows)), 40)
    for at in faulty[:6]:
        rows[at][column[0]] = "2"
    for at in faulty[6:10]:
        rows[at][column[-1]] = "long?"
    for at in faulty[10:14]:
        next((folder / "raw").rglob(rows[at]["filename"])).unlink()
    for at in faulty[14:19]:
        path = next((folder / "raw").rglob(rows[at]["filename"]))
        path.write_bytes(path.read_bytes()[:2000])
    for at in faulty[19:21]:  # the same picture under another name, with other labels
        path = next((folder / "raw").rglob(rows[at]["filename"]))
        shutil.copy(path, path.with_name(f"double_{path.name}"))
        other = {**rows[at], "filename": f"double_{path.name}"}
        rows.append({**other, column[0]: "1" if other[column[0]] == "0" else "0"})
    mended = [{**rows[at], column[1]: "1"} for at in faulty[21:29]]
    write(folder / "annotations" / "labels_2026-11-01.csv", rows)
    write(folder / "annotations" / "mended_2026-11-20.csv", mended)
    artifact = stage("validate", folder, "--raw", folder / "raw", "--annotations", folder / "annotations")
    page = browser.new_page()
    page.goto((artifact / "report.html").as_uri())
    shoot(page, "validation", 1060, 1500)
    page.goto((artifact / "data_docs" / "images" / "index.html").as_uri())
    shoot(page, "data_docs", 1280, 1000)
    page.close()


def doubts(browser: "Browser", folder: Path) -> None:
    """The demonstration of docs/data.md: 3 % of the labels of a lot are wrong, found, corrected and trained on."""
    rows = draw(folder, 2 * LOT, 2)
    lot, held_out = ([row for row in rows if row["filename"].startswith(name)] for name in ("s1_", "s2_"))
    truth = {row["filename"]: row for row in lot}
    flipped = flip(lot)
    write(folder / "annotations.csv", flipped)
    write(folder / "held_out.csv", held_out)
    unseen = pipeline(folder, "held_out", "held_out.csv", train=False)
    wrong = {
        (row["filename"], name): truth[row["filename"]][name]
        for row in flipped
        for name in row
        if row[name] != truth[row["filename"]][name]
    }
    before = pipeline(folder, "before", "annotations.csv")
    trained = ("--prepare_train", before / "prepare_train", "--train", before / "train")
    report = stage("label_doubt", before, *trained) / "report.html"
    with (report.parent / "doubts.csv").open(encoding="utf-8", newline="") as file:
        listed = len(list(csv.DictReader(file)))
    page = browser.new_page(viewport={"width": 1060, "height": 1480})
    page.goto(report.as_uri())
    corrected = correct(page, wrong, folder / "corrections")
    after = pipeline(folder, "after", "annotations.csv")
    labels = sum(bool(row[name]) for row in lot for name in row if name != "filename")
    print(f"{labels} labels, {len(wrong)} flipped, {listed} doubted, {corrected} corrected")
    for name, version in (("before", before), ("after", after)):
        share = accuracy(version / "train", unseen / "prepare_train")
        print(f"accuracy {name}, of {len(held_out)} other images: {share:.4f}")
    page.goto((after / "validate" / "report.html").as_uri())
    shoot(page, "corrections_read", 1060, 760, "Labels that a newer file replaced")
    page.close()


def flip(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same annotations, with 3 % of the known labels of every column changed to another that occurs there."""
    dice, wrong = random.Random(2), [dict(row) for row in rows]  # noqa: S311
    for name in (column for column in rows[0] if column != "filename"):
        known = [at for at, row in enumerate(rows) if row[name]]
        classes = sorted({rows[at][name] for at in known})
        for at in dice.sample(known, round(0.03 * len(known))):
            wrong[at][name] = dice.choice([label for label in classes if label != rows[at][name]])
    return wrong


def pipeline(folder: Path, name: str, annotations: str, *, train: bool = True) -> Path:
    """The folder with the artifacts of validate and prepare_train and perhaps of a training, for these annotations."""
    home, raw = folder / name, ("--raw", folder / "raw")
    home.mkdir()
    valid = ("--validate", stage("validate", home, *raw, "--annotations", folder / annotations))
    prepared = ("--prepare_train", stage("prepare_train", home, *raw, *valid))
    if train:
        quick = ("--set", "hyperopt.max_evals=1", "--set", "hyperopt.epochs=1")
        searched = ("--hyperopt", stage("hyperopt", home, *prepared, *quick))
        own = ("--set", "train.use_hyperopt=false", "--set", f"train.epochs={QUICK['epochs']}")
        stage("train", home, *prepared, *searched, *own)
    return home


def correct(page: "Page", wrong: Mapping[tuple[str, str], str], folder: Path) -> int:
    """Correct the wrong labels on a page of doubts with the keyboard, download the file, and return their number."""
    corrected = list[str]()
    attributes = json.loads(page.locator("#attributes").text_content() or "[]")
    columns = {attribute["title"]: attribute["column"] for attribute in attributes}
    for group in page.locator(".ask").all():
        title, _, filename = str(group.get_attribute("aria-label")).partition(" of ")
        if right := wrong.get((filename, columns[title])):
            group.focus()
            page.keyboard.press(str(int(right) + 1))
            corrected.append(title)
    page.get_by_label("Your name").fill("Anna")
    page.wait_for_timeout(1000)  # until it has scrolled
    shoot(page, "label_doubt", 1060, 1100, corrected[-1])
    folder.mkdir()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").click()
    waiting.value.save_as(folder / waiting.value.suggested_filename)
    return len(corrected)


def accuracy(model: Path, prepared: Path) -> float:
    """Accuracy of a model on all images of a prepared data set."""
    from stages.common.inference.answers import answers_of
    from stages.common.inference.observation import observe
    from stages.common.inference.onnx_model import load
    from stages.common.schema.dataset import map_images, read_index

    images = map_images(prepared, read_index(prepared))
    loaded = load(model / "model.onnx")
    found = observe(loaded, images.filenames, images.take, 128)
    answers = answers_of(images.attributes, found.probabilities, loaded.calibration, images.labels)
    known = [answer.labels >= 0 for answer in answers]
    right = sum(int(answer.right[of].sum()) for answer, of in zip(answers, known, strict=True))
    return right / sum(int(of.sum()) for of in known)


def service(browser: "Browser", folder: Path) -> None:
    """A champion of a short training, its predictions for two pictures of the test split, and the gallery of all."""
    draw(folder, 2 * LOT, 2)
    raw, quick = ("--raw", folder / "raw"), ("--set", "hyperopt.max_evals=1", "--set", "hyperopt.epochs=1")
    valid = ("--validate", stage("validate", folder, *raw, "--annotations", folder / "annotations.csv"))
    prepared = ("--prepare_train", stage("prepare_train", folder, *raw, *valid))
    searched = ("--hyperopt", stage("hyperopt", folder, *prepared, *quick))
    own = ("--set", "train.use_hyperopt=false", "--set", f"train.epochs={QUICK['epochs']}")
    trained = ("--train", stage("train", folder, *prepared, *searched, *own))
    measured = ("--evaluate", stage("evaluate", folder, *prepared, *trained))
    doubted = ("--label_doubt", stage("label_doubt", folder, *prepared, *trained, "--set", "label_doubt.epochs=1"))
    registry = ("--registry", folder / "registry")
    stage(
        "archive",
        folder,
        *valid,
        *prepared,
        *searched,
        *trained,
        *measured,
        *doubted,
        *registry,
        "--runs",
        folder / "run",
    )
    stage("predict", folder, *raw, "--champion", stage("champion", folder, *registry))
    with (folder / "prepare_train" / "index.csv").open(encoding="utf-8", newline="") as file:
        tested = [row["filename"] for row in csv.DictReader(file) if row["split"] == "test"][:2]
    server = Server(folder, folder)
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.locator("#files").set_input_files([next((folder / "raw").rglob(Path(name).name)) for name in tested])
        page.locator("#results > *").nth(len(tested) - 1).wait_for()
        page.wait_for_timeout(1000)  # until the bars have grown
        shoot(page, "serve", 1100, 900)
        page.goto(f"{server.url}/gallery")
        page.wait_for_timeout(5000)  # until the index is made and the thumbnails are there
        shoot(page, "gallery", 1100, 900)
        page.close()
    finally:
        server.stop()


def versions(browser: "Browser", folder: Path) -> None:
    """Two versions, of a short and of a longer training, in a store of their own, and the pages that show them."""
    draw(folder, LOT, 3)
    shutil.copy(ROOT / "data/card.md", folder)
    store, kept = ("--store", folder / "store"), folder / "store"

    def made(name: str, *arguments: object) -> dict[str, Any]:
        told = run(sys.executable, "-m", f"stages.{name}", *arguments, *store)
        return dict(json.loads(told.splitlines()[-1]))

    def given(*names: str) -> list[object]:
        return [word for name in names for word in (f"--{name}", paths[name])]

    paths: dict[str, object] = {"raw": folder / "raw", "annotations": folder / "annotations.csv", "data": folder}
    paths |= {"registry": kept / "registry", "runs": kept / "run"}
    paths["validate"] = made("validate", *given("raw", "annotations"))["path"]
    paths["prepare_train"] = made("prepare_train", *given("raw", "validate"))["path"]
    paths["hyperopt"] = made("hyperopt", *given("prepare_train"), "--set", "hyperopt.max_evals=0")["path"]
    for epochs in (12, 40):
        own = ("--set", "train.use_hyperopt=false", "--set", f"train.epochs={epochs}")
        paths["train"] = made("train", *given("prepare_train", "hyperopt"), *own)["path"]
        paths["evaluate"] = made("evaluate", *given("prepare_train", "train"))["path"]
        doubts = ("--set", "label_doubt.epochs=1")
        paths["label_doubt"] = made("label_doubt", *given("prepare_train", "train"), *doubts)["path"]
        forced = ("--set", "archive.force=true")
        archived = made("archive", *given("data", "registry", "runs", *STAGES_OF_A_VERSION), *forced)
    page = browser.new_page()
    page.goto((kept / "registry" / "page" / "versions.html").as_uri())
    for name in ("v1", "v2"):
        page.get_by_label(f"compare {name}").check()
    shoot(page, "versions", 1300, 1150)
    page.goto(Path(str(paths["evaluate"]), "report.html").as_uri())
    shoot(page, "slices", 1060, 900, "Slices")
    page.goto(Path(archived["report"]).with_name("model_card.html").as_uri())
    shoot(page, "model_card", 1000, 1200)
    for path in (*kept.glob("*/*"), *kept.glob("*/.lock-*"), *kept.glob("*/*/manifest.json")):
        os.utime(path, (time.time() - 40 * 86400,) * 2)  # as if nobody had used it for 40 days
    told = run(sys.executable, "-m", "stages.archive", "prune", *store, "--keep", "30d", "--dry-run")
    page.goto(Path(re.findall(r"^report: (.*)$", told, re.MULTILINE)[0]).absolute().as_uri())
    shoot(page, "clean_up", 1060, 900)
    page.close()


class Photographer:
    """A browser in which the administrator has logged in."""

    def __init__(self, browser: "Browser", stack: Stack) -> None:
        self.stack = stack
        self.page = browser.new_context(base_url=stack.url, viewport={"width": 1360, "height": 900}).new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.page.goto(f"/dags/{DAG_ID}")
        sign_in(self.page, "airflow", stack.password)
        self.page.get_by_role("button", name="Browse").wait_for()

    def form(self) -> None:
        """The form of a run."""
        self.page.set_viewport_size({"width": 1360, "height": 1700})
        self.page.goto(f"/dags/{DAG_ID}")
        self.page.get_by_role("button", name="Trigger").first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label("epochs").fill("20")
        self.page.wait_for_timeout(1000)  # until it has opened
        self._picture(dialog, "airflow_trigger")

    def graph(self, run_id: str) -> None:
        """The graph of a run."""
        self.page.set_viewport_size({"width": 2000, "height": 900})
        self.page.goto(f"/dags/{DAG_ID}/runs/{run_id}")
        self.page.get_by_role("button", name="Show Graph").click()
        self.page.get_by_role("button", name="Expand all task groups").click()
        self.page.wait_for_timeout(5000)  # until it has moved
        boxes = [node.bounding_box() for node in self.page.locator(".react-flow__node").all()]
        left, top = (min(box[side] for box in boxes if box) - 20 for side in ("x", "y"))
        right = max(box["x"] + box["width"] for box in boxes if box) + 20
        bottom = max(box["y"] + box["height"] for box in boxes if box) + 20
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        self.page.screenshot(path=PICTURES / "airflow_graph.png", clip=clip)  # type: ignore[arg-type]
        print("docs/airflow_graph.png", file=sys.stderr)

    def reports_of_run(self, dag_id: str, run_id: str) -> None:
        """The tab Reports of a run."""
        self.page.set_viewport_size({"width": 1360, "height": 580})
        self.page.goto(f"/dags/{dag_id}/runs/{run_id}")
        self.page.get_by_role("link", name="Reports").last.click()
        self.page.frame_locator("iframe[title=Reports]").get_by_text(run_id).wait_for()
        self.page.wait_for_timeout(2000)
        shoot(self.page, "airflow_monitoring", 1360, 580)

    def all_reports(self) -> None:
        """Browse > Reports."""
        self.page.set_viewport_size({"width": 1240, "height": 760})
        self.page.goto("/")
        self.page.get_by_role("button", name="Browse").click()
        self.page.get_by_role("menuitem", name="Reports").click()
        self.page.frame_locator("iframe[title=Reports]").get_by_text("the newest first").wait_for()
        self.page.wait_for_timeout(2000)
        shoot(self.page, "airflow_reports", 1240, 760)

    def question(self) -> None:
        """The question whether a version that the gate refused is released."""

        def asked() -> str:
            found = self.stack.api(
                "/dags/approve_version/dagRuns/~/taskInstances?task_id=approval&state=awaiting_input"
            )
            return str(found["task_instances"][0]["dag_run_id"]) if found["task_instances"] else ""

        run_id = wait_until(asked, "the question")
        self.page.goto(f"/dags/approve_version/runs/{run_id}/tasks/approval/required_actions")
        self.page.get_by_test_id("hitl-option-Approve").wait_for()
        self.page.get_by_text("Required Action (1)").first.wait_for()
        shoot(self.page, "airflow_question", 1360, 740)

    def report(self, path: str, name: str, width: int, height: int, heading: str = "") -> None:
        """A report, by its path in the store."""
        self.page.goto(f"/reports/{path.removeprefix('/artifacts/')}")
        shoot(self.page, name, width, height, heading)

    def _picture(self, of: "Locator", name: str) -> None:
        of.screenshot(path=PICTURES / f"{name}.png")
        print(f"docs/{name}.png", file=sys.stderr)


def question(browser: "Browser", folder: Path) -> None:
    """One epoch makes a version that the gate refuses."""
    run("scripts/images")
    draw(data := folder / "data", 96, 4)
    (data / "params.yaml").write_text(BRIEF, encoding="utf-8")
    for path in (folder, data):
        path.chmod(0o755)  # stages run as another user
    with Stack(folder, data, files=[impatient(folder)]) as stack:
        stack.wait_for_run(stack.trigger(epochs=1, max_evals=1))
        Photographer(browser, stack).question()


def life(browser: "Browser", folder: Path, conf: Mapping[str, Any]) -> None:
    """The story of docs/model_life.md."""
    run("scripts/images")
    samples, data = folder / "samples", folder / "data"
    draw(samples, 4 * LOT, 4)
    (data / "raw").mkdir(parents=True)
    for path in (folder, data, data / "raw"):
        path.chmod(0o755)  # stages run as another user
    told = Life(None, samples, data)  # type: ignore[arg-type]
    told.arrive("s1", "s2")

    def say(title: str, text: str) -> None:
        print(f"\n== {title}\n{text.strip()}", flush=True)

    with Stack(folder, data) as stack:
        told.stack = stack
        photographer = Photographer(browser, stack)
        photographer.form()

        def ended(run_id: str, dag_id: str = DAG_ID) -> None:
            if (state := stack.wait_for_run(run_id, LONG_S, dag_id)) != "success":
                sys.exit(f"run {run_id} of {dag_id} ended as {state}")

        def report_of(dag_id: str, run_id: str, task: str) -> str:
            return str(told.handed_over(dag_id, run_id, task, "report"))

        first = stack.trigger(**conf)
        ended(first)
        photographer.graph(first)
        photographer.report(report_of(DAG_ID, first, "archive"), "report", 1000, 1020)
        say("versions", told.archive("versions"))
        told.predicted("v1", lots=2)
        told.arrive("s3")
        told.predicted("v1", lots=3)
        quiet = stack.trigger(MONITOR, **conf)
        ended(quiet, MONITOR)
        say("a clean lot", json.dumps(told.checks()[-1]))
        told.arrive("s4", drifted=True)
        told.predicted("v1", lots=4)
        drifted = stack.trigger(MONITOR, **conf)
        ended(drifted, MONITOR)
        say("a drifted lot", json.dumps(told.checks()[-1]))
        found = report_of(MONITOR, drifted, "monitor")
        photographer.reports_of_run(MONITOR, drifted)
        photographer.report(found, "drift_report", 900, 1330)
        photographer.report(found, "drift_then_and_now", 900, 1120, "Reference and new images")
        say("runs", stack.airflow("dags", "list-runs", DAG_ID))
        again = f"retraining__{told.result(MONITOR, drifted, 'monitor')['cause_id']}"
        ended(again)
        photographer.report(report_of(DAG_ID, again, "archive"), "release_gate", 1000, 540, "Release gate")
        photographer.all_reports()
        say("versions", told.archive("versions"))
        say("rollback", told.archive("rollback", "--reason", "to show it"))
        last = stack.trigger(MONITOR, **conf)
        ended(last, MONITOR)
        say("the same cause", json.dumps(told.checks()[-1]))
        say("lineage", re.sub(r"(?m)^(  from .{40}).*", r"\1...", told.archive("lineage", "v2")))


def main() -> None:
    """Run the command line."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a search of one trial, 60 epochs: to try this program")
    arguments = parser.parse_args()
    conf: Mapping[str, Any] = QUICK if arguments.quick else {}
    parts: dict[str, Callable[[Browser, Path], None]] = {
        "validation": validation,
        "doubts": doubts,
        "service": service,
        "versions": versions,
        "question": question,
        "life": lambda browser, folder: life(browser, folder, conf),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in arguments.only or parts:
            with tempfile.TemporaryDirectory() as folder:
                parts[name](browser, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
