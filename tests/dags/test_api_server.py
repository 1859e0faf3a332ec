"""The API server with our plugins, as the stack starts it: passwords, what answers tell browsers, corrected labels."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest

from stages.common.contract.command_line import main
from stages.common.reports.report import Labels, Picture, Pictures, Report, write_report
from stages.common.schema.attributes import Attribute
from stages.validate.stage import STAGE
from tests.airflow_user import sign_in
from tests.read_only import read_only
from tests.stack.stack import DAG_ID
from tests.waiting import PATIENCE_S, free_port, wait_until
from tests.widths import WIDTHS, assert_fits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PASSWORD = uuid.uuid4().hex
REPORT = f"label_doubt/{'a' * 64}/report.html"
COPY = f"archive/{'b' * 64}/{REPORT.replace('a' * 64 + '/', '')}"  # in the artifact of a version, which its page links
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
HEADLINE = {"doubts": 12, "images": 11, "labels": 1421, "mean_accuracy": 0.9123, "longest": "one_word_" * 20}
BEN = "=ben;"  # a user of such a name, which no file may hold as it is
HAT = Attribute("hat", ("none", "cap", "bowler"), "hat_label", "Hat")
SMILE = Attribute("smile", ("no", "yes"), "smile", "Smile")


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Server:
    """A running API server; users come from addresses of this machine, of which 127.0.0.0/8 has many."""

    port: int
    home: Path
    environment: dict[str, str]

    def token(self, user: str) -> str:
        """Of a user, who has logged in."""
        return str(json.loads(self.by_api("/auth/token", user, PASSWORD, "127.0.0.1").body)["access_token"])

    def corrections(self, token: str, body: Any = None, **headers: str) -> Answer:
        """The answer to who asks for corrections, or saves some."""
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        if body is None:
            return self.ask("GET", "/reports/corrections", b"", **headers)
        headers = {"Content-Type": "application/json"} | headers
        return self.ask("POST", "/reports/corrections", json.dumps(body).encode(), **headers)

    @property
    def saved(self) -> list[Path]:
        """The files of corrections, all that lies there."""
        return sorted((self.home / "data" / "corrections").iterdir())

    def ask(self, method: str, path: str, body: bytes = b"", address: str = "127.0.0.1", **headers: str) -> Answer:
        """Its answer to somebody at an address."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE_S, (address, 0))) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def by_api(self, path: str, user: str, password: str, address: str) -> Answer:
        """The answer to a log-in with JSON."""
        told = {"username": user, "password": password, "provider": "db"}
        return self.ask("POST", path, json.dumps(told).encode(), address, **{"Content-Type": "application/json"})

    def by_form(self, user: str, password: str, address: str) -> Answer:
        """The answer to a log-in with the form."""
        page = self.ask("GET", "/auth/login/", address=address)
        token = re.findall(r'name="csrf_token"[^>]* value="([^"]+)"', page.body.decode())[0]
        fields = urlencode({"username": user, "password": password, "csrf_token": token}).encode()
        headers = {"Cookie": str(page.headers["Set-Cookie"]).partition(";")[0]}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", "/auth/login/", fields, address, **headers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On SQLite, with two users."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "data" / "corrections").mkdir(parents=True)
    pictures = [
        Picture(PIXEL, [f"s1_{at}.png"], labels=Labels(f"s1_{at}.png", [0, at % 2], [0], {0: 2})) for at in range(9)
    ]
    page = Report("Label doubt", sections=[Pictures("Hat", pictures)], attributes=(HAT, SMILE))
    for path in (REPORT, COPY):
        (home / "store" / path).parent.mkdir(parents=True)
        write_report(home / "store" / path, page)
        (home / "store" / path).with_name("manifest.json").write_text(json.dumps({"headline": HEADLINE}))
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "FACE_ATTRIBUTES_REPORTS": str(home / "store"),
        "FACE_ATTRIBUTES_CORRECTIONS": str(home / "data" / "corrections"),
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "images/airflow/plugins"),
        "AIRFLOW__API_AUTH__JWT_SECRET": uuid.uuid4().hex * 2,
        "AIRFLOW__FAB__AUTH_RATE_LIMITED": "False",  # as in docker-compose.yml
        "PYTHONPATH": str(ROOT / "dags"),
    }
    scripts = ROOT / "images/airflow/bin"
    first = {"AIRFLOW_ADMIN_USER": "owner", "AIRFLOW_ADMIN_PASSWORD": PASSWORD}
    first |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    initialise = [sys.executable, "-W", "ignore", str(scripts / "initialise")]
    subprocess.run(initialise, env=environment | first, check=True, capture_output=True)
    airflow = [sys.executable, "-W", "ignore", "-m", "airflow"]
    subprocess.run([*airflow, "dags", "reserialize"], env=environment, check=True, capture_output=True)
    port = free_port()
    command = [*airflow, "api-server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        found = Server(port, home, environment)

        def answers() -> bool:
            try:
                return found.ask("GET", "/api/v2/version").status == 200
            except OSError:
                return False

        wait_until(answers, "start of the API server")
        bearer = {"Authorization": f"Bearer {found.token('owner')}", "Content-Type": "application/json"}
        people = {"other": "Admin", "viewer": "Viewer", "anna": "User", BEN: "User", "nobody": "Public"}
        for name, role in people.items():
            user: dict[str, Any] = {"username": name, "password": PASSWORD, "first_name": name, "last_name": name}
            user |= {"email": f"{len(name)}{role}@x.invalid", "roles": [{"name": role}]}
            assert found.ask("POST", "/auth/fab/v1/users", json.dumps(user).encode(), **bearer).status < 300
        yield found
        process.terminate()


def test_guessing_is_slowed_on_every_way_and_shuts_out_nobody_elsewhere(server: Server) -> None:
    thief, owner = "127.0.0.66", "127.0.0.7"
    for path in ("/auth/token", "/auth/token/cli", "/auth/api/v1/security/login"):
        assert server.by_api(path, "owner", "wrong", thief).status == 401
    assert server.by_form("owner", "wrong", thief).status == 302
    assert server.by_api("/auth/token", "Owner", "wrong", thief).status == 401  # the fifth
    guess_until_the_wait_is_long(server, thief)
    ways = [server.by_api(path, "owner", PASSWORD, thief) for path in ("/auth/token", "/auth/token/cli")]
    ways += [server.by_api("/auth/api/v1/security/login", "owner", PASSWORD, thief)]
    ways += [server.by_form("owner", PASSWORD, thief)]
    assert [way.status for way in ways] == [429] * 4
    assert all(int(way.headers["Retry-After"]) >= 1 for way in ways)
    assert b"Too many wrong passwords: try again in" in ways[0].body

    assert server.by_api("/auth/token", "owner", PASSWORD, owner).status == 201
    cookies = server.by_form("owner", PASSWORD, owner).headers.get_all("Set-Cookie") or []
    assert any(cookie.startswith("_token=") for cookie in cookies)
    assert server.by_api("/auth/token", "other", PASSWORD, thief).status == 201  # who shares the address


def guess_until_the_wait_is_long(server: Server, thief: str) -> None:
    """Guess on, which doubles the wait each time, until it is longer than what the test then does takes here."""
    wait = 0.0
    while True:
        time.sleep(wait)
        started = time.monotonic()
        wait = float(server.by_form("owner", "wrong", thief).headers.get("Retry-After", 0))
        if wait > 20 * (time.monotonic() - started):
            return


def test_a_thousand_names_from_one_address_are_slowed_too(server: Server) -> None:
    answers = [server.by_api("/auth/token", f"user{number}", "wrong", "127.0.0.99").status for number in range(60)]
    assert answers[:50] == [401] * 50
    assert 429 in answers[50:]


def test_who_knows_the_password_is_not_counted(server: Server) -> None:
    for _ in range(3):
        for _ in range(4):
            assert server.by_api("/auth/token", "owner", "wrong", "127.0.0.5").status == 401
        assert server.by_api("/auth/token", "owner", PASSWORD, "127.0.0.5").status == 201


def test_what_is_no_login_is_refused_at_once(server: Server) -> None:
    for body in (b"", b"[]", b"{", b'{"username": []}', b"[" * 60_000):
        assert server.ask("POST", "/auth/token", body, "127.0.0.4").status in {400, 401, 422}
    assert server.ask("POST", "/auth/token", b" " * 10**6, "127.0.0.4").status == 413


@pytest.mark.parametrize(
    "path", ["/", "/dags", "/auth/login/", "/api/v2/version", "/api/v2/dags", "/docs", "/absent", "/reports/"]
)
def test_every_answer_tells_browsers_what_is_forbidden(server: Server, path: str) -> None:
    headers = server.ask("GET", path).headers
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    assert policy.startswith("default-src 'none'" if path == "/reports/" else "default-src 'self'")
    assert len(headers.get_all("Content-Security-Policy") or []) == 1
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


# ---- labels are corrected on a report ----


def told(*corrections: tuple[str, str, str]) -> dict[str, Any]:
    """Request of a page: filename, column and class of each correction."""
    return {
        "corrections": [
            dict(zip(("filename", "column", "class"), correction, strict=True)) for correction in corrections
        ]
    }


CAP = told(("s1_0.png", "hat_label", "cap"))


def test_only_who_may_trigger_may_correct(server: Server) -> None:
    assert server.corrections("").status == server.corrections("", CAP).status == 401
    nobody, viewer, anna = (server.token(name) for name in ("nobody", "viewer", "anna"))
    assert server.corrections(nobody).status == server.corrections(nobody, CAP).status == 403
    assert json.loads(server.corrections(viewer).body) == {"may": False}
    assert server.corrections(viewer, CAP).status == 403
    assert json.loads(server.corrections(anna).body)["may"] is True
    assert server.saved == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_site_cannot_correct_in_somebody_s_name(server: Server, headers: dict[str, str]) -> None:
    token = server.token("anna")
    body = json.dumps(CAP).encode()
    cookie = {"Cookie": f"_token={token}", "Content-Type": "application/json"}
    assert server.ask("POST", "/reports/corrections", body, **cookie | headers).status in {403, 415}
    assert server.saved == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"corrections": []},
        CAP | {"by": "somebody else"},
        told(("s1_0.png", "hat_label", "=cmd()")),
        told(("s1_0.png", "+hat", "cap")),
        told(("s1_0.png", "Corrected-By", "somebody else")),
        told(("s1_0.png", "filename", "s1_1.png")),
        told(("s1_0.png\ns1_1.png", "hat_label", "cap")),
        told(("s1_0;=cmd().png", "hat_label", "cap")),
        told(("x" * 2000, "hat_label", "cap")),
        told(*[("s1_0.png", "hat_label", "cap")] * 6000),
        [],
    ],
)
def test_nonsense_is_refused_in_a_line_and_writes_nothing(server: Server, body: Any) -> None:
    answer = server.corrections(server.token("anna"), body)
    assert answer.status == 422
    assert len(answer.body.splitlines()) == 1
    assert server.saved == []


