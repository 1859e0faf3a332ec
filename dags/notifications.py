"""Messages to people through Airflow's notifiers. Off unless the environment has an address.

FACE_ATTRIBUTES_NOTIFY_EMAIL: addresses, separated by commas; sent through connection `smtp_default`.
FACE_ATTRIBUTES_NOTIFY_WEBHOOK: id of an HTTP connection to which a JSON object is posted.
"""

import os
from collections.abc import Callable
from typing import Any

from airflow.sdk import Asset, BaseNotifier, Context

EMAIL = [address for text in os.environ.get("FACE_ATTRIBUTES_NOTIFY_EMAIL", "").split(",") if (address := text.strip())]
WEBHOOK = os.environ.get("FACE_ATTRIBUTES_NOTIFY_WEBHOOK", "")
TIMEOUT_S = 10  # for a webhook to answer

Callback = Callable[[Context], None]


def on_failure() -> list[Callback]:
    """Callbacks that report a task that has failed for good."""

    def describe(context: Context) -> dict[str, str]:
        error = context.get("exception")
        silent = type(error).__name__ if error else "it ended without an error: its worker was killed or stopped"
        cause = next(iter(str(error or "").splitlines()), silent)
        return {"event": "failed", "text": f"{context['ti'].task_id} failed: {cause}", "cause": cause}

    return _callbacks(describe)


def on_new_version(asset: Asset) -> list[Callback]:
    """Callbacks that report a new version of an asset or its release; they are silent if there is none."""

    def describe(context: Context) -> dict[str, str] | None:
        extra: dict[str, Any] = context["outlet_events"][asset].extra
        if not extra:
            return None
        headline = ", ".join(f"{name} {value}" for name, value in extra["headline"].items())
        if "action" in extra["headline"]:  # a person's decision about an existing version
            return {"event": "release", "text": f"{asset.name}: {headline}"}
        return {"event": "new version", "text": f"{asset.name}: new version {extra['key'][:12]}: {headline}"}

    return _callbacks(describe)


def on_finding(asset: Asset) -> list[Callback]:
    """Callbacks that report a changed verdict, by an event of an asset; they are silent without an event."""

    def describe(context: Context) -> dict[str, str] | None:
        extra: dict[str, Any] = context["outlet_events"][asset].extra
        if not extra:
            return None
        told = "; ".join(extra["findings"]) or f"nothing to inspect any more (before: {extra['before']})"
        return {"event": "finding", "text": f"{context['ti'].task_id}: {told}"}

    return _callbacks(describe)


def on_question() -> list[Callback]:
    """Callbacks that report a question to people, with the address for the answer."""

    def describe(context: Context) -> dict[str, str]:
        task: Any = context["task"]
        address = task.generate_link_to_ui_from_context(context=context)
        return {"event": "question", "text": f"{task.subject} Answer at {address}"}

    return _callbacks(describe)


def _callbacks(describe: Callable[[Context], dict[str, str] | None]) -> list[Callback]:
    """A callback for each address, so that a failing one does not stop the others."""

    def callback(make: Callable[[dict[str, str]], BaseNotifier]) -> Callback:
        def tell(context: Context) -> None:
            if message := describe(context):
                instance = context["ti"]
                message |= {
                    "dag_id": instance.dag_id,
                    "run_id": instance.run_id,
                    "task_id": instance.task_id,
                    "log": instance.log_url,
                }
                # A new notifier each time, because a notifier renders its templates only once. The message is a value,
                # not a template.
                make(message)({**context, "message": message})

        return tell

    return [callback(make) for make in ([_email] if EMAIL else []) + ([_webhook] if WEBHOOK else [])]


def _email(_message: dict[str, str]) -> BaseNotifier:
    # Not at the top: most tasks send nothing, and each would import 110 modules for that, .1 s.
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return SmtpNotifier(
        to=EMAIL,
        subject="[{{ message.dag_id }}] {{ message.text | truncate(150) }}",
        html_content=(
            "<p>{{ message.text | e }}</p><p>Run {{ message.run_id | e }}, task {{ message.task_id | e }}: "
            '<a href="{{ message.log | e }}">log</a></p>'
        ),
    )


def _webhook(message: dict[str, str]) -> BaseNotifier:
    from airflow.providers.http.notifications.http import HttpNotifier

    body: dict[str, Any] = {name: f"{{{{ message.{name} }}}}" for name in message}
    return HttpNotifier(http_conn_id=WEBHOOK, json=body, extra_options={"timeout": TIMEOUT_S})
