"""params.yaml is read strictly: what is unknown, missing or out of range is named."""

from pathlib import Path

import pytest
from pydantic import ConfigDict, Field

from stages.common.contract.errors import UsageError
from stages.common.contract.params import Section, load_params


class Shape(Section):
    width: int = 1
    height: int = 2


class Knob(Section):
    rate: float = Field(gt=0)
    names: list[str] = Field(default_factory=list)
    shape: Shape = Shape()
    share: list[float] | None = None


class Params(Section):
    knob: Knob


class PartOfKnob(Section):
    model_config = ConfigDict(extra="ignore")

    rate: float


class PartialParams(Section):
    knob: PartOfKnob


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text("knob: {rate: 0.5}\nunrelated: {anything: goes}\n")
    return path


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("2", 2.0), ("0.25", 0.25)])
def test_numbers_are_read_as_people_and_dvc_write_them(file: Path, text: str, value: float) -> None:
    assert load_params(Params, file, [f"knob.rate={text}"]).knob.rate == value


def test_later_overrides_win_and_lists_are_yaml(file: Path) -> None:
    params = load_params(Params, file, ["knob.rate=1", "knob.rate=2", "knob.names=[a, b]"])
    assert params.knob == Knob(rate=2.0, names=["a", "b"])


def test_who_reads_part_of_a_section_leaves_its_other_keys_alone_and_knows_no_unknown_one(file: Path) -> None:
    file.write_text("knob: {rate: 0.5, names: [a]}\n")
    assert load_params(PartialParams, file, ["knob.names=[b]"]).knob == PartOfKnob(rate=0.5)
    with pytest.raises(UsageError, match=r"has no key 'rtae' in section 'knob'"):
        load_params(PartialParams, file, ["knob.rtae=1"])


@pytest.mark.parametrize("value", ["-1", "abc", ".nan", ".inf", "'1'", "[1]", "true"])
def test_a_bad_value_is_named_with_its_key(file: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"knob\.rate"):
        load_params(Params, file, [f"knob.rate={value}"])


@pytest.mark.parametrize("text", ["knob: {}", "knob: {rate: 1.0, rtae: 2}", "{}", "[]", "knob: [", "knob: null"])
def test_a_bad_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_params(Params, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("names=[0, 1]", 'knob.names: expected texts (got [0, 1]): put each in quotes as it is spelt: ["0", "1"]'),
        ("names=[a, 2026-11-20]", 'put each in quotes as it is spelt: ["a", "2026-11-20"]'),
        ("names=a", "knob.names: expected a list (got 'a'): put it in brackets: [a]"),
        ("rate='0.5'", "knob.rate: expected a number with a point and without %, such as 0.05, without quotes"),
        ("rate=5%", "knob.rate: expected a number with a point and without %"),
        ("rtae=1", "knob.rtae: no such parameter (got 1); there are rate, names"),
    ],
)
def test_what_to_write_instead_is_said(file: Path, override: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_params(Params, file, [f"knob.{override}"])
    assert remedy in str(caught.value)


@pytest.fixture
def shaped(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(
        "knob: {rate: 0.5, names: [a], shape: {width: 3, height: 4}, share: null}\nunrelated: {anything: 1}\n"
    )
    return path


def test_one_key_of_a_section_in_a_section_leaves_the_others_as_they_are(shaped: Path) -> None:
    params = load_params(Params, shaped, ["knob.shape.height=7"])
    assert params.knob == Knob(rate=0.5, names=["a"], shape=Shape(width=3, height=7))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("knob.shpae.height=7", "--set knob.shpae.height=7: {file} has no section 'knob.shpae'"),
        ("knob.rate.height=7", "--set knob.rate.height=7: {file} has no section 'knob.rate'"),
        ("knob.shape.depth=7", "{file}: knob.shape.depth: no such parameter (got 7); there are width, height"),
        ("knob.shape.=7", "knob.shape.=7: expected section.key=value"),
    ],
)
def test_a_key_below_a_key_that_is_not_there_is_named(shaped: Path, override: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_params(Params, shaped, [override])
    assert told.format(file=shaped) in str(caught.value)


def recipe_in(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_recipes_replace_values_one_after_the_other_and_what_is_set_comes_last(shaped: Path, tmp_path: Path) -> None:
    one = recipe_in(
        tmp_path, "one.yaml", "knob: {rate: 1e-3, shape: {height: 5}, share: [0.5]}\nunrelated: {anything: 2}"
    )
    other = recipe_in(tmp_path, "other.yaml", "knob: {names: [b, c]}")
    params = load_params(Params, shaped, recipes=[one, other])
    assert params.knob == Knob(rate=0.001, names=["b", "c"], shape=Shape(width=3, height=5), share=[0.5])
    assert load_params(Params, shaped, ["knob.rate=2"], [one]).knob.rate == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "knob: {rtae: 1}",
            "recipe.yaml, line 1: knob.rtae: params.yaml has no such key; there are rate, names, shape, share",
        ),
        ("konb: {rate: 1}", "recipe.yaml, line 1: konb: params.yaml has no such key; there are knob, unrelated"),
        (
            "unrelated: {other: 1}",
            "recipe.yaml, line 1: unrelated.other: params.yaml has no such key",
        ),  # of another stage
        ("knob: {shape: {depth: 1}}", "recipe.yaml, line 1: knob.shape.depth: params.yaml has no such key"),
        ("knob: 3", "recipe.yaml, line 1: knob: expected keys such as 'rate' (got 3)"),
        ("knob: {rate: -1}", "recipe.yaml: knob.rate: Input should be greater than 0"),
        ("[]", "recipe.yaml holds no sections"),
        ("knob: [", "cannot read parameters from"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line(shaped: Path, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_params(Params, shaped, recipes=[recipe_in(tmp_path, "recipe.yaml", text)])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yes_and_no_are_texts_as_in_yaml_1_2_and_no_truths(shaped: Path) -> None:
    assert load_params(Params, shaped, ["knob.names=[yes, no, on]"]).knob.names == ["yes", "no", "on"]
    with pytest.raises(UsageError, match=r"knob\.rate: .*True"):
        load_params(Params, shaped, ["knob.rate=true"])