@pytest.fixture
def emptied(server: Server) -> Iterator[Server]:
    """The server, whose corrections go at the end."""
    yield server
    for path in server.saved:
        path.unlink()


def validate(server: Server) -> dict[str, tuple[str, str]]:
    """File name -> classes, by stage validate from the annotations and the corrections beside them."""
    data = server.home / "data"
    (data / "attributes.yaml").write_text(
        "- {name: hat, classes: [none, cap, bowler], column: hat_label, title: Hat}\n"
        "- {name: smile, classes: ['no', 'yes']}\n"
    )
    rows = "".join(f"s1_{at}.png,0,{at % 2}\n" for at in range(9))
    (data / "annotations.csv").write_text(f"filename,hat_label,smile\n{rows}")
    out = server.home / f"out-{uuid.uuid4().hex}"
    assert main(STAGE, ["--annotations", str(data / "annotations.csv"), "--out", str(out)]) == 0
    lines = [line.split(",") for line in (out / "annotations.csv").read_text().splitlines()]
    hat, smile = (lines[0].index(name) for name in ("hat", "smile"))
    return {line[0]: (line[hat], line[smile]) for line in lines[1:]}


def test_two_at_once_lose_nothing_and_every_correction_says_who_and_when(emptied: Server) -> None:
    people = {name: emptied.token(name) for name in ("anna", BEN)}
    labels = {"anna": ("hat_label", "cap"), BEN: ("smile", "yes")}

    def save(job: tuple[str, int]) -> int:
        name, at = job
        return emptied.corrections(people[name], told((f"s1_{at}.png", *labels[name]))).status

    with ThreadPoolExecutor(6) as pool:
        jobs = [(name, at) for at in range(9) for name in people]
        assert set(pool.map(save, jobs)) == {201}
    assert len(emptied.saved) == 18
    for path in emptied.saved:
        assert re.fullmatch(r"corrections_20\d\d-\d\d-\d\dT\d{6}\.\d{3}Z_(anna|ben)_[a-z]{6}\.csv", path.name)
        assert path.stat().st_mode & 0o777 == 0o644
        header, row = (line.split(",") for line in path.read_text().splitlines())
        assert header[-2:] == ["corrected_by", "corrected_at"]
        assert row[-2] == ("anna" if "_anna_" in path.name else "ben")
        assert row[-1].replace(":", "").removesuffix("Z") in path.name
    assert validate(emptied) == {f"s1_{at}.png": ("1", "1") for at in range(9)}
    answer = json.loads(emptied.corrections(people["anna"], told(("s1_0.png", "smile", "no"))).body)
    mine = {
        (correction["by"], correction["class"])
        for correction in answer["saved"]
        if correction["filename"] == "s1_0.png"
    }
    assert mine == {("anna", "cap"), ("ben", "yes"), ("anna", "no")}
    for label in 3 * ["bowler", "none"]:  # within a second or two
        answer = json.loads(emptied.corrections(people["anna"], told(("s1_0.png", "hat_label", label))).body)
        assert answer["saved"][-1]["class"] == label
    assert validate(emptied)["s1_0.png"] == ("0", "0")


