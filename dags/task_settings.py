"""Section `airflow` of params.yaml: settings of Airflow's tasks. Stages do not read it, so it is part of no key."""

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from croniter import croniter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

PARAMS = Path(__file__).parents[1] / "params.yaml"  # of the repository, or /app/params.yaml in the image
RECIPES = sorted(path.stem.removeprefix("params-") for path in PARAMS.parent.glob("params-*.yaml"))
"""Names of the recipes beside it, files `params-<name>.yaml` with the keys that differ."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Task(_Section):
    """Settings of one task: retries after a passing fault, `timeout` per try in seconds, and its container's limits.

    The container gets `mem_limit` of memory, and `cpus` cores, 0 for all; its threads follow.
    """

    retries: int = Field(ge=0, le=100)
    timeout: int = Field(gt=0)
    mem_limit: str = Field(pattern=r"^[1-9][0-9]*[mg]$")
    cpus: float = Field(0, ge=0, le=10_000)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of `StageOperator`."""
        return {
            "retries": self.retries,
            "execution_timeout": timedelta(seconds=self.timeout),
            "mem_limit": self.mem_limit,
            "cpus": self.cpus,
        }


def _is_cron(text: str) -> str:
    if not croniter.is_valid(text):
        raise ValueError("not a cron expression such as '0 3 * * *' or '@daily'")
    return text


Cron = Annotated[str, AfterValidator(_is_cron)]
KEEP = "^[1-9][0-9]{0,4}[hdw]"
"""Pattern of a time to keep: 12h, 30d or 2w."""


def duration(keep: str) -> timedelta:
    """Parse a time such as 12h, 30d or 2w; it has the form `KEEP`."""
    return int(keep[:-1]) * {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}[keep[-1]]


class Schedules(_Section):
    """Schedules of DAGs, in UTC; None for never."""

    ml_pipeline_face_attributes: Cron | None
    model_monitoring_and_retraining: Cron | None
    clean_up: Cron | None


class Settings(_Section):
    """The section; `retry_delay` and `new_lots_interval` are in seconds."""

    retry_delay: int = Field(ge=0)
    schedules: Schedules
    keep: str = Field(pattern=f"{KEEP}$")
    new_lots_interval: int = Field(ge=1)
    lot_groups: int = Field(ge=0, le=1000)
    lot_groups_at_once: int = Field(ge=1)
    tasks: dict[str, Task]

    def of(self, task_id: str) -> dict[str, Any]:
        """Arguments of the operator of a task.

        Raises:
            ValueError: the task has no entry.
        """
        if task_id not in self.tasks:
            raise ValueError(f"{PARAMS}: airflow.tasks.{task_id} is missing")
        return self.tasks[task_id].arguments


class _Archive(BaseModel):
    """Keys of section `archive` that the DAGs read; the others are for the stage."""

    model_config = ConfigDict(frozen=True, strict=True)

    approval: int = Field(ge=0)


def of_data(folder: str | Path) -> list[str]:
    """Names of the suites and parameters of the data volume, for a form, if this process sees the volume."""
    home = Path(folder)
    suites = sorted(path.name for path in (home / "expectations").glob("*.json"))
    return [*([PARAMS.name] if (home / PARAMS.name).is_file() else []), *suites]


def today(dotted: str, nothing: str = "none", data: Path = Path("/data", PARAMS.name)) -> str:
    """The meaning of an empty field of a form: the value of params.yaml, and of each recipe with another one.

    If the data volume has a value, which overrides both, it is that.

    Args:
        dotted: name of the parameter, for example "train.epochs".
        nothing: word for an empty value.
        data: the params.yaml of the data volume, if this process sees it.
    """
    if (own := _own_value(data, dotted)) is not None:
        return f"Empty means {nothing if own in ('', []) else own}, as {PARAMS.name} of the data says."
    values = {recipe: _value(PARAMS.with_name(f"params-{recipe}.yaml"), dotted) for recipe in RECIPES}
    told = [f"{_value(PARAMS, dotted) or nothing}"]
    told += [f"with recipe {recipe} {value or nothing}" for recipe, value in values.items() if value is not None]
    return f"Empty means {', '.join(told)}."


def _own_value(data: Path, dotted: str) -> Any:
    """The same for the params.yaml of the data; None also if it is invalid, which the first stage of a run reports."""
    try:
        return _value(data, dotted) if data.is_file() else None
    except ValueError:
        return None


def _value(path: Path, dotted: str) -> Any:
    """The value of a parameter in a file, None if it is absent."""
    found: Any = _tree(path)
    for name in dotted.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


@cache
def _tree(path: Path) -> Any:
    """Contents of a YAML file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read parameters from {path}: {' '.join(str(error).split())}") from None


SectionT = TypeVar("SectionT", bound=BaseModel)


def load_settings(path: Path = PARAMS) -> Settings:
    """Read section `airflow`.

    Raises:
        ValueError: the file cannot be read, or a key is unknown, missing or of the wrong kind; the key is named.
    """
    return _load(path, "airflow", Settings)


def load_approval(path: Path = PARAMS) -> timedelta | None:
    """The time for which an unfit version waits for a person, None for no wait; it raises as `load_settings`."""
    seconds = _load(path, "archive", _Archive).approval
    return timedelta(seconds=seconds) if seconds else None


def _load(path: Path, section: str, model: type[SectionT]) -> SectionT:
    tree = _tree(path)
    try:
        return model.model_validate(tree.get(section) if isinstance(tree, dict) else None)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, (section, *problem['loc'])))}: {problem['msg']}"
            + (f" (got {problem['input']!r})" if problem["type"] != "missing" else "")
            for problem in error.errors()
        )
        raise ValueError(f"{path}: {problems}") from None
