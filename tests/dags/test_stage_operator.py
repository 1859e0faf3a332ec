"""The operator against the real engine, each task forked and supervised as Airflow's workers do it."""

import contextlib
import os
import re
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.dags.worker import ARTIFACT, IMAGE, Worker
from tests.processes import is_running
from tests.waiting import wait_until

pytestmark = pytest.mark.docker
LINK = "_link_ReportLink"  # the XCom that Airflow keeps a task's link in
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


def containers(engine: Any, run_id: str | None = None) -> list[Any]:
    """Containers of a run, or of all runs of the tests' DAGs."""
    filters = {"label": f"face-attributes.run={run_id}"} if run_id else {"ancestor": IMAGE}
    return list(engine.containers.list(all=True, filters=filters, ignore_removed=True))


def is_working(engine: Any, run_id: str) -> Any:
    """The run's container if it has begun to write."""
    return next((found for found in containers(engine, run_id) if found.status == "running"
                 and found.exec_run(["grep", "-q", found.id[:12], f"/artifacts/beats-{run_id}"]).exit_code == 0),
                None)  # fmt: skip


def release(engine: Any, run_id: str) -> None:
    """Let the work of `beat-until-released` end, once there is any."""
    working = wait_until(lambda: is_working(engine, run_id), "work in the container")
    assert working.exec_run(["touch", f"/artifacts/release-{run_id}"]).exit_code == 0


def assert_one_writer_after_the_other(engine: Any, run_id: str) -> None:
    """Every beat names the container that wrote it: there were two, and the second began when the first was gone."""
    output = engine.containers.run(
        IMAGE,
        entrypoint="cat",
        command=f"/artifacts/beats-{run_id}",
        volumes={"face-attributes-test-artifacts": {"bind": "/artifacts"}},
        remove=True,
    )
    writers = output.decode().split()
    first, second = dict.fromkeys(writers)
    assert writers == [first] * writers.count(first) + [second] * writers.count(second)


def anonymous_volumes(engine: Any) -> set[str]:
    """Volumes that no container uses and that nobody named: the engine gives them 64 hex digits."""
    names = (volume.name for volume in engine.volumes.list(filters={"dangling": True}))
    return {name for name in names if re.fullmatch("[0-9a-f]{64}", name)}


@pytest.fixture(scope="module")
def orphan(airflow: Worker, engine: Any) -> Iterator[str]:
    """A run whose task was killed: its container has ended by itself, and no try follows that would remove it."""
    run_id = airflow.start_run("plain", "work-while-held")
    only_try = airflow.run_try(run_id)
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    (process,) = psutil.Process(airflow.pid).children()
    process.kill()
    wait_until(
        lambda: [container.status for container in containers(engine, run_id)] == ["exited"], "the end of the container"
    )
    only_try.result()
    yield run_id
    for container in containers(engine, run_id):
        container.remove(force=True, v=True)


@pytest.fixture(autouse=True)
def nothing_left(engine: Any) -> Iterator[None]:
    """No test leaves a container or an anonymous volume behind."""
    volumes, there = anonymous_volumes(engine), {container.id for container in containers(engine)}
    yield
    left = [container for container in containers(engine) if container.id not in there]
    for container in left:
        container.remove(force=True, v=True)
    assert not left
    wait_until(
        lambda: anonymous_volumes(engine) <= volumes, "the end of its volumes"
    )  # a container of other tests comes after its volume


def test_the_result_arrives_key_by_key(airflow: Worker) -> None:
    outcome = airflow.run("plain")
    assert outcome.state == "success"
    assert any(re.match(r"Container ran \d+\.\d s, 20", line) for line in outcome.log)
    assert outcome.xcoms["path"] == ARTIFACT
    assert outcome.xcoms["return_value"] == {
        "stage": "fake",
        "path": ARTIFACT,
        "key": ARTIFACT.removeprefix("/artifacts/fake/"),
        "outputs": {"model": f"{ARTIFACT}/model"},
        "report": f"{ARTIFACT}/report.html",
        "cached": False,
        "seconds": 0.1,
        "headline": {},
    }


def test_what_a_user_types_reaches_the_stage_as_typed(airflow: Worker) -> None:
    typed = "{{ 7*7 }}; rm -rf / $(id) `id` 'x\" --force x.sh"
    assert airflow.run("plain", typed).xcoms["headline"] == {"behaviour": typed}


