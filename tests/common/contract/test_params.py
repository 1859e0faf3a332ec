"""params.yaml is read strictly: what is unknown, missing or out of range is named."""

from pathlib import Path

import pytest
from pydantic import Field

from stages.common.contract.errors import UsageError
from stages.common.contract.params import Section, load_params


class Knob(Section):
    rate: float = Field(gt=0)
    names: list[str] = Field(default_factory=list)


class Params(Section):
    knob: Knob


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
