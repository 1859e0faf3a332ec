"""The one operator that runs a stage: its container image on the stage contract, fenced, confined and accounted for.

`DockerOperator` knows how to reach the engine; how a container is made, followed, ended and read is written anew here,
because the stock way (provider 4.6.1) leaves a killed worker's container running beside its retry, masks the cause of a
timeout, misses a child's out-of-memory kill, and takes the last line of a mixed log for the result.
"""

import contextlib
import hashlib
import json
import os
import re
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.providers.docker.hooks.docker import DockerHook
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import BaseOperator, BaseOperatorLink, Context, XComArg
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import DeviceRequest, LogConfig, Mount

NAME = "face-attributes"  # before the names of images and containers and in their labels
ARTIFACTS_VOLUME = os.environ.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", "face-attributes-artifacts")
DATA_VOLUME = os.environ.get("FACE_ATTRIBUTES_DATA_VOLUME", "face-attributes-data")
TAG = os.environ.get("FACE_ATTRIBUTES_TAG", "latest")
ENGINE = os.environ.get("DOCKER_HOST", "unix://var/run/docker.sock")

USER = "10001:10001"
RESULT = "/result/result.json"
RESULT_BYTES = 1024**2  # 10,000 lots with names of 90 characters
LINE_BYTES = 4096  # of one log line; a 20 MB line would stall the task log and the page that shows it
TAIL_LINES = 20  # of the log, in the exception
STOP_GRACE_S = 2  # Airflow kills the worker process 5 s after SIGTERM; this leaves 3 s to remove the container
FENCE_S = 30  # to wait for another try's container to disappear; the engine takes under 3 s unless it hangs

PERMANENT = {
    64: "wrong usage or parameters",
    65: "the data are bad",
    69: "something needed is absent",
    70: "a defect in the stage",
}
TRANSIENT = {75: "a passing fault", 137: "killed from outside (SIGKILL)", 143: "stopped from outside (SIGTERM)"}


def image_name(stage: str) -> str:
    """Name and tag of a stage's image."""
    return f"{NAME}/{stage}:{TAG}"


def volumes(data: str = DATA_VOLUME, artifacts: str = ARTIFACTS_VOLUME) -> list[Mount]:
    """What a stage sees: named volumes and never a path of the host."""
    return [
        Mount("/data", data, read_only=True),
        Mount("/artifacts", artifacts),
        Mount("/result", None),  # anonymous: takes its owner from the image, goes with the container
    ]


def connect(url: str | list[str] = ENGINE, timeout: int = 60) -> APIClient:
    """A client of the container engine; `timeout` in seconds holds for one answer.

    Raises:
        AirflowException: no engine answers; the task is tried again.
    """
    try:
        return DockerHook(docker_conn_id=None, base_url=url, timeout=timeout).api_client
    except (AirflowException, DockerException, OSError):
        raise AirflowException(f"no container engine answers at {url}: start it, or set DOCKER_HOST") from None


def missing_images(client: APIClient, images: Iterable[str]) -> list[str]:
    """One line for each image that is not there."""
    return [_missing(image) for image in images if not client.images(image)]


def _missing(image: str) -> str:
    return f"image {image.removesuffix(':latest')} is missing: build it with `make images`"


class ReportLink(BaseOperatorLink):
    """Opens the report of a stage inside Airflow, where `images/airflow/plugins/reports.py` serves it.

    Airflow asks the worker for the address when a task has ended, however it ended, and keeps it.
    """

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 (the form that Airflow wants)
        """Address of the report, empty if the task made none."""
        report = getattr(operator, "report", "")
        if not report.startswith("/artifacts/"):
            return ""
        prefix = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")  # of Airflow behind a proxy
        # The page /plugin/reports shows in its frame the address that follows.
        return f"{prefix}/plugin/reports{prefix}/reports/{report.removeprefix('/artifacts/')}"