def test_mapped_tasks_get_their_lots_and_are_called_after_them(airflow: Worker) -> None:
    run_id = airflow.start_run("spread", "lots")
    outcomes = [airflow.run_try(run_id, map_index=index).result() for index in range(3)]
    assert [outcome.state for outcome in outcomes] == ["success"] * 3
    lots = [["s1"], ["{{ 7*7 }}", "s2.sh"], ["a", "b", "c", "d"]]
    assert [outcome.xcoms["lots"] for outcome in outcomes] == lots  # as they are: no template, no file
    assert [outcome.label for outcome in outcomes] == ["s1", "{{ 7*7 }}, s2.sh", "a to d (4 lots)"]


def test_a_stage_is_confined(airflow: Worker, engine: Any) -> None:
    found = airflow.run("plain", "confined").xcoms["headline"]
    arguments = found.pop("arguments")
    interfaces = set(found.pop("interfaces").split(","))
    assert found == {
        "uid": 10001,
        "capabilities": 0,
        "no_new_privileges": "1",
        "memory": 256 * 1024**2,
        "write_root": "refused",
        "write_data": "refused",
        "write_tmp": "done",
        "write_artifacts": "done",
        "engine_socket": False,
        "image": engine.images.get(IMAGE).id,
    }
    assert "lo" in interfaces
    assert not any(name.startswith("eth") for name in interfaces)
    assert '"--raw", "/data/raw.sh"' in arguments  # no template file, though it ends in .sh
    assert "--recompute" not in arguments


def test_a_container_has_its_limits_and_what_the_run_asks_for(airflow: Worker, engine: Any) -> None:
    run_id = airflow.start_run("plain", "beat-until-released", recompute=True)
    running = airflow.run_try(run_id)
    container = wait_until(lambda: is_working(engine, run_id), "work in the container")
    release(engine, run_id)
    assert running.result().state == "success"
    assert container.attrs["Args"][-1] == "--recompute"
    limits = {
        "Memory": 256 * 1024**2,
        "MemorySwap": 256 * 1024**2,  # the same: no swap
        "NanoCpus": 10**9,
        "PidsLimit": 512,
        "ShmSize": 1024**3,
        "Init": True,
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}},
    }
    assert limits.items() <= container.attrs["HostConfig"].items()
    threads = {"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1"}
    assert threads <= set(container.attrs["Config"]["Env"])


def test_a_retry_ends_what_a_killed_worker_left_before_it_writes(airflow: Worker, engine: Any) -> None:
    run_id = airflow.start_run("plain", "beat-until-released")
    first_try = airflow.run_try(run_id)
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    (process,) = psutil.Process(airflow.pid).children()
    process.kill()
    first_try.result()
    (left,) = containers(engine, run_id)
    assert left.status == "running"

    second_try = airflow.run_try(run_id)
    wait_until(lambda: left.id not in {made.id for made in containers(engine, run_id)}, "the end of what was left")
    release(engine, run_id)
    assert second_try.result().state == "success"
    assert_one_writer_after_the_other(engine, run_id)


def test_a_container_ends_with_its_task_also_if_no_try_follows(orphan: str, engine: Any) -> None:
    assert [container.status for container in containers(engine, orphan)] == ["exited"]


def test_a_task_ends_with_its_supervisor_and_takes_its_container_along(airflow: Worker, engine: Any) -> None:
    other = Worker(airflow.home)
    run_id = other.start_run("plain", "beat 3600")
    lost = other.run_try(run_id)
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    (task,) = psutil.Process(other.pid).children()
    os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: not containers(engine, run_id), "the end of the container")
    wait_until(lambda: not is_running(task.pid), "the end of the task")
    assert isinstance(lost.exception(), BrokenExecutor)
    other.close()


def test_only_a_running_later_try_stands_in_the_way(airflow: Worker, engine: Any) -> None:
    run_id = airflow.start_run("plain")  # of a run that was deleted and made again, try 3 was the last
    labels = {"dag": "plain", "run": run_id, "task": "stage", "map_index": "-1", "try": "3"}
    labels = {f"face-attributes.{name}": value for name, value in labels.items()}
    later = engine.containers.run(IMAGE, entrypoint=["sleep", "3600"], init=True, labels=labels, detach=True)
    outcome = airflow.run_try(run_id).result()
    assert outcome.state == "failed"
    assert outcome.error.endswith(
        f"try 3 of this task is running already: wait for it, or end it with `docker rm -f {later.id[:12]}`"
    )

    later.stop()
    assert airflow.run_try(run_id).result().state == "success"


