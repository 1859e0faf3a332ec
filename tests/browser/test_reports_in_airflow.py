"""Reports inside Airflow, as people see them in a browser and as nobody else does."""

import http.client
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

import pytest

from tests.airflow_user import log_in, sign_in
from tests.browser.conftest import DAG_ID, Airflow
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.docker
MADE = f"validate/{'a' * 64}"
KEPT = "prepare_train/failed-0123456789ab"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def get(airflow: Airflow, path: str, token: str = "", method: str = "GET") -> Answer:
    """The answer to a path that is sent as it stands, which a browser would tidy up."""
    connection = http.client.HTTPConnection(urlsplit(airflow.url).netloc, timeout=PATIENCE_S)
    connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


@pytest.fixture(scope="module")
def token(airflow: Airflow) -> str:
    return log_in(airflow.url, "airflow", airflow.passwords["airflow"])


def routes(airflow: Airflow) -> list[str]:
    """One address of each kind, there or not."""
    files = (f"{MADE}/report.html", f"{MADE}/rejects.csv", f"{KEPT}/report.html", f"{MADE}/absent.html")
    run = f"run/{DAG_ID}/{quote(airflow.run_id)}"
    others = ("", "?stage=validate", run, "absent", "docs", "openapi.json", "%2e%2e/etc/passwd", "pipeline.svg")
    return [f"/reports/{path}" for path in (*files, *others)]


def test_who_is_not_logged_in_gets_nothing(airflow: Airflow) -> None:
    for path in routes(airflow):
        for method in ("GET", "HEAD"):
            answer = get(airflow, path, method=method)
            assert (answer.status, len(answer.body)) in {(401, 17), (401, 0)}, path
        assert get(airflow, path, "eyJhbGciOiJub25lIn0.e30.").status in {401, 403}
        assert get(airflow, path, method="POST").status in {401, 405}


def test_who_may_not_read_the_dag_is_refused(airflow: Airflow) -> None:
    token = log_in(airflow.url, "nobody", airflow.passwords["nobody"])
    for path in routes(airflow):
        answer = get(airflow, path, token)
        assert (answer.status, answer.body) == (403, b"Forbidden"), path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("manifest.json", "application/json"),
        ("rejects.csv", "text/plain; charset=utf-8"),
    ],
)
def test_files_of_a_report_are_typed_and_fenced(airflow: Airflow, token: str, name: str, kind: str) -> None:
    for method in ("GET", "HEAD"):
        answer = get(airflow, f"/reports/{MADE}/{name}", token, method)
        assert answer.status == 200
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self'; frame-ancestors 'self'"
        assert answer.headers["content-security-policy"].startswith(policy)


def test_the_page_of_all_versions_and_reports_may_run_one_script_each_and_others_none(
    airflow: Airflow, token: str
) -> None:
    pages = {"registry/page/versions.html": 1, f"{MADE}/report.html": 1, f"{MADE}/rejects.csv": 0, "": 0}
    for path, scripts in pages.items():
        policy = get(airflow, f"/reports/{path}", token).headers["content-security-policy"]
        assert policy.count("script-src 'sha256-") == policy.count("script-src") == scripts
    assert b'href="registry/page/versions.html">Compare versions' in get(airflow, "/reports/", token).body


@pytest.mark.parametrize(
    "path",
    [
        f"{MADE}/model.onnx",
        f"{MADE}/page.js",
        f"{MADE}/noextension",
        f"{MADE}/.hidden.html",
        f"{MADE}/.cache/page.html",
        f"{MADE}/link.html",
        f"{MADE}/linked/airflow.cfg",
        f"{MADE}/linked/logs/x.txt",
        f"{MADE}/fifo.html",
        f"{MADE}/data_docs",
        f"{MADE}/",
        MADE,
        "secret.html",
        "validate/secret.html",
        "registry/git/secret.html",
        "registry/page/page.js",
        "registry/page/../git/secret.html",
        f"validate/.partial-{'b' * 64}/report.html",
        f"{MADE}/../secret.html",
        f"{MADE}/../../secret.html",
        f"{MADE}/%2e%2e/secret.html",
        f"{MADE}/..%2fsecret.html",
        f"{MADE}/%2e%2e%2f%2e%2e%2fsecret.html",
        f"{MADE}/%252e%252e/secret.html",
        f"{MADE}/..%5csecret.html",
        f"../artifacts/{MADE}/report.html",
        "%2e%2e/opt/airflow/airflow.cfg",
        f"{MADE}//artifacts/secret.html",
        f"{MADE}/%2fartifacts%2fsecret.html",
        "/artifacts/secret.html",
        "%2fetc%2fpasswd",
        f"{MADE}/report.html%00",
        f"{MADE}/%00.html",
        f"{MADE}/report.html%00.png",
        f"{MADE}/{'x' * 300}.html",
        f"{MADE}/report.html/x.html",
        f"{MADE}/report.html/",
        f"{MADE.upper()}/report.html",
        f"validate/{'a' * 63}/report.html",
    ],
)
def test_nothing_else_is_served(airflow: Airflow, token: str, path: str) -> None:
    answer = get(airflow, f"/reports/{path}", token)
    assert answer.status == 404
    assert answer.body.startswith(b"There is no such")


