"""Stage hyperopt: the search by itself, with made-up trials, and the stage by its command line."""

import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.common.attributes import NAMES
from stages.common.errors import UsageError
from stages.common.hyperparameters import Hyperparameters
from stages.common.params import load_params
from stages.common.stage import main
from stages.common.version import ROOT
from stages.hyperopt.params import HyperoptSection, Params
from stages.hyperopt.search import STATE, Score, Trial, best_trial, search
from stages.hyperopt.stage import STAGE
from tests.common.prepared import make_prepared


@pytest.fixture(autouse=True)
def _keep_signal_handler() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def section(**changes: Any) -> HyperoptSection:
    """The section of params.yaml with other values."""
    return load_params(Params, ROOT / "params.yaml").hyperopt.model_copy(update=changes)


def score(chosen: Hyperparameters, _is_over: Callable[[], bool]) -> Score:
    """Best at learning rate 0.003 and no dropout."""
    return Score(1 - abs(math.log(chosen.learning_rate / 0.003)) / 10 - chosen.dropout / 10, 0.5)


class Killed(BaseException):
    pass


def killed_after(trials: int) -> Callable[..., Score]:
    """Like `score`, but the process dies in the trial after `trials` finished ones."""
    left = trials

    def evaluate(chosen: Hyperparameters, is_over: Callable[[], bool]) -> Score:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return score(chosen, is_over)

    return evaluate


def tried(trials: list[Trial]) -> list[dict[str, Any]]:
    return [trial.hyperparameters for trial in trials]


@pytest.mark.parametrize("finished", [0, 3, 6])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(finished: int, tmp_path: Path) -> None:
    settings = section(max_evals=8, startup_trials=4)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = search(settings, score, tmp_path / "whole")
    with pytest.raises(Killed):
        search(settings, killed_after(finished), tmp_path / "killed")
    resumed = search(settings, score, tmp_path / "killed")
    assert tried(resumed) == tried(whole)
    assert len({json.dumps(one) for one in tried(whole)}) == 8


def test_the_search_starts_with_the_given_trial_and_finds_better_ones_inside_the_space(tmp_path: Path) -> None:
    settings = section(max_evals=30)
    trials = search(settings, score, tmp_path)
    assert trials[0].hyperparameters == settings.first.model_dump()
    best = best_trial(trials)
    assert best is not None
    assert best.loss is not None
    assert trials[0].loss is not None
    assert best.loss < trials[0].loss - 0.02
    for one in tried(trials):
        assert settings.learning_rate[0] <= one["learning_rate"] <= settings.learning_rate[1]
        assert settings.dropout[0] <= one["dropout"] <= settings.dropout[1]
        assert one["width"] in settings.width
        assert set(one["loss_weights"]) == set(NAMES)


def test_it_is_the_parzen_estimator_and_not_chance_after_the_start(tmp_path: Path) -> None:
    (tmp_path / "learns").mkdir()
    (tmp_path / "random").mkdir()
    learns = search(section(max_evals=25, startup_trials=5), score, tmp_path / "learns")
    random = search(section(max_evals=25, startup_trials=25), score, tmp_path / "random")
    assert tried(learns)[:5] == tried(random)[:5]
    assert sum(trial.loss or 0 for trial in learns[5:]) < sum(trial.loss or 0 for trial in random[5:])


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    def sometimes(chosen: Hyperparameters, is_over: Callable[[], bool]) -> Score | str:
        return "the loss is not a number" if chosen.width == 24 else score(chosen, is_over)

    trials = search(section(max_evals=12), sometimes, tmp_path)
    failed = [trial for trial in trials if trial.loss is None]
    assert len(trials) == 12
    assert failed
    assert all(trial.failure == "the loss is not a number" for trial in failed)
    assert best_trial(trials) not in failed
    json.dumps(json.loads((tmp_path / STATE).read_text()), allow_nan=False)


def test_when_all_trials_fail_the_cause_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all 2 trials failed, the last because it burst: lower the bounds"):
        search(section(max_evals=2), lambda *_: "it burst", tmp_path)


def test_time_ends_the_search_and_keeps_what_is_done(tmp_path: Path) -> None:
    done = 0

    def slow(chosen: Hyperparameters, is_over: Callable[[], bool]) -> Score | None:
        nonlocal done
        done += 1
        return score(chosen, is_over) if done <= 2 else None

    assert len(search(section(), slow, tmp_path)) == 2

    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"no trial finished within hyperopt.timeout \(3600 s\)"):
        search(section(), lambda *_: None, tmp_path / "none")


def test_the_time_before_a_kill_counts(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        search(section(), killed_after(1), tmp_path)
    saved = json.loads((tmp_path / STATE).read_text())
    (tmp_path / STATE).write_text(json.dumps(saved | {"seconds": 3601}))
    assert len(search(section(), score, tmp_path)) == 1


def test_the_stage_searches_on_real_trainings(tmp_path: Path) -> None:
    prepared = make_prepared(tmp_path / "prepared")
    first = load_params(Params, ROOT / "params.yaml").hyperopt.first.model_dump() | {"width": 8}
    settings = ["max_evals=2", "epochs=1", "width=[8]", f"first={json.dumps(first)}", "device=cpu"]
    arguments = [word for setting in settings for word in ("--set", f"hyperopt.{setting}")]
    assert main(STAGE, ["--prepare_train", str(prepared), "--out", str(tmp_path / "out"), *arguments]) == 0
    results = json.loads((tmp_path / "out" / "metrics" / "hyperopt_results.json").read_text())
    best = Hyperparameters.model_validate_json((tmp_path / "out" / "best_params.json").read_bytes())
    assert results["evals"] == len(results["trials"]) == 2
    assert results["best"]["loss"] == min(trial["loss"] for trial in results["trials"])
    assert results["best"]["hyperparameters"] == best.model_dump()
    assert results["trials"][0]["hyperparameters"] == first
    assert (tmp_path / "out" / "plots" / "trials.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("hyperopt.max_evals=0", "hyperopt.max_evals"),
        ("hyperopt.learning_rate=[0.02, 0.001]", "lower bound first"),
        ("hyperopt.weight_decay=[0, 0.1]", "weight_decay: a logarithmic scale needs bounds above 0"),
        ("hyperopt.dropout=[0.2, 0.5]", "first.dropout: 0.1 is outside of the search space 0.2 to 0.5"),
        ("hyperopt.width=[16, 32]", "first.width: 48 is not among [16, 32]"),
        ("hyperopt.width=[1, 48]", "width"),
    ],
)
def test_a_wrong_search_space_is_named(
    setting: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(STAGE, ["--prepare_train", str(tmp_path), "--out", str(tmp_path / "out"), "--set", setting]) == 64
    assert said in caplog.text
