"""The container engine: its connection, our images, volumes and containers there, and the removal of a container."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.docker.hooks.docker import DockerHook
from airflow.sdk.exceptions import AirflowException
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import Mount

NAME = "face-attributes"  # before the names of containers and in their labels
TRY = f"{NAME}.try"
"""Label of every container of a stage: the try of the task that made it."""
ARTIFACTS_VOLUME = os.environ.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", "face-attributes-artifacts")
DATA_VOLUME = os.environ.get("FACE_ATTRIBUTES_DATA_VOLUME", "face-attributes-data")
DATA = "/data"
"""Where a stage sees the data volume."""
IMAGES = os.environ.get("FACE_ATTRIBUTES_IMAGES") or NAME
"""Prefix of the names of images: that of a registry, or ours for images of this machine."""
TAG = os.environ.get("FACE_ATTRIBUTES_TAG") or "latest"
_DIGEST = "FACE_ATTRIBUTES_DIGEST_"
LOCKED = {
    name.removeprefix(_DIGEST): f"{IMAGES}/{name.removeprefix(_DIGEST)}@{digest}"
    for name, digest in os.environ.items()
    if name.startswith(_DIGEST) and IMAGES != NAME
}
"""Stage -> its image by the digest in images.lock, whose lines are variables here; with any, only these images run."""
ENGINE = os.environ.get("DOCKER_HOST", "unix://var/run/docker.sock")

STOP_GRACE_S = 2  # Airflow kills the worker process 5 s after SIGTERM; this leaves 3 s to remove the container
ENDED = ["created", "exited", "dead"]
"""States of a container that does not run."""
LEFTOVER = timedelta(seconds=60)  # a task reads the result of its container within a second of its end


def image_name(stage: str) -> str:
    """Name of a stage's image, with its digest or else its tag."""
    return LOCKED.get(stage, f"{IMAGES}/{stage}:{TAG}")


def volumes(data: str = DATA_VOLUME, artifacts: str = ARTIFACTS_VOLUME) -> list[Mount]:
    """The mounts of a stage: named volumes and never a path of the host."""
    return [
        Mount(DATA, data, read_only=True),
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


def image_ids(client: APIClient, images: Iterable[str]) -> dict[str, str]:
    """Image -> its id, "" if it is absent or not in images.lock."""
    ids = dict.fromkeys(images, "")
    for image in ids:
        if not LOCKED or image in LOCKED.values():
            with contextlib.suppress(NotFound):  # nothing is ever pulled: that would take the task's time
                ids[image] = str(client.inspect_image(image)["Id"])  # type: ignore[no-untyped-call]
    return ids


def missing_image(image: str) -> str:
    """The message about an image that is absent, or must not be run."""
    name = image.removesuffix(":latest")
    if LOCKED and image not in LOCKED.values():
        return f"image {name} is not in images.lock, and no others are run: `make push` where it is built"
    remedy = "build it with `make images`" if IMAGES == NAME else "fetch it with `make pull` on the engine's machine"
    return f"image {name} is missing: {remedy}"


def containers(client: APIClient, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The containers with these labels, running or not."""
    wanted = [f"{name}={value}" for name, value in labels.items()]
    found: list[dict[str, Any]] = client.containers(all=True, filters={"label": wanted})
    return found


def leftovers(client: APIClient, now: str) -> list[str]:
    """Ids of the stages' containers that ended, or were made but not started, longer than `LEFTOVER` ago.

    They are no longer needed: their task was killed, and no later try has removed them. `now` is the engine's time.
    """
    found = []
    for container in client.containers(all=True, filters={"label": TRY, "status": ENDED}):
        with contextlib.suppress(NotFound):
            told = client.inspect_container(container["Id"])
            status = told["State"]["Status"]
            if status not in ENDED:  # another task has started it since the listing, and its end is still the year 1
                continue
            ended = told["Created"] if status == "created" else told["State"]["FinishedAt"]
            if datetime.fromisoformat(now) - datetime.fromisoformat(ended) > LEFTOVER:
                found.append(str(container["Id"]))
    return found


def remove(client: APIClient, container: str) -> None:
    """Stop a container with a short grace and remove it with its anonymous volume; gone already is fine."""
    with contextlib.suppress(NotFound):
        client.stop(container, timeout=STOP_GRACE_S)
    with contextlib.suppress(NotFound):
        try:
            client.remove_container(container, v=True, force=True)
        except APIError as error:
            if error.status_code != 409:  # it is being removed
                raise


def one_line(error: BaseException) -> str:
    """The text of an error, without line ends."""
    return " ".join(str(error).split()) or type(error).__name__
