"""Actions of a user of Airflow, through its API or in a browser."""

import json
import urllib.request
from typing import TYPE_CHECKING, Any

from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Page


def ask(url: str, token: str = "", body: Any = None, method: str = "") -> Any:
    """JSON that the API answers to the owner of a token, None where it answers nothing; with a `body`, to a POST."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    content = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, content, headers, method=method or None)  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310
        return json.loads(response.read() or "null")


def log_in(url: str, user: str, password: str) -> str:
    """A token of the user; an HTTPError 401 where the password is wrong."""
    return str(ask(f"{url}/auth/token", body={"username": user, "password": password})["access_token"])


def sign_in(page: "Page", user: str, password: str) -> None:
    """Fill in and send the login form that a page shows."""
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
