"""The operator: one run of a stage, from the fencing of other tries to the result."""

import contextlib
import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context, XComArg
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.utils.socket import demux_adaptor, frames_iter
from verdicts import findings

from stage_operator import result as handed_over
from stage_operator.container import Try, create, failure
from stage_operator.engine import DATA, connect, image_ids, image_name, missing_image, one_line, volumes
from stage_operator.lineage import lineage
from stage_operator.link import ReportLink
from stage_operator.log import LogLines, tail_of
from stage_operator.result import RESULT, Keys

EVENTS = 100
"""Events of an asset that are read: they include the last one of this task, unless a hundred others came since."""
NEWS = "news"
"""Key in the `extra` of an asset: the value that must be new for an event, "key" by default."""
OF_DATA = "data"
"""Value of the DAG run parameter `settings`: parameters and suites of the data volume override those of the image."""
CHECK = "check_environment"
"""Task whose XCom has the images of the run, image -> id; a DAG without it uses the current images."""


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
        optional: inputs that the stage does not need; they are left out if their task has no result.
        files: inputs for which a DAG run parameter may name another file of the data volume -> that parameter.
        settings: dotted parameter -> name of the DAG run parameter that overrides it. Values go to the stage as JSON
            on its command line and are never rendered as templates.
        check: only check parameters and inputs (`--check`).
        groups: for a check, return the lots that are not cached yet, in at most so many groups: lists of names, for
            `lots` of mapped tasks.
        mem_limit: memory of the container, swap included, for example "4g"; the engine enforces it.
        cpus: processors, 0 for all that the engine has; the number of threads follows.
        gpu: hand over all GPUs, if the engine has the NVIDIA runtime.
        lots: do only the part of these lots ahead, into the stage's cache (`--lots`).
        tells: pass the run, the person who triggered it, and the results of these tasks to the stage, in
            FACE_ATTRIBUTES_RUN; None passes nothing.
        asks: gives the words of another command of the stage, such as `promote v3`, to run instead; it may refuse by
            AirflowFailException, before the engine is used.
        **kwargs: as for every operator, and image, mounts, environment, network_mode, shm_size and docker_url
            as for `DockerOperator`.

    The DAG run parameter `recipe`, if there is one, names a file of the image, params-<recipe>.yaml, whose values
    override those of params.yaml; "none" means no recipe. Parameters and suites of the data volume override both,
    unless the DAG run parameter `settings` is "image".

    The result (also the return value) has: stage, path, key, content, outputs, report, cached, seconds, headline. A
    check has stage, checked, headline. A command without an artifact has stage, report, seconds, headline. A stage that
    failed on the data and kept a report pushes only `report`.

    An asset among `outlets` gets an event, with the headline, if the key of the artifact differs from that of the last
    event of a task of this name; it must be among `inlets`, too, so that Airflow gives that event. A command of a
    person is an event each time. An asset with `NEWS` in its `extra` gets an event if that value changes: "verdict" is
    the kinds of findings.

    Raises (from `execute`):
        AirflowFailException: a retry would not help: bad usage or data, a defect, no image, out of memory.
        AirflowException: a retry may help: killed or stopped from outside, engine not running or lost.
    """

    # Not `command` and not `environment`: a user's input must not reach a template, and an item that ends in .sh or
    # .env must not be read as a template file.
    template_fields: Sequence[str] = ("inputs", "results")
    template_ext: Sequence[str] = ()
    ui_color = "#dbe9f6"
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        stage: str | None = None,
        inputs: Mapping[str, Any],
        optional: Collection[str] = (),
        files: Mapping[str, str] = MappingProxyType({}),
        settings: Mapping[str, str] | None = None,
        check: bool = False,
        groups: int | None = None,
        mem_limit: str = "4g",
        cpus: float = 0,
        gpu: bool = False,
        lots: Sequence[str] | None = None,
        tells: Sequence["StageOperator"] | None = None,
        asks: Callable[[Context], Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Describe the task; the engine is not used before `execute`."""
        self.stage = stage or kwargs["task_id"]
        kwargs.setdefault("image", image_name(self.stage))
        kwargs.setdefault("mounts", volumes())
        kwargs.setdefault("network_mode", "none")
        kwargs.setdefault("shm_size", 1024**3)  # bytes; loaders share batches through it, and the default is 64 MB
        kwargs.setdefault("multiple_outputs", groups is None)
        super().__init__(mem_limit=mem_limit, cpus=cpus, mount_tmp_dir=False, auto_remove="never", **kwargs)
        self.inputs = dict(inputs)
        self.optional = frozenset(optional)
        self.files = dict(files)
        self._from_tasks = [name for name, path in self.inputs.items() if isinstance(path, XComArg)]
        self.settings = dict(settings or {})
        self.check = check
        self.groups = groups
        self.gpu = gpu
        self.lots = lots
        self.asks = asks
        self.results: dict[str, Any] | None = None if tells is None else {task.stage: XComArg(task) for task in tells}
        self.report = ""
        self.read: dict[str, str] = {}  # name of an input -> its path, of this run
        self.result: dict[str, Any] = {}
        self._made: Try | None = None  # the try whose container exists, or may exist
        self._stopping = False

    @property
    def label(self) -> str:
        """Its first and its last lot, for a page; at most 250 characters, or Airflow refuses it."""
        lots = self.lots or ()
        return (", ".join(lots) if len(lots) < 4 else f"{lots[0]} to {lots[-1]} ({len(lots)} lots)")[:250]

    @property
    def artifact(self) -> dict[str, Any]:
        """The artifact of this task, as the input of the same name of a later stage."""
        return {self.stage: XComArg(self, key="path")}

    def execute(self, context: Context) -> dict[str, Any] | list[list[str]]:  # type: ignore[override]
        """End other tries, run the container to its end, and return the stage's result."""
        environment = {**self._told(context), **self.environment}
        command = self._command(context)
        log = LogLines()
        try:
            with _held_by_supervisor():
                client = connect(self.docker_url)
                engine = client.info()
                attempt = Try.of(self.stage, context["ti"])
                attempt.fence(client, engine["SystemTime"], self.log)
                container = self._create(client, engine, attempt, command, self._image(client, context), environment)
                self._follow(client, container, log)
                state = self._end(client, container, log)
                try:
                    self._check_end(state, log)
                except AirflowFailException:
                    self._keep_report(client, container, context)
                    raise
                result = self._read_result(client, container)
        except (DockerException, OSError) as error:  # a lost connection is an OSError
            raise AirflowException(
                f"{self.stage}: the container engine at {self.docker_url} failed or was lost: {one_line(error)}"
            ) from error
        finally:
            self._clean_up()
        self._announce(result, context)
        return result if self.groups is None else handed_over.share_out(self.stage, result.get("lots"), self.groups)

    def get_openlineage_facets_on_complete(self, _task_instance: Any) -> Any:
        """Lineage for OpenLineage after success or failure of the task."""
        return lineage(self.read, self.result)

    def on_kill(self) -> None:
        """End the container within Airflow's 5 s; called on SIGTERM (amid `execute`) and after a timeout."""
        self._stopping = True
        self._clean_up()

    def _told(self, context: Context) -> dict[str, str]:
        """The variable with the run for the stage, if `tells` is set."""
        if self.results is None:
            return {}
        run: dict[str, Any] = {name: getattr(context["ti"], name) for name in ("dag_id", "run_id")}
        run |= {"by": context["dag_run"].triggering_user_name or "", "stages": handed_over.told(self.results)}
        return {"FACE_ATTRIBUTES_RUN": handed_over.argument("the record of this run", json.dumps(run))}

    def _command(self, context: Context) -> list[str]:
        command = [handed_over.argument("the command", word) for word in self.asks(context)] if self.asks else []
        params = context["params"]
        chosen = {name: f"{DATA}/{params[of]}" for name, of in self.files.items() if params[of] is not None}
        for name, path in (self.inputs | chosen).items():
            if path is None and name in self.optional:
                continue
            self.read[name] = handed_over.artifact_path(name, path) if name in self._from_tasks else str(path)
            command += [f"--{name}", self.read[name]]
        for parameter, name in self.settings.items():
            if params[name] is not None:
                value = handed_over.argument(f"the parameter {name}", f"{parameter}={json.dumps(params[name])}")
                command += ["--set", value]
        if (recipe := params.get("recipe", "none")) != "none":
            command += ["--params", "params.yaml", "--params", f"params-{recipe}.yaml"]
        if not self.asks and params.get("settings", OF_DATA) == OF_DATA:
            command += ["--data", DATA]
        command += ["--store", "/artifacts", "--result", RESULT]
        if self.check:
            command += ["--check"]
        elif self.lots is not None:
            command += ["--lots", handed_over.argument("the list of lots", json.dumps(handed_over.lots(self.lots)))]
        elif params.get("recompute"):
            command += ["--recompute"]
        return command

    def _image(self, client: APIClient, context: Context) -> str:
        """Id of the image, which must be the same as at the beginning of the run."""
        found = image_ids(client, [self.image])[self.image]
        if not found:
            raise AirflowFailException(missing_image(self.image))
        began_with = context["ti"].xcom_pull(task_ids=CHECK) or {}
        if not isinstance(began_with, dict):
            raise AirflowFailException(f"the images from {CHECK} are {handed_over.shown(began_with)}: clear it")
        if began_with and (first := began_with.get(self.image, "of another name")) != found:
            name = self.image.removesuffix(":latest")
            raise AirflowFailException(
                f"image {name} has changed since this run began: it was {handed_over.shown(first)}, now it is {found}: "
                f"trigger a new run, or clear {CHECK} alone, then this task, to continue with the new image"
            )
        return found

    def _clean_up(self) -> None:
        """Remove this try's container. Never raises, so that it does not mask the cause of the task's end."""
        if not self._made:
            return
        try:
            # A new connection: on SIGTERM, that of `execute` is in the middle of a call.
            self._made.remove(connect(self.docker_url, timeout=10))
        except Exception as error:
            self.log.warning("Could not remove the container, the next try will: %s", one_line(error))

    def _create(
        self,
        client: APIClient,
        engine: Mapping[str, Any],
        attempt: Try,
        command: list[str],
        image_id: str,
        environment: Mapping[str, str],
    ) -> str:
        self.log.info("Running %s %s", self.image, " ".join(command))
        self._made = attempt  # set before: an interrupted call may have made the container
        try:
            return create(
                client, attempt, command, engine=engine, image=self.image, image_id=image_id, environment=environment,
                mem_limit=self.mem_limit, cpus=self.cpus, gpu=self.gpu,
                mounts=self.mounts, network_mode=self.network_mode, shm_size=self.shm_size,
            )  # fmt: skip
        except APIError as error:
            raise self._refused(error) from error

    def _refused(self, error: APIError) -> AirflowException:
        """The error for a refusal: 4xx is permanent, except 409, a container of that name, which the next try ends."""
        permanent = error.is_client_error() and error.status_code != 409
        kind = AirflowFailException if permanent else AirflowException
        return kind(f"{self.stage}: the container engine refused to start the container: {error.explanation or error}")

    def _follow(self, client: APIClient, container: str, log: LogLines) -> None:
        if self._stopping:
            raise AirflowException(f"{self.stage}: stopped before it started")
        try:
            stream = client.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            client.start(container)
        except NotFound:
            raise self._gone() from None
        except APIError as error:
            raise self._refused(error) from error
        pieces = (demux_adaptor(*frame) for frame in frames_iter(stream, tty=False))  # type: ignore[no-untyped-call]
        for line in log.lines(pieces):
            self.log.info("%s", line)
        stream.close()

    def _end(self, client: APIClient, container: str, log: LogLines) -> dict[str, Any]:
        try:
            client.wait(container)
            state: dict[str, Any] = client.inspect_container(container)["State"]
        except NotFound:
            raise self._gone(log) from None
        started, finished = (datetime.fromisoformat(state[name]) for name in ("StartedAt", "FinishedAt"))
        seconds = (finished - started).total_seconds()
        self.log.info("Container ran %.1f s, %s to %s", seconds, started.isoformat(), finished.isoformat())
        return state

    def _gone(self, log: LogLines | None = None) -> AirflowException:
        if self._stopping:
            return AirflowException(f"{self.stage}: stopped by SIGTERM to the task")
        return AirflowException(f"{self.stage}: its container was removed from outside while it ran{tail_of(log)}")

    def _check_end(self, state: Mapping[str, Any], log: LogLines) -> None:
        if self._stopping:
            raise AirflowException(f"{self.stage}: stopped by SIGTERM to the task")
        if failed := failure(self.stage, state, log, self.mem_limit):
            raise failed

    def _read_result(self, client: APIClient, container: str) -> dict[str, Any]:
        keys = Keys.CHECKED if self.check else Keys.ARTIFACT if self.lots is None else Keys.LOTS
        try:
            result = handed_over.load(client, container, self.stage)
        except NotFound:
            if self._stopping:
                raise self._gone() from None
            raise AirflowFailException(f"{self.stage}: ended with 0 but wrote no result to {RESULT}") from None
        if self.asks and "path" not in result:  # a command without an artifact
            keys = Keys.COMMAND
        self.result = result = handed_over.checked(result, keys, self.stage)
        self.report = result.get("report", "")
        return result

    def _announce(self, result: Mapping[str, Any], context: Context) -> None:
        """Keep the assets of this task as outlets, for an event, if the artifact differs from their last event.

        The last event decides, not `cached`: a worker may die between the artifact and the end of its task.
        """
        found = findings(self.stage, result["headline"])
        news = {name: result.get(name) for name in ("key", "path", "report", "headline")}
        news |= {"verdict": ", ".join(sorted(found)), "findings": list(found.values())}
        outlets = []
        for asset in self.outlets:
            events = context["inlet_events"][asset].ascending(False).limit(EVENTS)
            mark = asset.extra.get(NEWS, "key")
            before = next(
                ((event.extra or {}).get(mark) for event in events if event.source_task_id == self.task_id), ""
            )
            if self.asks or before != news[mark]:
                context["outlet_events"][asset].extra = news | {"before": before}
                outlets.append(asset)
        self.outlets = outlets  # only for this run: Airflow makes an event for each

    def _keep_report(self, client: APIClient, container: str, context: Context) -> None:
        """Push the report of a stage that failed on the data. Never raises, so that it does not mask the cause."""
        try:
            report = handed_over.load(client, container, self.stage).get("report")
            if report is not None:
                self.report = handed_over.store_path(self.stage, report)
                context["ti"].xcom_push("report", report)
                self.log.info("The findings are in %s", report)
        except NotFound:
            pass  # it kept no report
        except Exception as error:
            self.log.warning("Could not read where the stage kept its report: %s", one_line(error))


@contextlib.contextmanager
def _held_by_supervisor() -> Iterator[None]:
    """End this process like a SIGTERM when its supervisor is gone; there is no other signal for that.

    Airflow gives a task a socket to its supervisor as standard input; a task that a person runs on a terminal has none.
    """
    over = threading.Event()
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        threading.Thread(target=_follow_supervisor, args=(os.getppid(), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _follow_supervisor(supervisor: int, over: threading.Event) -> None:
    while not over.wait(1):
        if os.getppid() != supervisor:
            os.kill(os.getpid(), signal.SIGTERM)
            return