class StageOperator(DockerOperator):
    """Runs one stage in its image, and returns the result that the stage wrote, key by key as XComs.

    Usage:
        train = StageOperator(
            task_id="train",
            inputs=prepared.artifact | searched.artifact,  # {"prepare_train": XCom, "hyperopt": XCom}
            settings={"train.epochs": "epochs"},
        )

    Args:
        stage: the stage's name; the task's id unless said otherwise.
        inputs: name of an input -> its path in the container; an XCom of another stage makes the edge.
        settings: dotted parameter -> name of the DAG run parameter that overrides it. Values go to the stage as JSON
            on its command line and are never rendered as templates.
        check: only look at parameters and inputs (`--check`).
        mem_limit: memory of the container, swap included, for example "4g"; the engine enforces it.
        cpus: processors, 0 for all that the engine has; the number of threads follows.
        gpu: hand over all GPUs, if the engine has the NVIDIA runtime.
        lots: only do the part of these lots ahead, into the stage's cache (`--lots`).
        tells: tell the stage which run it is part of, and what these tasks did in it, in FACE_ATTRIBUTES_RUN; None
            tells nothing.
        **kwargs: as for every operator, and image, mounts, environment, network_mode, shm_size and docker_url
            as for `DockerOperator`.

    The result (also the return value) has: stage, path, key, outputs, report, cached, seconds, headline, and of
    `validate` also lots. A stage that failed on the data and kept a report of that pushes `report` alone.

    An asset among `outlets` gets an event, with the headline, when the key of the artifact is another than that of its
    last event; it must be among `inlets`, too, so that this can be looked up.

    Raises (from `execute`):
        AirflowFailException: the cause will not pass by itself: bad usage or data, a defect, no image, out of memory.
        AirflowException: it may: killed or stopped from outside, engine not running or lost. The task is tried again.
    """

    # Not `command` and not `environment`: nothing that a user typed may reach a template, and no item that ends in
    # .sh or .env is a template file.
    template_fields: Sequence[str] = ("inputs", "results")
    template_ext: Sequence[str] = ()
    ui_color = "#dbe9f6"
    operator_extra_links = (ReportLink(),)

    CHECKED_KEYS: ClassVar[dict[str, type | tuple[type, ...]]] = {"stage": str, "checked": bool, "headline": dict}
    LOTS_KEYS: ClassVar[dict[str, type | tuple[type, ...]]] = {
        "stage": str,
        "lots": list,
        "seconds": (int, float),
        "headline": dict,
    }
    RESULT_KEYS: ClassVar[dict[str, type | tuple[type, ...]]] = {
        "stage": str,
        "path": str,
        "key": str,
        "outputs": dict,
        "report": str,
        "cached": bool,
        "seconds": (int, float),
        "headline": dict,
    }

    def __init__(
        self,
        *,
        stage: str | None = None,
        inputs: Mapping[str, Any],
        settings: Mapping[str, str] | None = None,
        check: bool = False,
        mem_limit: str = "4g",
        cpus: float = 0,
        gpu: bool = False,
        lots: Sequence[str] | None = None,
        tells: Sequence["StageOperator"] | None = None,
        **kwargs: Any,
    ) -> None:
        """Describe the task; the engine is not touched before `execute`."""
        self.stage = stage or kwargs["task_id"]
        kwargs.setdefault("image", image_name(self.stage))
        kwargs.setdefault("mounts", volumes())
        kwargs.setdefault("network_mode", "none")
        kwargs.setdefault("shm_size", 1024**3)  # bytes; loaders share batches through it, and the default is 64 MB
        kwargs.setdefault("multiple_outputs", True)
        super().__init__(mem_limit=mem_limit, cpus=cpus, mount_tmp_dir=False, auto_remove="never", **kwargs)
        self.inputs = dict(inputs)
        self.settings = dict(settings or {})
        self.check = check
        self.gpu = gpu
        self.lots = lots
        self.results: dict[str, Any] | None = None if tells is None else {one.stage: XComArg(one) for one in tells}
        self.report = ""
        self._labels: dict[str, str] = {}
        self._run_told: dict[str, str] = {}
        self._try = 0
        self._created = False
        self._stopping = False

    @property
    def label(self) -> str:
        """The first and the last of its lots, for a page; at most 250 characters, or Airflow refuses it."""
        lots = self.lots or ()
        return (", ".join(lots) if len(lots) < 4 else f"{lots[0]} to {lots[-1]} ({len(lots)} lots)")[:250]

    @property
    def artifact(self) -> dict[str, Any]:
        """The artifact that this task makes, as the input of the same name of a later stage."""
        return {self.stage: XComArg(self, key="path")}

    # ---- one run ----

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """End other tries, run the container to its end, and return the stage's result."""
        self._identify(context)
        command = self._command(context)
        log = _LogLines()
        try:
            client = connect(self.docker_url)
            self._fence(client)
            container = self._create(client, command)
            self._follow(client, container, log)
            state = self._end(client, container, log)
            try:
                self._judge(state, log)
            except AirflowFailException:
                self._keep_report(client, container, context)
                raise
            result = self._read_result(client, container)
        except (DockerException, OSError) as error:  # a lost connection is an OSError
            raise AirflowException(
                f"{self.stage}: the container engine at {self.docker_url} failed or was lost: {_one_line(error)}"
            ) from error
        finally:
            self._clean_up()
        self._announce(result, context)
        return result

    def on_kill(self) -> None:
        """End the container within Airflow's 5 s; called on SIGTERM (amid `execute`) and after a timeout."""
        self._stopping = True
        self._clean_up()

    def _identify(self, context: Context) -> None:
        instance = context["ti"]
        self._try = instance.try_number
        map_index = -1 if instance.map_index is None else instance.map_index
        self._labels = {
            f"{NAME}.dag": instance.dag_id,
            f"{NAME}.run": instance.run_id,
            f"{NAME}.task": instance.task_id,
            f"{NAME}.map_index": str(map_index),
        }
        if self.results is not None:
            stages = {name: {key: one[key] for key in ("cached", "seconds")} for name, one in self.results.items()}
            run = {"dag_id": instance.dag_id, "run_id": instance.run_id, "stages": stages}
            self._run_told = {"FACE_ATTRIBUTES_RUN": json.dumps(run)}

    def _command(self, context: Context) -> list[str]:
        command = []
        for name, path in self.inputs.items():
            command += [f"--{name}", str(path)]
        params = context["params"]
        for parameter, name in self.settings.items():
            if params[name] is not None:
                command += ["--set", f"{parameter}={json.dumps(params[name])}"]
        command += ["--store", "/artifacts", "--result", RESULT]
        if self.check:
            command += ["--check"]
        elif self.lots is not None:
            command += ["--lots", json.dumps(self.lots)]
        elif params.get("recompute"):
            command += ["--recompute"]
        return command

    # ---- fence: one container per task instance, whatever became of earlier workers ----
    #
    # It reaches as far as the engine. When the next try comes to a worker with another one, the container that a dead
    # worker left on the first runs on. Both then meet at the lock of their key in the store: the second waits, and
    # takes what the first has made, or makes it if the first is gone.

    def _others(self, client: APIClient, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        wanted = [f"{name}={value}" for name, value in labels.items()]
        found: list[dict[str, Any]] = client.containers(all=True, filters={"label": wanted})
        return found

    def _fence(self, client: APIClient) -> None:
        deadline = time.monotonic() + FENCE_S
        while others := self._others(client, self._labels):
            for other in others:
                other_try = other["Labels"].get(f"{NAME}.try", "0")
                # An ended one is a leftover, also of a deleted run whose id was given again.
                if int(other_try) > self._try and other["State"] == "running":
                    raise AirflowFailException(
                        f"{self.stage}: try {other_try} of this task is running already: "
                        f"wait for it, or end it with `docker rm -f {other['Id'][:12]}`"
                    )
                self.log.warning("Ending the container that try %s left behind: %s", other_try, other["Id"][:12])
                _remove(client, other["Id"])
            if time.monotonic() > deadline:
                raise AirflowException(
                    f"{self.stage}: a container of an earlier try cannot be removed: {others[0]['Id']}"
                )
            time.sleep(0.1)

    def _clean_up(self) -> None:
        """Remove this try's container. Never raises, so that it never masks why the task ends."""
        if not self._created:
            return
        try:
            # A connection of its own: on SIGTERM the one of `execute` is in the middle of a call.
            client = connect(self.docker_url, timeout=10)
            for container in self._others(client, {**self._labels, f"{NAME}.try": str(self._try)}):
                _remove(client, container["Id"])
        except Exception as error:
            self.log.warning("Could not remove the container, the next try will: %s", _one_line(error))

    # ---- create and start ----

    def _create(self, client: APIClient, command: list[str]) -> str:
        try:
            image = client.inspect_image(self.image)["Id"]  # type: ignore[no-untyped-call]
        except NotFound:  # nothing is ever pulled
            raise AirflowFailException(_missing(self.image)) from None
        engine = client.info()
        cpus = min(self.cpus, engine["NCPU"])  # the engine refuses more than it has
        threads = str(max(1, int(cpus or engine["NCPU"])))
        memory = str(self.mem_limit)
        devices = None
        if self.gpu and "nvidia" in engine.get("Runtimes", {}):
            devices = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        self.log.info("Running %s %s", self.image, " ".join(command))
        self._created = True  # said before: a call that is interrupted may have made it all the same
        try:
            container = client.create_container(
                image=self.image,
                command=command,
                # One name per task instance: the engine itself refuses a second writer.
                name=f"{NAME}-{self.stage}-{_digest(self._labels)}",
                labels={**self._labels, f"{NAME}.try": str(self._try)},
                user=USER,
                environment={
                    "FACE_ATTRIBUTES_IMAGE": image,
                    **self._run_told,
                    "HOME": "/tmp",  # noqa: S108 (the only writable place for what libraries cache)
                    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
                    **self.environment,
                },
                host_config=client.create_host_config(
                    mounts=self.mounts,  # type: ignore[arg-type]
                    tmpfs={"/tmp": "size=1g,mode=1777"},  # noqa: S108
                    read_only=True,
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    network_mode=self.network_mode,
                    init=True,  # forwards SIGTERM to the stage and reaps its children
                    mem_limit=memory,
                    memswap_limit=memory,  # the same: no swap
                    nano_cpus=int(cpus * 1e9) or None,
                    pids_limit=512,
                    shm_size=self.shm_size,
                    device_requests=devices,
                    log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "3"}),
                ),
            )
        except APIError as error:
            raise self._refused(error) from error
        return str(container["Id"])

    def _refused(self, error: APIError) -> AirflowException:
        """An engine that says 4xx will say so again; 409 is a container of the same name, which the next try fences."""
        permanent = error.is_client_error() and error.status_code != 409
        kind = AirflowFailException if permanent else AirflowException
        return kind(f"{self.stage}: the container engine refused to start the container: {error.explanation or error}")

    # ---- follow ----

    def _follow(self, client: APIClient, container: str, log: "_LogLines") -> None:
        if self._stopping:
            raise AirflowException(f"{self.stage}: stopped before it started")
        try:
            stream = client.attach(container, stdout=True, stderr=True, stream=True, demux=True)
            client.start(container)
        except NotFound:
            raise self._gone() from None
        except APIError as error:
            raise self._refused(error) from error
        for line in log.lines(stream):
            self.log.info("%s", line)

    def _end(self, client: APIClient, container: str, log: "_LogLines") -> dict[str, Any]:
        try:
            client.wait(container)
            state: dict[str, Any] = client.inspect_container(container)["State"]
        except NotFound:
            raise self._gone(log) from None
        started, finished = (datetime.fromisoformat(state[name]) for name in ("StartedAt", "FinishedAt"))
        seconds = (finished - started).total_seconds()
        self.log.info("Container ran %.1f s, %s to %s", seconds, started.isoformat(), finished.isoformat())
        return state

    def _gone(self, log: "_LogLines | None" = None) -> AirflowException:
        if self._stopping:
            return AirflowException(f"{self.stage}: stopped by SIGTERM to the task")
        return AirflowException(f"{self.stage}: its container was removed from outside while it ran{_tail(log)}")

    def _judge(self, state: Mapping[str, Any], log: "_LogLines") -> None:
        code = state["ExitCode"]
        if self._stopping:
            raise AirflowException(f"{self.stage}: stopped by SIGTERM to the task")
        if state["OOMKilled"]:  # also set when only a child was killed and the stage ended with 0
            raise AirflowFailException(
                f"{self.stage}: out of memory, limit {self.mem_limit}: "
                f"give the task more (mem_limit) or the stage less to do{_tail(log)}"
            )
        if code == 0:
            return
        if code in TRANSIENT:
            raise AirflowException(f"{self.stage}: {TRANSIENT[code]}, exit code {code}: {log.cause()}{_tail(log)}")
        meaning = PERMANENT.get(code, "an exit code that no stage has, a defect")
        raise AirflowFailException(f"{self.stage}: {meaning}, exit code {code}: {log.cause()}{_tail(log)}")

    # ---- result ----

    def _read_result(self, client: APIClient, container: str) -> dict[str, Any]:
        expected = self.CHECKED_KEYS if self.check else self.RESULT_KEYS if self.lots is None else self.LOTS_KEYS
        try:
            result = self._load_result(client, container)
        except NotFound:
            if self._stopping:
                raise self._gone() from None
            raise AirflowFailException(f"{self.stage}: ended with 0 but wrote no result to {RESULT}") from None
        wrong = [name for name, kind in expected.items() if not isinstance(result.get(name), kind)]
        if wrong or result["stage"] != self.stage:
            raise AirflowFailException(
                f"{self.stage}: malformed result in {RESULT}: wrong or missing: {', '.join(wrong or ['stage'])}"
            )
        result = {name: result[name] for name in (*expected, "lots") if name in result}
        self.report = result.get("report", "")
        return result

    def _load_result(self, client: APIClient, container: str) -> dict[str, Any]:
        archive, stat = client.get_archive(container, RESULT)
        # 10 KiB is the block that tar pads one small file's header, content and end to.
        packed = _take(archive, RESULT_BYTES + 10240) if stat["size"] <= RESULT_BYTES else b""
        del archive  # closes the connection: while a rest is unread, the engine does not remove the container
        if stat["size"] > RESULT_BYTES:
            raise AirflowFailException(
                f"{self.stage}: its result is too large: {stat['size']} bytes, at most {RESULT_BYTES}"
            )
        problem = None
        result: Any = None
        try:
            with tarfile.open(fileobj=BytesIO(packed)) as tar:
                member = tar.next()
                file = tar.extractfile(member) if member and member.isfile() else None
                result = json.loads(file.read()) if file else None
        except (tarfile.TarError, ValueError, RecursionError) as error:
            problem = _one_line(error)
        if not isinstance(result, dict):
            raise AirflowFailException(f"{self.stage}: {RESULT} holds no JSON object ({problem or 'something else'})")
        return result

    def _announce(self, result: Mapping[str, Any], context: Context) -> None:
        """Leave an event for the assets of this task if the artifact is another than at their last event, else none.

        What the last event says decides, not `cached`: a worker may die between the artifact and the end of its task.
        """
        news = {name: result.get(name) for name in ("key", "path", "report", "headline")}
        outlets = []
        for asset in self.outlets:
            last = context["inlet_events"][asset].ascending(False).limit(1)
            if not any((event.extra or {}).get("key") == news["key"] for event in last):
                context["outlet_events"][asset].extra = news
                outlets.append(asset)
        self.outlets = outlets  # of this run alone: Airflow makes an event for each

    def _keep_report(self, client: APIClient, container: str, context: Context) -> None:
        """Push the report of a stage that failed on the data. Never raises, so that it never masks the cause."""
        try:
            report = self._load_result(client, container).get("report")
            if isinstance(report, str):
                context["ti"].xcom_push("report", report)
                self.report = report
                self.log.info("What is wrong is described in %s", report)
        except NotFound:
            pass  # it kept none
        except Exception as error:
            self.log.warning("Could not read where the stage kept its report: %s", _one_line(error))


