"""Asks a person about a version that the release gate has refused, if `archive.approval` in params.yaml says so.

When `ml_pipeline_face_attributes` has made a version that failed the gate, or that cannot be compared with the
champion, `approval` shows the figures and waits until somebody answers under *Required Actions* or the time is over. It
takes no worker slot while it waits. *Approve* releases the version, and the registry records who approved it and why;
otherwise it stays archived. If another version has become the champion meanwhile, an approved version is not released,
because the two were not compared.

Users who may trigger a DAG may answer; users with role *Viewer* only see the question.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context, Param, dag
from airflow.sdk.exceptions import AirflowSkipException
from notifications import on_question
from shared_parts import DEFAULTS, MODEL, NEWS_OF_MODEL, REASON, REGISTRY, check_environment, stage
from stage_operator.link import address_of
from task_settings import load_approval

TIME = load_approval()


def refused(context: Context) -> Mapping[str, Any] | None:
    """The version in the event that started the run, if it failed the gate and is archived, else None."""
    events = context["triggering_asset_events"].get(MODEL, ())
    news = max(events, key=lambda event: event.timestamp).extra if events else {}
    headline = news.get("headline", {})
    is_open = headline.get("fit") == "no" and headline["version"] != headline["champion"]
    return news if is_open else None


def question(news: Mapping[str, Any], until: datetime) -> tuple[str, str]:
    """Subject and body of the question about a version, which can be answered until then."""
    headline = news["headline"]
    version, champion, why = (headline.get(name) for name in ("version", "champion", "why"))
    figures = {name.replace("_", " "): value for name, value in headline.items() if isinstance(value, float)}
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"Release {version} although the gate refused it?", (
        f"{version} is archived, and the champion is {champion}. The gate said: {why}.\n\n"
        f"| figure | value |\n|---|---|\n{rows}\n\n[The report]({address_of(news['report'])})\n\n"
        f"Without an answer before {until:%Y-%m-%d %H:%M} UTC it is not released."
    )


class Approval(ApprovalOperator):
    """Asks about the version that the run was started for; skipped if there is nothing to ask."""

    def execute(self, context: Context) -> Any:
        """Ask."""
        if not (news := refused(context)):
            raise AirflowSkipException("the gate has refused no version: nobody is asked")
        self.subject, self.body = question(news, datetime.now(UTC) + (self.response_timeout or timedelta(0)))
        return super().execute(context)


def approved(context: Context) -> Sequence[str]:
    """The command that an answer asks for."""
    headline = (refused(context) or {})["headline"]
    answer = context["ti"].xcom_pull(task_ids="approval")
    reason, by = answer["params_input"].get("reason") or "approved", answer["responded_by_user"]["name"]
    return ["promote", headline["version"], f"--against={headline['champion']}", f"--reason={reason}", f"--by={by}"]


@dag(
    schedule=MODEL if TIME else None,
    catchup=False,
    doc_md=__doc__,
    tags=["face-attributes", "release"],
    default_args=DEFAULTS,
)
def approve_version() -> None:
    """Ask, check the environment, release."""
    approval = Approval(
        task_id="approval",
        subject="Release a version that the gate has refused?",
        defaults=Approval.REJECT,
        response_timeout=TIME,
        execution_timeout=None,  # Airflow would use it for response_timeout if that is None
        params={"reason": Param("approved", "Why, in a line.", schema=REASON)},
        notifiers=on_question(),
        doc_md="Asks a person. **In**: the gate's reasons. **Out**: the answer, and who gave it.",
    )
    release = stage("release", stage="archive", inputs={"registry": REGISTRY}, asks=approved, tells=(), **NEWS_OF_MODEL)
    # checked after the answer, which may take days, during which images may be built anew
    approval >> check_environment() >> release


approve_version()