def test_a_timeout_is_named_and_ends_the_container(airflow: Worker) -> None:
    outcome = airflow.run("hasty", "ignore-sigterm")
    assert outcome.state == "up_for_retry"
    assert outcome.error.startswith("AirflowTaskTimeout: Timeout")


def test_a_cancelled_run_leaves_no_container(airflow: Worker, engine: Any) -> None:
    run_id, since = airflow.start_run("plain", "ignore-sigterm"), int(time.time())
    running = airflow.run_try(run_id)
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    airflow.cancel(run_id)
    wait_until(lambda: not containers(engine, run_id), "the end of the container")
    assert running.result().state == "failed"
    kills = {"event": "kill", "label": f"face-attributes.run={run_id}"}
    told = list(engine.events(since=since, until=time.time(), filters=kills, decode=True))
    assert [event["Actor"]["Attributes"]["signal"] for event in told] == ["15", "9"]
    assert told[1]["timeNano"] - told[0]["timeNano"] < 5e9  # all the time that Airflow gives a task that it ends


def test_a_worker_that_is_shut_down_ends_its_container_and_is_tried_again(airflow: Worker, engine: Any) -> None:
    run_id = airflow.start_run("plain", "ignore-sigterm")
    running = airflow.run_try(run_id)
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    os.kill(airflow.pid, signal.SIGTERM)
    outcome = running.result()
    assert outcome.state == "up_for_retry"
    assert "fake: stopped by SIGTERM" in outcome.error


@pytest.mark.parametrize("behaviour", ["eat-memory", "child-eats-memory"])
def test_out_of_memory_is_said_and_not_tried_again(airflow: Worker, engine: Any, behaviour: str) -> None:
    run_id, since = airflow.start_run("small", behaviour), int(time.time())
    running = airflow.run_try(run_id)
    # containerd before 2.1 tells of the end and of its cause in either order, the engine listens until the end
    killed = {"event": "oom", "label": f"face-attributes.run={run_id}"}
    wait_until(lambda: list(engine.events(since=since, until=time.time(), filters=killed)), "that memory runs out")
    release(engine, run_id)
    outcome = running.result()
    assert outcome.state == "failed"
    assert "fake: out of memory, limit 64m" in outcome.error


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(64, "wrong usage"), (65, "the data are bad"), (69, "absent"), (70, "a defect"), (1, "a defect")],
)
def test_what_will_not_pass_is_not_tried_again(airflow: Worker, code: int, meaning: str) -> None:
    outcome = airflow.run("plain", f"exit {code}")
    assert outcome.state == "failed"
    first, *rest = outcome.error.splitlines()
    assert meaning in first
    assert first.endswith(f"exit code {code}: fake: the cause: the remedy")
    assert rest[-2].strip() == "12:00:00 INFO read 3 rows"


@pytest.mark.parametrize(
    ("behaviour", "meaning"), [("exit 75", "a passing fault"), ("exit 143", "SIGTERM"), ("die", "SIGKILL")]
)
def test_what_may_pass_is_tried_again(airflow: Worker, behaviour: str, meaning: str) -> None:
    outcome = airflow.run("plain", behaviour)
    assert outcome.state == "up_for_retry"
    assert meaning in outcome.error.splitlines()[0]


def test_noise_neither_hides_the_result_nor_floods_the_log(airflow: Worker) -> None:
    outcome = airflow.run("plain", "noise")
    assert outcome.state == "success"
    assert outcome.xcoms["path"] == ARTIFACT
    assert max(map(len, outcome.log)) < 5000
    assert any(line.endswith("more bytes)") for line in outcome.log)
    assert "100 %" in outcome.log
    assert "99 %" not in "".join(outcome.log)
    assert {"still readable", "UserWarning: leaked semaphore"} <= set(outcome.log)


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("no-result", "wrote no result"),
        ("large-result", "too large"),
        ("malformed-result", "wrong or missing: path, key"),
        ("binary-result", "no JSON object"),
        ("linked-result", "no JSON object"),
        ("folder-result", "no JSON object"),
        ('hand-over {"path":"/artifacts/../../../etc"}', "the path from fake is '/artifacts/../../../etc', not"),
    ],
)
def test_a_result_that_breaks_the_contract_is_refused(airflow: Worker, behaviour: str, problem: str) -> None:
    outcome = airflow.run("plain", behaviour)
    assert outcome.state == "failed"
    assert problem in outcome.error
    assert outcome.xcoms == {LINK: ""}