def test_no_link_is_followed_and_a_folder_that_is_gone_is_said(server: Server) -> None:
    token, folder = server.token("anna"), server.home / "data" / "corrections"
    folder.rmdir()
    try:
        answer = server.corrections(token, CAP)
        assert answer.status == 503
        assert answer.body == b"Not saved: there is no folder of corrections (No such file or directory): run `make up`"
        (server.home / "elsewhere").mkdir()
        folder.symlink_to(server.home / "elsewhere")
        assert server.corrections(token, CAP).status == 503
        assert list((server.home / "elsewhere").iterdir()) == []
        folder.unlink()
    finally:
        folder.mkdir()


def signed_in(browser: "Browser", server: Server, user: str, width: int = 1200) -> "BrowserContext":
    """A browser in which a user has logged in, led there by the address of the report."""
    context = browser.new_context(base_url=f"http://127.0.0.1:{server.port}", viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(f"/reports/{REPORT}")
    sign_in(page, user, PASSWORD)
    page.get_by_text("Forbidden" if user == "nobody" else "Label doubt").first.wait_for()
    page.close()
    return context


def opened(context: "BrowserContext", complaints: list[str], report: str = REPORT) -> "Page":
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    page.goto(f"/reports/{report}")
    return page


@pytest.mark.parametrize("width", WIDTHS)
def test_reports_and_their_lists_fit(server: Server, browser: "Browser", asked: str, width: int) -> None:
    context = signed_in(browser, server, "anna", width)
    page = context.new_page()
    for path in ("/reports/", "/reports/?stage=label_doubt", f"/reports/dag-run/approve_version/{asked}"):
        page.goto(path)
        assert_fits(page)
    page.goto("/reports/")
    page.get_by_role("link", name="report").first.press("Enter")
    page.get_by_role("button", name="Save").wait_for()
    assert_fits(page)
    context.close()


@pytest.mark.parametrize(
    ("width", "report", "button", "dag"), [(320, COPY, "Validate", "validate_data"), (1440, REPORT, "Train", DAG_ID)]
)
def test_with_the_keyboard_alone_labels_are_corrected_saved_and_a_run_is_started(
    emptied: Server, browser: "Browser", width: int, report: str, button: str, dag: str
) -> None:
    complaints: list[str] = []
    context = signed_in(browser, emptied, "anna", width)
    page = opened(context, complaints, report)
    page.get_by_role("button", name="Save").wait_for()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "ask":
            break
    page.keyboard.press("3")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("u")
    status = page.get_by_role("status")
    assert status.inner_text() == "3 corrections, not saved yet."
    assert_fits(page)
    page.get_by_role("button", name=button).press("Enter")
    assert status.inner_text() == "Save the 3 corrections first, or undo them."
    page.get_by_role("button", name="Save").press("Enter")
    status.filter(has_text="Saved 3 corrections as corrections_").wait_for()
    assert len(emptied.saved) == 1
    assert validate(emptied) == {f"s1_{at}.png": (["2", "1", "", *"0" * 6][at], str(at % 2)) for at in range(9)}
    page.get_by_role("button", name=button).press("Enter")
    link = status.get_by_role("link")
    link.wait_for()
    run = link.inner_text()
    bearer = {"Authorization": f"Bearer {emptied.token('anna')}"}
    found = json.loads(emptied.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}", b"", **bearer).body)
    assert (found["state"], found["triggering_user_name"], found["conf"]) == ("queued", "anna", {})
    link.press("Enter")
    page.get_by_role("heading", name="Reports of this run").wait_for()
    assert run in page.locator("body").inner_text()
    page.goto(f"/reports/{report}")  # what is saved is seen by who comes later
    first = page.get_by_role("group", name="Hat of s1_0.png")
    first.wait_for()
    assert re.search(r"annotated none; bowler by anna, 20.* UTC$", first.inner_text().replace("\n", " "))
    context.close()
    assert complaints == []


def test_where_nothing_can_be_written_corrections_are_downloaded(emptied: Server, browser: "Browser") -> None:
    assert emptied.corrections(emptied.token("anna"), CAP).status == 201
    context = signed_in(browser, emptied, "anna")
    with read_only(emptied.home / "data" / "corrections"):
        page = opened(context, [])
        page.get_by_text("This data folder is not writable: download your corrections instead.").wait_for()
        group = page.get_by_role("group", name="Hat of s1_0.png")
        assert "annotated none; cap by anna, 20" in group.inner_text()
        group.press("u")
        page.get_by_label("Your name").fill("Anna")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download").click()
        assert page.get_by_role("button", name=re.compile("Save|Train|Validate")).count() == 0
        assert waiting.value.path().read_text().splitlines()[1].startswith("s1_0.png,unknown,Anna,20")
        assert emptied.corrections(emptied.token("anna"), CAP).status == 503
    context.close()


def test_who_overrules_somebody_else_is_told(emptied: Server, browser: "Browser") -> None:
    context = signed_in(browser, emptied, "anna")
    page = opened(context, [])
    group = page.get_by_role("group", name="Hat of s1_4.png")
    group.get_by_role("button", name="2 cap").click()
    assert emptied.corrections(emptied.token(BEN), told(("s1_4.png", "hat_label", "bowler"))).status == 201
    page.get_by_role("button", name="Save").click()
    page.get_by_text("ben had corrected s1_4.png to bowler at 20").wait_for()
    assert len(emptied.saved) == 2
    context.close()


def test_who_may_only_look_is_told_and_finds_nothing_to_press(server: Server, browser: "Browser") -> None:
    context = signed_in(browser, server, "viewer")
    page = opened(context, [])
    page.get_by_text(
        "Your role may only view these labels. To correct them, ask for a role that may trigger DAGs."
    ).wait_for()
    assert page.get_by_role("button").count() == page.get_by_role("group").count() == 0
    bearer = {"Authorization": f"Bearer {server.token('viewer')}", "Content-Type": "application/json"}
    for dag in ("validate_data", DAG_ID):
        assert server.ask("POST", f"/api/v2/dags/{dag}/dagRuns", b'{"logical_date": null}', **bearer).status == 403
    context.close()


# ---- a person answers Airflow's own question ----

ASK = """
import sys
from datetime import UTC, datetime

import approve_version
from airflow.models import TaskInstance
from airflow.models.hitl import HITLDetail
from airflow.utils.session import create_session
from sqlalchemy import select

with create_session() as session:
    of = {"dag_id": "approve_version", "task_id": "approval", "run_id": sys.argv[1]}
    instance = session.scalars(select(TaskInstance).filter_by(**of)).one()
    instance.state, instance.next_method, instance.next_kwargs = "awaiting_input", "execute_complete", {}
    headline = {"version": "v1", "champion": "none", "fit": "no", "why": "it errs too often", "mean_accuracy": 0.35}
    news = {"headline": headline, "report": f"/artifacts/archive/{'a' * 64}/report.html"}
    subject, body = approve_version.question(news, datetime.now(UTC))
    task = approve_version.approve_version().get_task("approval")
    asked = {"options": task.options, "defaults": task.defaults, "params": task.serialized_params}
    session.add(HITLDetail(ti_id=instance.id, subject=subject, body=body, **asked))
"""
"""Writes the rows of a task `approval` that begins to wait, for there is no scheduler here."""
QUESTION = "Release v1 although the gate refused it?"
DENIED = "You do not have permission to perform this action."


def ask_about_release(server: Server) -> str:
    """Id of a new run in which somebody is asked whether v1 is released."""
    bearer = {"Authorization": f"Bearer {server.token('anna')}", "Content-Type": "application/json"}
    answer = server.ask("POST", "/api/v2/dags/approve_version/dagRuns", b'{"logical_date": null}', **bearer)
    run = str(json.loads(answer.body)["dag_run_id"])
    subprocess.run([sys.executable, "-W", "ignore", "-c", ASK, run], env=server.environment, check=True)
    return run


@pytest.fixture(scope="module")
def asked(server: Server) -> str:
    """Id of a run with such a question, which nobody answers."""
    return ask_about_release(server)


@pytest.mark.parametrize("width", WIDTHS)
def test_with_the_keyboard_alone_a_person_releases_what_the_gate_has_refused(
    server: Server, browser: "Browser", width: int
) -> None:
    asked = ask_about_release(server)
    context = signed_in(browser, server, "anna", width)
    page = context.new_page()
    page.goto(question_of(asked))
    page.get_by_text(QUESTION).wait_for()
    focus(page, "[name=element_reason]", whole=width > 320)  # Airflow's page is wider than a phone
    page.keyboard.press("Control+A")
    page.keyboard.type("seen")
    focus(page, "[data-testid=hitl-option-Approve]")
    page.keyboard.press("Enter")
    page.get_by_test_id("hitl-option-Approve").and_(page.locator(":disabled")).wait_for()
    answer = answer_to(server, asked)
    assert (answer["chosen_options"], answer["params_input"]) == (["Approve"], {"reason": "seen"})
    assert answer["responded_by_user"]["name"] == "anna"
    context.close()


def question_of(run: str) -> str:
    return f"/dags/approve_version/runs/{run}/tasks/approval/required_actions"


def answer_to(server: Server, run: str) -> dict[str, Any]:
    path = f"/api/v2/dags/approve_version/dagRuns/{run}/taskInstances/approval/-1/hitlDetails"
    return dict(json.loads(server.ask("GET", path, Authorization=f"Bearer {server.token('anna')}").body))


def test_who_may_only_look_reads_and_is_refused_whatever_decides(
    server: Server, browser: "Browser", asked: str
) -> None:
    context = signed_in(browser, server, "viewer")
    page = context.new_page()
    page.goto("/reports/")
    page.get_by_role("link", name="report").first.click()
    page.get_by_role("heading", name="Label doubt").wait_for()
    page.goto(question_of(asked))
    page.get_by_text(QUESTION).wait_for()
    page.get_by_test_id("hitl-option-Approve").click()  # Airflow shows the button to all
    page.get_by_text(DENIED).wait_for()
    assert not answer_to(server, asked)["response_received"]
    fill_in(page, "release_version", {"version": "v1", "reason": "seen"})
    page.get_by_text(DENIED).wait_for()
    assert runs_of(server, "viewer") == []
    context.close()


def test_a_user_administers_nothing(server: Server, browser: "Browser") -> None:
    for user, menus in {"owner": 1, "anna": 0}.items():
        context = signed_in(browser, server, user)
        page = context.new_page()
        page.goto("/")
        page.get_by_role("button", name="Browse").wait_for()
        for name in ("Admin", "Security"):
            assert page.get_by_role("button", name=name).count() == menus
        context.close()


def test_who_has_no_role_sees_neither_reports_nor_dags(server: Server, browser: "Browser", asked: str) -> None:
    context = signed_in(browser, server, "nobody")
    page = context.new_page()
    for path in ("/reports/", f"/reports/{REPORT}", f"/reports/dag-run/approve_version/{asked}"):
        page.goto(path)
        assert page.locator("body").inner_text() == "Forbidden"
    page.goto("/dags")
    page.get_by_text("No Dags found").wait_for()
    page.goto(question_of(asked))
    page.get_by_text("No Task Instance found").wait_for()
    assert page.get_by_text(QUESTION).count() == page.get_by_test_id("trigger-dag-button").count() == 0
    context.close()


@pytest.mark.parametrize(
    ("width", "dag", "fields"),
    [
        (320, DAG_ID, {"epochs": 2, "annotations": "new.csv"}),
        (320, "release_version", {"action": "rollback", "reason": "seen"}),
        (768, "release_version", {"version": "v1", "reason": "seen"}),
        (1440, "validate_data", {"annotations": "new.csv"}),
    ],
)
def test_with_the_keyboard_alone_a_form_is_filled_in_and_sent(
    server: Server, browser: "Browser", width: int, dag: str, fields: dict[str, Any]
) -> None:
    context = signed_in(browser, server, "anna", width)
    page = context.new_page()
    before = runs_of(server, "anna", dag)
    fill_in(page, dag, fields)
    page.wait_for_url(f"**/dags/{dag}/runs/*")  # where Airflow leads who has sent it
    (run,) = (run for run in runs_of(server, "anna", dag) if run not in before)
    assert run["conf"].items() >= fields.items()
    context.close()


def runs_of(server: Server, user: str, dag: str = "release_version") -> list[dict[str, Any]]:
    """The runs of a DAG that a user has started."""
    answer = server.ask("GET", f"/api/v2/dags/{dag}/dagRuns", Authorization=f"Bearer {server.token('owner')}")
    return [run for run in json.loads(answer.body)["dag_runs"] if run["triggering_user_name"] == user]


def fill_in(page: "Page", dag: str, fields: dict[str, Any]) -> None:
    """Open the form of a DAG, fill it in and send it, with the keyboard."""
    page.goto(f"/dags/{dag}")
    page.get_by_test_id("trigger-dag-button").press("Enter")  # on Airflow's own page, which is wider than a phone
    page.get_by_role("dialog").get_by_text("Run Parameters").wait_for()
    for name, value in fields.items():
        if name == "action":  # a list, which has no name
            focus(page, "[role=dialog] input[role=combobox]", whole=False)  # what it holds is drawn beside it
            for key in ("ArrowDown", "ArrowDown", "Enter"):
                page.keyboard.press(key)
        else:
            focus(page, f"[name=element_{name}]")
            page.keyboard.type(str(value))
    focus(page, "[data-testid=trigger-dag-submit]")
    page.keyboard.press("Enter")


def focus(page: "Page", selector: str, *, whole: bool = True) -> None:
    """Press Tab until something has the focus, and see that a person sees it, or at least a part of it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            box = page.locator(selector).bounding_box()
            size = page.viewport_size
            assert box
            assert size
            left, right = box["x"], box["x"] + box["width"]
            assert (left >= 0 and right <= size["width"]) if whole else (left < size["width"] and right > 0), box
            return
    raise AssertionError(f"Tab does not lead to {selector}")
