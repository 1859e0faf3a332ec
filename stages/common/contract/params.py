"""Parameters: the sections of params.yaml that a stage reads, as frozen models that refuse unknown keys."""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stages.common.contract.errors import DataError, UsageError

NOT_IN_KEY: Final = "not in key"
"""Marks a parameter that changes no result, only its speed, its place or its title.

Usage:
    workers: Annotated[int, NOT_IN_KEY] = Field(ge=0)
"""


class Section(BaseModel):
    """One section of params.yaml: frozen, strictly typed, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def not_in_key(self, above: str = "") -> list[str]:
        """Names of the values that are marked `NOT_IN_KEY`, at any depth, with the sections above them."""
        found = []
        for name, field in type(self).model_fields.items():
            if NOT_IN_KEY in field.metadata:
                found.append(above + name)
            elif isinstance(value := getattr(self, name), Section):
                found += value.not_in_key(f"{above}{name}.")
        return found


def _ordered(values: list[float]) -> list[float]:
    if values[0] >= values[1]:
        raise ValueError("expected the lower bound first")
    return values


Range = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
"""Lowest and highest value."""

ParamsT = TypeVar("ParamsT", bound=Section)

NOT_OF_DATA = ("input", "airflow")
"""Sections that a data folder cannot set, for no stage reads them: places of data, and settings of Airflow's tasks."""


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2, as DVC does: 1e-3 is a number, and yes is a text (such as the name of a class), not true."""


_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def read_sections(path: Path) -> dict[str, Any]:
    """The sections of a params.yaml, or of a recipe, as they stand there.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read parameters from {path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no sections: expected YAML like 'train: {{epochs: 10}}'")
    return tree


def lay_over(
    tree: MutableMapping[str, Any], recipe: Mapping[str, Any], file: Path, place: tuple[str, ...] = ()
) -> None:
    """Let the values of a recipe replace those of a params.yaml, key by key.

    Args:
        tree: sections of the params.yaml, changed in place.
        recipe: the keys that differ, in their sections.
        file: that the recipe stands in, for messages.
        place: keys above both, () for the whole files.

    Raises:
        UsageError: the recipe has a key that is not in params.yaml; part of the recipe may have been applied.
    """
    for key, value in recipe.items():
        keys = (*place, str(key))
        if key not in tree:
            there = ", ".join(map(str, tree))
            raise UsageError(f"{at(file, keys)}: params.yaml has no such key; there are {there}")
        inner = tree[key]
        if inner and isinstance(inner, MutableMapping):
            if not isinstance(value, Mapping):
                raise UsageError(f"{at(file, keys)}: expected keys such as {next(iter(inner))!r} (got {value!r})")
            lay_over(inner, value, file, keys)
        else:
            tree[key] = value


def at(file: Path, keys: Sequence[object]) -> str:
    """Place of a key, or of the section that should have it: "params.yaml, line 3: train.epochs"."""
    node, line = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader), 1
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((name, value) for name, value in pairs if name.value == key), None)
        if not found:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{file}, line {line}: {'.'.join(map(str, keys))}"


def own_sections(own: Path) -> dict[str, Any]:
    """The sections of the params.yaml that a data folder brings.

    Raises:
        DataError: it cannot be read, or has a section that the data cannot set.
    """
    try:
        sections = read_sections(own)
    except UsageError as error:
        raise DataError(f"{error}: correct it") from error
    if outside := next((name for name in NOT_OF_DATA if name in sections), None):
        raise DataError(f"{at(own, [outside])}: the data cannot set this section: set it in the main params.yaml")
    return sections


