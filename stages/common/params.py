"""Parameters: the sections of params.yaml that a stage reads, as frozen models that refuse what they do not know."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stages.common.errors import UsageError


class Section(BaseModel):
    """One section of params.yaml: frozen, strictly typed, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _ordered(values: list[float]) -> list[float]:
    if values[0] >= values[1]:
        raise ValueError("expected the lower bound first")
    return values


Range = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
"""Lowest and highest value."""

ParamsT = TypeVar("ParamsT", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text; YAML 1.2, which DVC writes, as a number. This loader agrees with DVC."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def load_params(model: type[ParamsT], path: Path, overrides: Sequence[str] = ()) -> ParamsT:
    """Read the sections that `model` names from a params.yaml.

    Args:
        model: its fields are the sections that the stage reads; other sections are not looked at.
        path: the params.yaml.
        overrides: `section.key=value` items, the value in YAML, applied in order.

    Raises:
        UsageError: the file cannot be read, or a key is unknown, missing or out of range; the key is named.
    """
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read parameters from {path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no sections: expected YAML like 'train: {{epochs: 10}}'")
    for item in overrides:
        dotted, equals, text = item.partition("=")
        section, dot, key = dotted.partition(".")
        if not (equals and dot and key):
            raise UsageError(f"--set {item}: expected section.key=value, for example --set train.epochs=3")
        if section not in model.model_fields:
            raise UsageError(
                f"--set {item}: this stage reads no section {section!r}, only {sorted(model.model_fields)}"
            )
        if not isinstance(tree.get(section), dict):
            raise UsageError(f"--set {item}: {path} has no section {section!r}")
        try:
            tree[section][key] = _parse(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {item}: the value is not YAML: {' '.join(str(error).split())}") from error
    try:
        return model.model_validate({name: tree[name] for name in model.model_fields if name in tree})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            + (f" (got {problem['input']!r})" if problem["type"] not in {"missing", "model_type"} else "")
            for problem in error.errors()
        )
        raise UsageError(f"{path}: {problems}") from error
