"""The result of a stage, and values from other tasks as XComs, checked before use.

An error here would be the same at the next try, so every check raises AirflowFailException with one line.
"""

import json
import tarfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, ClassVar

import store_paths
from airflow.sdk.exceptions import AirflowFailException
from docker import APIClient

from stage_operator.engine import one_line

RESULT = "/result/result.json"
RESULT_BYTES = 1024**2  # 10,000 lots with names of 90 characters
ARGUMENT_BYTES = 128 * 1024 - 1  # Linux's limit for one argument or variable
SHOWN = 80  # characters of a wrong value

Kinds = Mapping[str, type | tuple[type, ...]]


class Keys:
    """Key of a result -> its kind: for a check, lots done ahead, a command, an artifact. All keys are required."""

    CHECKED: ClassVar[Kinds] = {"stage": str, "checked": bool, "headline": dict, "lots": (dict, type(None))}
    LOTS: ClassVar[Kinds] = {"stage": str, "lots": list, "seconds": (int, float), "headline": dict}
    COMMAND: ClassVar[Kinds] = {"stage": str, "report": str, "seconds": (int, float), "headline": dict}
    ARTIFACT: ClassVar[Kinds] = {
        "stage": str,
        "path": str,
        "key": str,
        "content": (str, type(None)),
        "outputs": dict,
        "report": str,
        "cached": bool,
        "seconds": (int, float),
        "headline": dict,
    }


def load(client: APIClient, container: str, stage: str) -> dict[str, Any]:
    """The JSON object in a container.

    Raises:
        NotFound: there is none, or the container is gone.
        AirflowFailException: it is not a JSON object, or too large.
    """
    archive, stat = client.get_archive(container, RESULT)
    # 10 KiB: tar pads the header, content and end of a small file to this block.
    packed = _take(archive, RESULT_BYTES + 10240) if stat["size"] <= RESULT_BYTES else b""
    del archive  # closes the connection: the engine does not remove the container while a rest is unread
    if stat["size"] > RESULT_BYTES:
        raise AirflowFailException(f"{stage}: its result is too large: {stat['size']} bytes, at most {RESULT_BYTES}")
    problem = None
    result: Any = None
    try:
        with tarfile.open(fileobj=BytesIO(packed)) as tar:
            member = tar.next()
            file = tar.extractfile(member) if member and member.isfile() else None
            result = json.loads(file.read()) if file else None
    except (tarfile.TarError, ValueError, RecursionError) as error:
        problem = one_line(error)
    if not isinstance(result, dict):
        raise AirflowFailException(f"{stage}: {RESULT} holds no JSON object ({problem or 'something else'})")
    return result


def _take(chunks: Iterable[bytes], limit: int) -> bytes:
    taken = bytearray()
    for chunk in chunks:
        taken += chunk
        if len(taken) > limit:
            break
    return bytes(taken)


def checked(result: Mapping[str, Any], keys: Kinds, stage: str) -> dict[str, Any]:
    """The trusted part of a result: `keys`.

    Raises:
        AirflowFailException: a key is missing or of the wrong kind, or a path is not in the store.
    """
    wrong = [name for name, kind in keys.items() if not isinstance(result.get(name), kind)]
    if wrong or result["stage"] != stage:
        raise AirflowFailException(
            f"{stage}: malformed result in {RESULT}: wrong or missing: {', '.join(wrong or ['stage'])}"
        )
    if "path" in keys:
        path = artifact_path(stage, result["path"])
        if not path.endswith(f"/{result['key']}"):
            raise AirflowFailException(f"{stage}: malformed result in {RESULT}: the key is not that of {path}")
        for value in result["outputs"].values():
            if not (store_path(stage, value) + "/").startswith(path + "/"):
                raise AirflowFailException(f"{stage}: malformed result in {RESULT}: {value} is not in {path}")
    if "report" in keys:
        store_path(stage, result["report"])
    return {name: result[name] for name in keys if name in result}


def store_path(giver: str, path: Any) -> str:
    """A path from `giver`, which must be in the store.

    Raises:
        AirflowFailException: it is not.
    """
    if not store_paths.parse(path):
        raise AirflowFailException(f"the path from {giver} is {store_paths.describe(path)}")
    return str(path)


def artifact_path(stage: str, path: Any) -> str:
    """The path of an artifact from `stage`, which must be its own.

    Raises:
        AirflowFailException: it is not.
    """
    found = store_paths.parse(path)
    if not found or found.stage != stage or found.rest or found.failed:
        raise AirflowFailException(f"the path from {stage} is {store_paths.describe(path, stage)}")
    return str(path)


def lots(names: Any) -> list[str]:
    """The lots of a mapped task.

    Raises:
        AirflowFailException: it is not a list of names.
    """
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise AirflowFailException(f"the lots of this task are {shown(names)}, not a list of names")
    return names


def share_out(giver: str, lots: Any, groups: int) -> list[list[str]]:
    """Divide lots among at most `groups` tasks, with about equal numbers of images.

    A task costs a second beside its work, so a task for each of thousands of lots is not worth it.

    Args:
        giver: source of the lots.
        lots: lot -> images; None if there are too many to list, and the stage that joins them prepares them all.
        groups: 0 for no groups.

    Raises:
        AirflowFailException: `lots` has another form.
    """
    lots = {} if lots is None else lots
    if not (isinstance(lots, dict) and all(type(count) is int for count in lots.values())):
        raise AirflowFailException(f"the lots from {giver} are {shown(lots)}, not lot -> images")
    shares: list[list[str]] = [[] for _ in range(min(groups, len(lots)))]
    if not shares:
        return []
    images = [0] * len(shares)
    for lot, count in sorted(lots.items(), key=lambda item: -item[1]):
        smallest = images.index(min(images))
        shares[smallest].append(lot)
        images[smallest] += count
    return [sorted(share) for share in shares]


def told(results: Mapping[str, Any]) -> dict[str, Any]:
    """Stage -> whether it was cached, and its seconds, from results that came as XComs.

    Raises:
        AirflowFailException: one is not a result.
    """
    kinds: Kinds = {name: Keys.ARTIFACT[name] for name in ("cached", "seconds")}
    for stage, result in results.items():
        if not (isinstance(result, dict) and all(isinstance(result.get(name), kind) for name, kind in kinds.items())):
            raise AirflowFailException(
                f"the result of {stage} is {shown(result)}, without {' and '.join(kinds)}: clear that task"
            )
    return {stage: {name: result[name] for name in kinds} for stage, result in results.items()}


def argument(what: str, value: str) -> str:
    """A value for one argument or variable of a process.

    Raises:
        AirflowFailException: it is too long.
    """
    if (size := len(value.encode("utf-8", "replace"))) > ARGUMENT_BYTES:
        raise AirflowFailException(f"{what} is {size / 1000:,.0f} kB long, and Linux takes {ARGUMENT_BYTES:,} bytes")
    return value


def shown(value: Any) -> str:
    """A value in a message, cut."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