def test_the_report_is_one_click_away_also_when_the_stage_failed_on_the_data(airflow: Worker) -> None:
    made = airflow.run("plain")
    assert made.state == "success"
    assert made.xcoms["report"] == f"{ARTIFACT}/report.html"
    assert made.xcoms[LINK] == f"/plugin/reports/reports/{ARTIFACT.removeprefix('/artifacts/')}/report.html"

    kept = airflow.run("plain", "fail-with-report /artifacts/fake/failed-0123456789ab/report.html")
    assert kept.state == "failed"
    assert "exit code 65: fake: the cause: the remedy" in kept.error
    assert kept.xcoms == {
        "report": "/artifacts/fake/failed-0123456789ab/report.html",
        LINK: "/plugin/reports/reports/fake/failed-0123456789ab/report.html",
    }

    elsewhere = "fail-with-report /artifacts/../../../etc/report.html"
    for behaviour in ("exit 65", "fail-with-binary-result", elsewhere):
        bare = airflow.run("plain", behaviour)
        assert "exit code 65: fake: the cause: the remedy" in bare.error
        assert bare.xcoms == {LINK: ""}


FIRST = f"/artifacts/first/{'0' * 64}"


@pytest.mark.parametrize(
    ("xcoms", "problem"),
    [
        ({"path": "/artifacts/../../etc"}, "the path from first is '/artifacts/../../etc', not /artifacts/first/"),
        ({"path": FIRST + "/../x"}, "not /artifacts/first/<64 hex digits>"),
        ({"path": FIRST + "\n"}, "not /artifacts/first/<64 hex digits>"),
        ({"path": ARTIFACT}, "not /artifacts/first/<64 hex digits>"),
        ({"path": "x" * 300_000}, "the path from first is 300 kB long, not a path"),
        ({"path": None}, "the path from first is None, not /artifacts/first/"),
        ({"path": {}}, "the path from first is {}, not /artifacts/first/"),
        ({"return_value": {}}, "the result of first is {}, without cached and seconds: clear that task"),
        ({"return_value": "text"}, "the result of first is 'text', without"),
        ({"return_value": None}, "the result of first is None, without"),
    ],
)
def test_what_another_task_hands_over_is_believed_in_one_form_only(
    airflow: Worker, xcoms: dict[str, Any], problem: str
) -> None:
    run_id = airflow.start_run("chained")
    good = {"path": FIRST, "return_value": {"cached": False, "seconds": 1.5}}
    for key, value in (good | xcoms).items():
        airflow.set_xcom(run_id, "first", value, key)
    outcome = airflow.run_try(run_id).result()
    assert outcome.state == "failed"
    assert outcome.error.startswith("AirflowFailException: the ")
    assert problem in outcome.error
    assert "\n" not in outcome.error
    assert len(outcome.error) < 300


def test_a_run_keeps_to_the_images_it_began_with(airflow: Worker, engine: Any) -> None:
    def outcome(images: Any) -> Any:
        run_id = airflow.start_run("chained")
        airflow.set_xcom(run_id, "first", FIRST, "path")
        airflow.set_xcom(run_id, "first", {"cached": False, "seconds": 1.5})
        airflow.set_xcom(run_id, "check_environment", images)
        return airflow.run_try(run_id).result()

    image = engine.images.get(IMAGE).id
    assert outcome({IMAGE: image, "another": "x"}).state == "success"
    assert outcome(None).state == "success"  # of a run that has none
    changed = outcome({IMAGE: "sha256:another"})
    assert changed.state == "failed"
    assert changed.error == (
        "AirflowFailException: image face-attributes/test-stage has changed since this run began: it was "
        f"'sha256:another', now it is {image}: trigger a new run, or clear check_environment alone, then this task, "
        "to continue with the new image"
    )
    renamed = outcome({"elsewhere/test-stage:latest": image})  # somebody has set another registry meanwhile
    assert "it was 'of another name', now it is" in renamed.error
    assert outcome("text").error == "AirflowFailException: the images from check_environment are 'text': clear it"


