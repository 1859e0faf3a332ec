"""`validate` that makes a report, and `prepare_train` that fails on the data, on the contract's command line."""

import json
import os
import sys
from pathlib import Path

STORE, RESULT = Path("/artifacts"), Path("/result/result.json")
HEADLINE = {"rows": 2000, "accepted": 1980, "success": True}


def write_page(path: Path, title: str, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><title>{title}</title><h1>{title}</h1>{body}")


def make(stage: str, key: str, **headline: object) -> Path:
    folder = STORE / stage / key
    write_page(folder / "report.html", f"Report of {stage}", '<a href="data_docs/index.html">Data Docs</a>')
    (folder / "manifest.json").write_text(json.dumps({"headline": headline}))
    return folder


def validate() -> None:
    for number in range(120):
        old = make("archive", f"{number:064x}", version=f"<b>{number}</b>")
        os.utime(old, (10**9 + number, 10**9 + number))
    folder = make("validate", "a" * 64, **HEADLINE)
    back = '<a href="../report.html">back</a> <a href="../rejects.csv">rejects</a>'
    write_page(folder / "data_docs/index.html", "Data Docs of the annotations", back)
    (folder / "rejects.csv").write_text("image,reason\n=cmd(),<script>\n")
    write_page(STORE / "registry/page/versions.html", "Versions", "")
    # What must not keep the index from the rest:
    for number, manifest in enumerate(('"text"', "[" * 100_000, '{"headline": {"word": "\\ud800"}}')):
        (make("train", f"{number:064x}") / "manifest.json").write_text(manifest)
    make("hyperopt", "c" * 64).parent.chmod(0o644)
    # What must never be served:
    for name in ("model.onnx", "page.js", ".hidden.html", ".cache/page.html", "noextension"):
        write_page(folder / name, "secret", "")
    write_page(STORE / "secret.html", "secret", "")
    write_page(STORE / "registry/git/secret.html", "secret", "")
    write_page(STORE / "registry/page/page.js", "secret", "")
    write_page(STORE / "validate/secret.html", "secret", "")
    write_page(STORE / f"validate/.partial-{'b' * 64}/report.html", "secret", "")
    (folder / "link.html").symlink_to("/opt/airflow/airflow.cfg")
    (folder / "linked").symlink_to("/opt/airflow")
    os.mkfifo(folder / "fifo.html")
    result = {"stage": "validate", "path": str(folder), "key": "a" * 64, "outputs": {}, "cached": False}
    result |= {"seconds": 0.1, "headline": HEADLINE, "report": str(folder / "report.html")}
    RESULT.write_text(json.dumps(result))


def prepare_train() -> None:
    report = STORE / "prepare_train/failed-0123456789ab/report.html"
    write_page(report, "What is wrong with the images", "")
    told = {"stage": "prepare_train", "failed": str(report.parent), "report": str(report), "cause": "the cause"}
    RESULT.write_text(json.dumps(told))
    print("12:00:01 ERROR prepare_train: the cause: the remedy", file=sys.stderr)
    sys.exit(65)


if "--check" in sys.argv:
    stage = "prepare_train" if "--validate" in sys.argv else "validate"
    told = {"stage": stage, "checked": True, "headline": {}, "lots": {"s1": 1000, "s2": 980}}
    RESULT.write_text(json.dumps(told))
elif "--lots" in sys.argv:
    lots = json.loads(sys.argv[sys.argv.index("--lots") + 1])
    told = {"stage": "prepare_train", "lots": lots, "seconds": 0.1, "headline": {"images": 1000}}
    RESULT.write_text(json.dumps(told))
elif "--validate" in sys.argv:
    prepare_train()
else:
    validate()