def test_broken_artifacts_do_not_keep_the_index_from_the_rest(airflow: Airflow, token: str) -> None:
    answer = get(airflow, "/reports/?stage=train", token)
    assert answer.status == 200
    assert answer.body.count(b"its manifest cannot be read") == 2
    assert b"word ?" in answer.body


def test_the_service_is_asked_only_for_who_may_read_the_dag(airflow: Airflow, token: str) -> None:
    nobody = log_in(airflow.url, "nobody", airflow.passwords["nobody"])
    for path in ("/try/", "/try/predict", "/try/static/try.js"):
        assert get(airflow, path).status == 401
        assert get(airflow, path, nobody).status == 403
        answer = get(airflow, path, token)  # there is no service beside this Airflow
        assert (answer.status, b"does not answer" in answer.body) == (502, True)


@pytest.fixture(scope="module")
def logged_in(airflow: Airflow, browser: "Browser") -> "Iterator[BrowserContext]":
    """A browser in which somebody has logged in through the form, where a bookmark has led him."""
    context = browser.new_context(base_url=airflow.url, viewport={"width": 1200, "height": 760})
    page = context.new_page()
    page.goto(f"/reports/{MADE}/report.html")
    assert "/auth/login" in page.url
    sign_in(page, "airflow", airflow.passwords["airflow"])
    page.get_by_role("heading", name="Report of validate").wait_for()
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(logged_in: "BrowserContext") -> "Iterator[Page]":
    """A page of its own for each test; no test may open a second one."""
    page = logged_in.new_page()
    yield page
    assert logged_in.pages == [page]
    page.close()


def test_a_report_opens_from_the_navigation_and_its_links_work(page: "Page") -> None:
    page.goto("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Reports").click()
    frame = page.frame_locator("iframe[title=Reports]")
    frame.get_by_text("1 to 100 of 125, the newest first").wait_for()
    assert frame.locator("tr.failed").count() == 1
    frame.get_by_role("link", name="older").click()
    frame.get_by_text("101 to 125 of 125").wait_for()
    frame.get_by_text("version <b>0</b>").wait_for()
    frame.get_by_role("link", name="validate (1)").click()
    row = frame.get_by_role("row").filter(has_text="rows 2,000, accepted 1,980, success True")
    row.get_by_role("link", name="report").click()
    frame.get_by_role("heading", name="Report of validate").wait_for()
    frame.get_by_role("link", name="Data Docs").click()
    frame.get_by_role("heading", name="Data Docs of the annotations").wait_for()
    frame.get_by_role("link", name="rejects").click()
    frame.get_by_text("=cmd(),<script>").wait_for()


def test_a_run_shows_the_reports_of_its_stages(page: "Page", airflow: Airflow) -> None:
    page.goto(f"/dags/{DAG_ID}/runs/{quote(airflow.run_id)}")
    page.get_by_role("link", name="Reports").last.click()
    frame = page.frame_locator("iframe[title=Reports]")
    frame.get_by_text(airflow.run_id).wait_for()
    rows = {row.split("\t")[1]: row.split("\t")[2:] for row in frame.get_by_role("row").all_inner_texts()[1:]}
    assert rows["validate"] == ["success: rows 2,000, accepted 1,980, success True", "report"]
    assert rows["prepare_train"] == ["failed", "report"]
    assert rows["train"] == ["upstream_failed", "none"]
    assert rows["check_raw_data"] == ["success", "none"]
    assert rows["prepare_lots [s1]"] == rows["prepare_lots [s2]"] == ["success: images 1,000", "none"]
    frame.get_by_role("row").filter(has_text="prepare_train").get_by_role("link").click()
    frame.get_by_role("heading", name="What is wrong with the images").wait_for()


@pytest.mark.parametrize(
    ("task", "title"), [("validate", "Report of validate"), ("prepare_train", "What is wrong with the images")]
)
def test_a_task_links_to_its_report(page: "Page", airflow: Airflow, task: str, title: str) -> None:
    page.goto(f"/dags/{DAG_ID}/runs/{quote(airflow.run_id)}/tasks/{task}")
    page.get_by_role("link", name="Details").click()
    page.get_by_role("link", name="Report", exact=True).click()
    page.frame_locator("iframe[title=Reports]").get_by_role("heading", name=title).wait_for()


def test_the_documentation_of_the_dag_shows_its_picture(page: "Page") -> None:
    page.goto(f"/dags/{DAG_ID}")
    page.get_by_role("button", name="Dag Docs").click()
    picture = page.get_by_role("img", name="The pipeline: inputs and outputs of each task")
    picture.wait_for()
    page.wait_for_function("picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    page.get_by_text("When a task fails").wait_for()
