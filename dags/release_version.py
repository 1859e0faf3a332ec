"""A person decides which version is the champion.

`promote` makes the version that you name the champion, regardless of the release gate. `rollback` returns to the
previous champion; a second rollback goes one further back. The figures of each version are in its report and in
`archive versions`. Then `predict_new_lots` starts, as after every new model, and predicts with the new champion.

**Run with parameters**: `reason` is for the history. The registry records it with your name, the time and this run; the
report of `release` and `archive versions` show it. Only users who may trigger a DAG can decide; users with role
*Viewer* cannot.
"""

from collections.abc import Sequence

from airflow.sdk import Context, Param, dag
from airflow.sdk.exceptions import AirflowFailException
from shared_parts import NEWS_OF_MODEL, OF_DAG, REASON, REGISTRY, VERSION, check_environment, stage


def decision(context: Context) -> Sequence[str]:
    """The command of a run's form.

    Raises:
        AirflowFailException: action and version do not go together.
    """
    action, version, reason = (context["params"][name] for name in ("action", "version", "reason"))
    if action == "promote" and version is None:
        raise AirflowFailException("promote needs a version, for example v3: trigger it again with one")
    if action == "rollback" and version is not None:
        raise AirflowFailException(f"rollback returns to the previous champion: leave {version} out, or promote it")
    return [action, *([version] if version else []), f"--reason={reason}"]


@dag(
    schedule=None,
    doc_md=__doc__,
    tags=["face-attributes", "release"],
    **OF_DAG,
    params={
        "action": Param(
            "promote", "promote a version, or roll back to the previous champion.", enum=["promote", "rollback"]
        ),
        "version": Param(None, "Version to promote, for example v3; empty for rollback.", schema=VERSION),
        "reason": Param(description="Why, in a line.", schema=REASON),
    },
)
def release_version() -> None:
    """Check the environment, release."""
    release = stage("release", stage="archive", inputs={"registry": REGISTRY}, asks=decision, tells=(), **NEWS_OF_MODEL)
    check_environment() >> release


release_version()