def test_a_flood_of_lines_leaves_a_log_of_some_megabytes_with_what_matters(airflow: Worker) -> None:
    run_id = airflow.start_run("plain", "flood 100")
    outcome = airflow.run_try(run_id).result()
    assert outcome.state == "success"
    (log,) = airflow.home.glob(f"{run_id}.*.log")
    assert log.stat().st_size < 6 * 10**6
    assert any(line.startswith("000000000 xxx") for line in outcome.log)
    assert "12:00:01 ERROR fake: amid the flood" in outcome.log
    assert "12:00:02 INFO the last line" in outcome.log
    (told,) = (line for line in outcome.log if line.endswith("here; the last lines:"))
    found = re.fullmatch(r"\.\.\. ([\d,]+) lines, ([\d.]+) MB, were left out here; the last lines:", told)
    assert found
    kept = sum("x" * 89 in line for line in outcome.log)
    assert int(found[1].replace(",", "")) + kept == 1_000_000


def test_a_stage_out_of_processes_is_told_the_limit(airflow: Worker) -> None:
    outcome = airflow.run("plain", "fork-bomb")
    assert outcome.state == "failed"
    assert "can't start new thread (a stage may have 512 processes and threads)" in outcome.error.splitlines()[0]


def test_a_missing_image_says_how_to_build_it(airflow: Worker) -> None:
    outcome = airflow.run("unbuilt")
    assert outcome.state == "failed"
    assert outcome.error.endswith("image face-attributes/never-built is missing: build it with `make images`")


def test_an_engine_that_does_not_run_is_waited_for(airflow: Worker) -> None:
    outcome = airflow.run("unplugged")
    assert outcome.state == "up_for_retry"
    assert "no container engine answers at unix:///nonexistent/docker.sock" in outcome.error


def test_a_container_removed_by_hand_is_named(airflow: Worker, engine: Any) -> None:
    run_id = airflow.start_run("plain", "ignore-sigterm")
    running = airflow.run_try(run_id)
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    containers(engine, run_id)[0].remove(force=True, v=True)
    outcome = running.result()
    assert outcome.state == "up_for_retry"
    assert "from outside" in outcome.error  # killed or removed: what the engine still knows when it is asked


class EngineLine(socketserver.ThreadingUnixStreamServer):
    """A line to the engine that can be cut."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Forward)
        self.open: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        self.shutdown()
        self.server_close()
        Path(str(self.server_address)).unlink()
        for end in list(self.open):
            with contextlib.suppress(OSError):  # its other end may have closed it
                end.shutdown(socket.SHUT_RDWR)


class _Forward(socketserver.BaseRequestHandler):
    server: EngineLine

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(SOCKET)
            ends = {engine, self.request}
            self.server.open |= ends
            back = threading.Thread(target=self._copy, args=(engine, self.request), daemon=True)
            back.start()
            self._copy(self.request, engine)
            back.join()
            self.server.open -= ends

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_lost_engine_is_named_and_the_retry_is_the_only_writer(airflow: Worker, engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    line = EngineLine(path)
    run_id = airflow.start_run("proxied", "beat-until-released")
    running = airflow.run_try(run_id, {"FAKE_ENGINE": str(path)})
    left = wait_until(lambda: is_working(engine, run_id), "work in the container")
    line.cut()
    outcome = running.result()
    assert outcome.state == "up_for_retry"
    assert "failed or was lost" in outcome.error

    line = EngineLine(path)
    second_try = airflow.run_try(run_id, {"FAKE_ENGINE": str(path)})
    wait_until(lambda: left.id not in {made.id for made in containers(engine, run_id)}, "the end of what was left")
    release(engine, run_id)
    assert second_try.result().state == "success"
    line.cut()
    assert_one_writer_after_the_other(engine, run_id)


def test_what_nobody_tries_again_is_removed_after_a_minute(orphan: str, airflow: Worker, engine: Any) -> None:
    """The last of the file, for until then the minute is over."""
    wait_until(lambda: airflow.run("plain").state == "success" and not containers(engine, orphan), "its end", pause=2)