def load_params(
    model: type[ParamsT],
    path: Path,
    overrides: Sequence[str] = (),
    recipes: Sequence[Path] = (),
    own: Path | None = None,
) -> ParamsT:
    """Read the sections that `model` names from a params.yaml.

    Args:
        model: its fields are the sections that the stage reads; other sections are ignored.
        path: the params.yaml.
        overrides: `section.key=value` items, the value in YAML, applied in order; a section in a section likewise.
        recipes: files with the keys that differ from the params.yaml, applied in order.
        own: the params.yaml of the data, another such file, applied after the recipes and before `overrides`.

    Raises:
        UsageError: a file cannot be read, or a key is unknown, missing or out of range; the key is named.
        DataError: the params.yaml of the data is wrong; the line is named.
    """
    tree = read_sections(path)
    for recipe in recipes:
        lay_over(tree, read_sections(recipe), recipe)
    given = own_sections(own) if own else {}
    if own:
        try:
            lay_over(tree, given, own)
        except UsageError as error:
            raise DataError(str(error)) from error
    for item in overrides:
        dotted, equals, text = item.partition("=")
        *above, key = dotted.split(".")
        if not (equals and above and all((*above, key))):
            raise UsageError(f"--set {item}: expected section.key=value, for example --set train.epochs=3")
        section = above[0]
        if section not in model.model_fields:
            raise UsageError(
                f"--set {item}: this stage reads no section {section!r}, only {sorted(model.model_fields)}"
            )
        part: Any = tree
        for depth, name in enumerate(above, 1):
            part = part.get(name)
            if not isinstance(part, dict):
                raise UsageError(f"--set {item}: {path} has no section {'.'.join(above[:depth])!r}")
        told = model.model_fields[section].annotation  # a model that ignores keys would not notice an unknown key
        if getattr(told, "model_config", {}).get("extra") == "ignore" and key not in part:
            raise UsageError(f"--set {item}: {path} has no key {key!r} in section {section!r}")
        given = _without(given, [*above, key])
        try:
            part[key] = _parse(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {item}: the value is not YAML: {' '.join(str(error).split())}") from error
    try:
        return model.model_validate({name: tree[name] for name in model.model_fields if name in tree})
    except ValidationError as error:
        found = {_told(problem, model, tree): problem["loc"] for problem in error.errors()}  # once for a whole list
        if own and (of_data := [told for told, keys in found.items() if _has(given, keys)]):
            line = at(own, found[of_data[0]]).rpartition(": ")[0]
            raise DataError(f"{line}: {'; '.join(of_data)}") from error
        files = ", ".join(map(str, (path, *recipes)))
        raise UsageError(f"{files}: {'; '.join(found)}") from error


def _has(tree: Any, keys: Sequence[object]) -> bool:
    """Whether sections hold a key; true also for a place within a list or a number."""
    for key in keys:
        if not isinstance(tree, dict):
            break
        if key not in tree:
            return False
        tree = tree[key]
    return bool(keys)


def _without(tree: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Sections without a key."""
    first, *rest = keys
    kept = {name: value for name, value in tree.items() if name != first}
    return kept | {first: _without(tree[first], rest)} if rest and isinstance(tree.get(first), dict) else kept


def _told(problem: Any, model: type[BaseModel], tree: Any) -> str:
    """A problem that pydantic found, in words, with the remedy."""
    kind, place, given = problem["type"], problem["loc"], problem["input"]
    name = ".".join(str(part) for part in place)
    if kind == "string_type" and isinstance(place[-1], int):
        for part in place[:-1]:
            tree = tree[part]
        quoted = ", ".join(f'"{item}"' for item in tree)
        return (
            f"{name.rpartition('.')[0]}: expected texts (got {tree!r}): put each in quotes as it is spelt: [{quoted}]"
        )
    if kind == "string_type":
        return f'{name}: expected a text (got {given!r}): put it in quotes as it is spelt: "{given}"'
    if kind == "bool_type":
        return f"{name}: expected true or false (got {given!r})"
    if kind == "list_type":
        return f"{name}: expected a list (got {given!r}): put it in brackets: [{'' if given is None else given}]"
    if kind in {"int_type", "float_type"} and isinstance(given, str):
        what = "a whole number" if kind == "int_type" else "a number with a point and without %, such as 0.05,"
        return f"{name}: expected {what} without quotes (got {given!r})"
    if kind == "extra_forbidden":
        known: Any = model
        for part in place[:-1]:
            known = known.model_fields[part].annotation if hasattr(known, "model_fields") else None
        there = f"; there are {', '.join(known.model_fields)}" if hasattr(known, "model_fields") else ""
        return f"{name}: no such parameter (got {given!r}){there}"
    return f"{name}: {problem['msg']}" + (f" (got {given!r})" if kind not in {"missing", "model_type"} else "")