def _remove(client: APIClient, container: str) -> None:
    """Stop a container with a short grace and remove it with its anonymous volume; gone already is fine."""
    with contextlib.suppress(NotFound):
        client.stop(container, timeout=STOP_GRACE_S)
    with contextlib.suppress(NotFound):
        try:
            client.remove_container(container, v=True, force=True)
        except APIError as error:
            if error.status_code != 409:  # its removal is under way
                raise


def _digest(labels: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _take(chunks: Iterable[bytes], limit: int) -> bytes:
    taken = bytearray()
    for chunk in chunks:
        taken += chunk
        if len(taken) > limit:
            break
    return bytes(taken)


def _tail(log: "_LogLines | None") -> str:
    lines = ["", f"last {len(log.tail)} lines:", *log.tail] if log and log.tail else []
    return "".join(f"\n    {line}" for line in lines)


class _Line:
    """A line of a stage's output while it arrives, in bounded memory.

    A line over `LINE_BYTES` is cut and says so; of a line that a progress bar rewrote with carriage returns the last
    state is kept; bytes that are no UTF-8 and control characters (of terminals) are replaced.
    """

    _CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._lost = 0
        self._returned = False

    def add(self, piece: bytes) -> None:
        """Take what came next, which holds no end of line; a carriage return comes alone."""
        if piece == b"\r":
            self._returned = True
        elif piece:
            if self._returned:  # only now: the return of CR LF rewrites nothing
                self._bytes.clear()
                self._lost, self._returned = 0, False
            room = max(0, LINE_BYTES - len(self._bytes))
            self._bytes += piece[:room]
            self._lost += len(piece[room:])

    def text(self) -> str:
        """The line so far."""
        line = self._CONTROL.sub("\ufffd", self._bytes.decode("utf-8", "replace")).rstrip()
        return f"{line} ... (line cut, {self._lost} more bytes)" if self._lost else line


class _LogLines:
    """Turns a container's output into readable lines, and keeps the last of them and the last error among them."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._error = ""

    def cause(self) -> str:
        """The one line that says why: the last error that the stage logged, or else the last line."""
        return self._error or (self.tail[-1] if self.tail else "it logged nothing")

    def lines(self, stream: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[str]:
        """Lines as they end; `stream` has pieces of stdout and stderr, which never mix within a line."""
        current = [_Line(), _Line()]
        for parts in stream:
            for number, part in enumerate(parts):
                for piece in re.split(rb"([\r\n])", part or b""):
                    if piece == b"\n":
                        yield self._keep(current[number].text())
                        current[number] = _Line()
                    else:
                        current[number].add(piece)
        for line in current:
            if text := line.text():
                yield self._keep(text)

    def _keep(self, line: str) -> str:
        self.tail.append(line)
        if re.match(r"[\d:]{8} (ERROR|CRITICAL) ", line):
            self._error = line.split(" ", 2)[2]
        return line
