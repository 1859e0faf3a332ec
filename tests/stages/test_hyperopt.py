"""Stage hyperopt: the search by itself, with made-up trainings, and the stage by its command line."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.common.contract.artifacts import json_digest
from stages.common.contract.command_line import main
from stages.common.contract.errors import UsageError
from stages.common.contract.params import load_params
from stages.common.contract.version import ROOT
from stages.common.inference.calibration import cross_entropy
from stages.common.training.hyperparameters import Hyperparameters
from stages.hyperopt.importance import measure_importance
from stages.hyperopt.params import HyperoptSection, Params
from stages.hyperopt.search import STATE, search
from stages.hyperopt.stage import STAGE
from stages.hyperopt.training import balanced_cross_entropy
from stages.hyperopt.trials import Job, Score, Trial
from stages.train.params import Params as TrainParams
from tests.common.prepared import make_prepared
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES
from tests.processes import is_running, stop_when
from tests.stages.made_up_trainings import score, score_at_any_time
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def section(**changes: Any) -> HyperoptSection:
    """The section of params.yaml with other values; a third of the trials go on after the rung."""
    halving = {"epochs": 6, "rungs": [0.34], "keep": 0.34, "lag": 4, "startup_trials": 4, "width": [16, 24, 32]}
    settings = load_params(Params, ROOT / "params.yaml").hyperopt
    first = settings.first.complete(SAMPLE_ATTRIBUTES)
    return settings.model_copy(update=halving | {"first": first} | changes)


class Killed(BaseException):
    pass


def killed_after(runs: int) -> Callable[[Job], Score]:
    """Like `score`, but the process dies in the training after `runs` finished ones."""
    left = runs

    def evaluate(job: Job) -> Score:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return score(job)

    return evaluate


def tried(trials: list[Trial]) -> list[dict[str, Any]]:
    return [trial.hyperparameters for trial in trials]


def timeless(trials: list[Any]) -> list[dict[str, Any]]:
    """Trials without the seconds that they took."""
    return [{**(trial if isinstance(trial, dict) else vars(trial)), "seconds": 0} for trial in trials]


@pytest.mark.parametrize("finished", [0, 3, 10])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(finished: int, tmp_path: Path) -> None:
    settings = section(max_evals=12)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = search(settings, score, tmp_path / "whole").trials
    with pytest.raises(Killed):
        search(settings, killed_after(finished), tmp_path / "killed")
    resumed = search(settings, score, tmp_path / "killed").trials
    assert timeless(resumed) == timeless(whole)
    assert len({json.dumps(trial) for trial in tried(whole)}) == 12


def test_the_trials_are_the_same_on_any_number_of_workers_whoever_is_first(tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        found.append(search(section(max_evals=14), score_at_any_time, tmp_path / str(workers), workers).trials)
    assert timeless(found[0]) == timeless(found[1])


def test_hopeless_trials_are_given_up_and_the_best_and_the_first_are_trained_in_full(tmp_path: Path) -> None:
    trials = search(section(max_evals=30), score, tmp_path).trials
    finished = [trial for trial in trials if trial.state == "finished"]
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert len(finished) + len(stopped) == 30
    assert 10 <= len(finished) <= 20
    assert trials[0] in finished
    early = {trial.number: trial.val_losses[2] for trial in trials}
    assert min(early.values()) == min(early[trial.number] for trial in finished)
    assert max(early.values()) == max(early[trial.number] for trial in stopped)
    for trial in trials:
        assert list(trial.val_losses) == ([2, 6] if trial in finished else [2])
        assert trial.val_loss == list(trial.val_losses.values())[-1]
    assert "of 30 trials after 2 epochs" in stopped[0].reason


def test_the_search_starts_with_the_given_trial_and_finds_better_ones_inside_the_space(tmp_path: Path) -> None:
    settings = section(max_evals=30)
    result = search(settings, score, tmp_path)
    trials, best = result.trials, result.best
    assert result.is_complete
    assert trials[0].hyperparameters == settings.first.model_dump()
    assert best.val_loss is not None
    assert trials[0].val_loss is not None
    assert best.val_loss < trials[0].val_loss - 0.01
    for trial in tried(trials):
        for key in ("learning_rate", "muon_learning_rate", "weight_decay", "dropout"):
            low, high = getattr(settings, key)
            assert low <= trial[key] <= high
        assert trial["width"] in settings.width
        assert set(trial["loss_weights"]) == set(SAMPLE_NAMES)


def test_class_balance_is_searched_where_there_is_a_choice(tmp_path: Path) -> None:
    def best_in_balance(job: Job) -> Score:
        return replace(score(job), val_loss=score(job).val_loss + 0.5 - job.plan.hyperparameters.class_balance)

    chosen = search(section(max_evals=12, class_balance=[0.0, 0.5]), best_in_balance, _new(tmp_path / "one"))
    assert {trial["class_balance"] for trial in tried(chosen.trials)} == {0.0, 0.5}
    assert chosen.best.hyperparameters["class_balance"] == 0.5
    fixed = tried(search(section(max_evals=4), score, _new(tmp_path / "other")).trials)
    assert {trial["class_balance"] for trial in fixed} == {0.0}


def test_what_was_found_before_there_was_a_class_balance_is_read() -> None:
    earlier = FIRST.model_dump(exclude={"class_balance"})
    assert Hyperparameters.model_validate(earlier).class_balance == 0


def test_it_is_the_parzen_estimator_and_not_chance_after_the_start(tmp_path: Path) -> None:
    (tmp_path / "learns").mkdir()
    (tmp_path / "random").mkdir()
    learns = search(section(max_evals=25, rungs=[]), score, tmp_path / "learns").trials
    chance = search(section(max_evals=25, rungs=[], startup_trials=25), score, tmp_path / "random").trials
    assert tried(learns)[:7] == tried(chance)[:7]
    assert sum(trial.val_loss or 0 for trial in learns[7:]) < sum(trial.val_loss or 0 for trial in chance[7:])


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    def sometimes(job: Job) -> Score | str:
        return "the loss is not a number" if job.plan.hyperparameters.width == 24 else score(job)

    result = search(section(max_evals=12), sometimes, tmp_path)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert len(result.trials) == 12
    assert failed
    assert all(trial.reason == "the loss is not a number" for trial in failed)
    assert result.best not in failed
    json.dumps(json.loads((tmp_path / STATE).read_text()), allow_nan=False)


def test_when_all_trials_fail_the_cause_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all 2 trials failed, the last because it burst: lower the bounds"):
        search(section(max_evals=2), lambda _: "it burst", tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock in the place of the machine's: it stands until a test sets it."""
    now = [0.0]
    monkeypatch.setattr("stages.hyperopt.search.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("stages.hyperopt.trials.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_time_ends_the_search_and_keeps_what_is_done(tmp_path: Path, clock: list[float]) -> None:
    done = 0

    def slow(job: Job) -> Score | None:
        nonlocal done
        done += 1
        if done <= 2:
            return score(job)
        clock[0] += 0.6
        return None

    result = search(section(timeout=0.5, rungs=[]), slow, tmp_path)
    assert [trial.state for trial in result.trials] == ["finished", "finished"]
    assert not result.is_complete

    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"no trial finished within hyperopt.timeout \(0.1 s\)"):
        search(section(timeout=0.1, rungs=[]), slow, tmp_path / "none")


def out_of_time_after(runs: int, clock: list[float]) -> Callable[[Job], Score | None]:
    """Like `score`, but time is over in the training after `runs` finished ones."""
    left = runs

    def evaluate(job: Job) -> Score | None:
        nonlocal left
        left -= 1
        while left < 0 and not job.is_over():
            clock[0] += 1
        return None if left < 0 else score(job)

    return evaluate


def test_a_search_that_ran_out_of_time_goes_on_in_the_next_run(tmp_path: Path, clock: list[float]) -> None:
    short = section(max_evals=6, timeout=2, rungs=[])
    counts, result = [], search(short, out_of_time_after(2, clock), tmp_path)
    assert not result.is_complete
    while not result.is_complete:
        counts.append(len(result.trials))
        assert len(counts) < 30
        result = search(short, out_of_time_after(2, clock), tmp_path)
    assert counts == sorted(counts)
    assert tried(result.trials) == tried(search(section(max_evals=6, rungs=[]), score, _new(tmp_path / "whole")).trials)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "damage",
    [lambda text: text.replace('"val_loss": 0.', '"val_loss": 9.', 1), lambda text: text[:-20], lambda _: "[]"],
)
def test_kept_trials_that_are_damaged_are_done_again(
    damage: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search(section(max_evals=3), score, tmp_path)
    (tmp_path / STATE).write_text(damage((tmp_path / STATE).read_text()))
    whole = search(section(max_evals=3), score, _new(tmp_path / "whole"))
    again = search(section(max_evals=3), score, tmp_path)
    assert tried(again.trials) == tried(whole.trials)
    assert "the search starts again" in caplog.text


def half_a_batch(job: Job) -> Score:
    return replace(score(job), batch_size=job.plan.hyperparameters.batch_size // 2)


def test_a_trial_that_ran_with_half_a_batch_says_so_and_so_does_the_best(tmp_path: Path) -> None:
    found = search(section(max_evals=6, batch_size=[64], rungs=[]), half_a_batch, tmp_path)
    assert {trial.hyperparameters["batch_size"] for trial in found.trials} == {32}
    assert found.best.hyperparameters["batch_size"] == 32


def test_all_trainings_together_keep_to_a_number_of_epochs_on_any_number_of_workers(tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        found.append(search(section(max_evals=99), score_at_any_time, tmp_path / str(workers), workers, epochs=50))
    assert timeless(found[0].trials) == timeless(found[1].trials)
    assert 44 < sum(trial.epochs for trial in found[0].trials) <= 50
    assert found[0].is_complete


def test_the_time_before_a_kill_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        search(section(rungs=[], max_evals=16), killed_after(1), tmp_path)
    saved = json.loads((tmp_path / STATE).read_text())
    kept = {"runs": saved["runs"], "seconds": 3601}
    (tmp_path / STATE).write_text(json.dumps(kept | {"sha256": json_digest(kept)}))
    result = search(section(rungs=[], max_evals=16), score, tmp_path)
    assert len(result.trials) == 1
    assert not result.is_complete
    assert "hyperopt.timeout (3600 s) ended the search after 1 of 16 trials" in caplog.text


def test_what_mattered_is_told_and_that_a_few_trials_tell_nothing(tmp_path: Path) -> None:
    trials = search(section(max_evals=40, rungs=[], startup_trials=40), score, tmp_path).trials
    importance = measure_importance(trials, 1)
    assert next(iter(importance.shares)) == "learning_rate"
    assert sum(importance.shares.values()) == pytest.approx(1)
    assert measure_importance(trials, 1) == importance
    few = measure_importance(trials[:7], 1)
    assert few.shares == {}
    assert "too few trials (7)" in few.note


def test_the_first_trial_has_the_defaults_of_stage_train() -> None:
    defaults = load_params(TrainParams, ROOT / "params.yaml").train
    assert load_params(Params, ROOT / "params.yaml").hyperopt.first == defaults.hyperparameters()


FIRST = load_params(Params, ROOT / "params.yaml").hyperopt.first.model_copy(update={"width": 8})


def arguments(prepared: Path, out: Path, *settings: str) -> list[str]:
    """A search of a few trials with a tiny network."""
    common = (
        "max_evals=5",
        "epochs=2",
        "rungs=[0.5]",
        "keep=0.34",
        "width=[8]",
        f"first={FIRST.model_dump_json()}",
        "device=cpu",
    )
    words = [word for setting in (*common, *settings) for word in ("--set", f"hyperopt.{setting}")]
    return ["--prepare_train", str(prepared), "--out", str(out), *words]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_prepared(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="module")
def searched(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact of one worker without an interruption."""
    out = tmp_path_factory.mktemp("searched") / "out"
    assert main(STAGE, arguments(prepared, out, "workers=1")) == 0
    return out


def results_in(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "metrics" / "hyperopt_results.json").read_text()))


def test_the_stage_searches_on_real_trainings(searched: Path) -> None:
    results = results_in(searched)
    best = Hyperparameters.model_validate_json((searched / "best_params.json").read_bytes())
    finished = [trial for trial in results["trials"] if trial["state"] == "finished"]
    assert results["evals"] == len(results["trials"]) == 5
    assert results["finished"] + results["stopped"] == 5
    assert results["best"]["val_loss"] == min(trial["val_loss"] for trial in finished)
    assert results["best"]["hyperparameters"] == best.model_dump()
    assert results["trials"][0]["hyperparameters"] == FIRST.complete(SAMPLE_ATTRIBUTES).model_dump()
    assert "too few trials" in results["importance"]["note"]
    for plot in ("trials", "importance"):
        assert (searched / "plots" / f"{plot}.png").stat().st_size > 5_000


def test_a_search_that_is_skipped_gives_the_first_hyperparameters(prepared: Path, tmp_path: Path) -> None:
    assert main(STAGE, arguments(prepared, tmp_path / "out", "max_evals=0")) == 0
    best = json.loads((tmp_path / "out" / "best_params.json").read_text())
    assert best == FIRST.complete(SAMPLE_ATTRIBUTES).model_dump()
    assert results_in(tmp_path / "out")["evals"] == 0


def test_by_balanced_accuracy_the_search_goes_by_the_loss_of_the_classes(
    prepared: Path, searched: Path, tmp_path: Path
) -> None:
    words = arguments(prepared, tmp_path / "out", "max_evals=1", "rungs=[]", "workers=1")
    assert main(STAGE, [*words, "--set", "evaluate.metric=balanced_accuracy", "--set", "evaluate.batch_size=9"]) == 0
    by_class, by_image = results_in(tmp_path / "out"), results_in(searched)
    assert (by_image["metric"], by_class["metric"]) == ("accuracy", "balanced_accuracy")
    label, other = (found["trials"][0] for found in (by_class, by_image))
    assert label["val_mean_balanced_accuracy"] == other["val_mean_balanced_accuracy"]  # the same network
    assert 0 < label["val_mean_balanced_accuracy"] < 1
    assert label["val_loss"] != other["val_loss"]


def test_the_loss_of_the_classes_is_the_loss_of_labels_that_are_equally_frequent() -> None:
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat([0, 1], [900, 100]))
    logits = random.standard_normal((1000, 2)) + np.eye(2)[labels]
    true = np.log([0.9, 0.1])
    shares = np.exp(true)
    balanced = balanced_cross_entropy(logits + true, labels, shares)
    each = [cross_entropy(logits[labels == label], labels[labels == label]) for label in (0, 1)]
    assert balanced == pytest.approx(np.mean(each))
    only_frequent = balanced_cross_entropy(np.tile([5.0, 0.0], (1000, 1)), labels, shares)
    assert only_frequent > balanced  # although the answers are right in nine of ten images
    with_unknown = np.append(labels, [-1, -1])
    more = np.concatenate([logits + true, np.ones((2, 2))])
    assert balanced_cross_entropy(more, with_unknown, shares) == balanced


def test_a_trial_that_goes_on_ends_as_one_trained_at_once(prepared: Path, searched: Path, tmp_path: Path) -> None:
    assert main(STAGE, arguments(prepared, tmp_path / "out", "max_evals=1", "rungs=[]", "workers=1")) == 0
    halved, whole = (results_in(out)["trials"][0] for out in (searched, tmp_path / "out"))
    assert list(halved["val_losses"]) == ["1", "2"]
    assert list(whole["val_losses"]) == ["2"]
    assert halved["val_loss"] == whole["val_loss"]


def interrupt(arguments: list[str], number: signal.Signals) -> int:
    """Run the stage until it has saved something, send it a signal, wait for all its processes; returns its status."""
    command = [sys.executable, "-m", "stages.hyperopt", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    out = Path(arguments[arguments.index("--out") + 1])
    stop_when(process, lambda: list(out.parent.glob(f".state-{out.name}/*/{STATE}")), "that something is saved")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    process.communicate()
    wait_until(lambda: not any(is_running(int(child)) for child in children), "the end of its workers")
    assert not out.exists()
    return process.returncode


def test_sigterm_ends_the_stage_and_its_workers(prepared: Path, tmp_path: Path) -> None:
    assert interrupt(arguments(prepared, tmp_path / "out", "workers=2"), signal.SIGTERM) == 143


def test_a_killed_stage_with_two_workers_resumes_to_what_one_worker_finds(
    prepared: Path, searched: Path, tmp_path: Path
) -> None:
    again = arguments(prepared, tmp_path / "out", "workers=2")
    assert interrupt(again, signal.SIGKILL) == -signal.SIGKILL
    assert main(STAGE, again) == 0
    assert timeless(results_in(tmp_path / "out")["trials"]) == timeless(results_in(searched)["trials"])


def test_time_ends_a_training_after_an_epoch(prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = ("workers=1", "epochs=10000", "timeout=0.5")
    assert main(STAGE, arguments(prepared, tmp_path / "out", *settings)) == 64
    assert "no trial finished within hyperopt.timeout (0.5 s): raise it, or lower hyperopt.epochs" in caplog.text


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("hyperopt.max_evals=-1", "hyperopt.max_evals"),
        ("hyperopt.learning_rate=[0.02, 0.001]", "lower bound first"),
        ("hyperopt.rungs=[1.5]", "hyperopt.rungs"),
        ("hyperopt.weight_decay=[0, 0.1]", "weight_decay: a logarithmic scale needs bounds above 0"),
        ("hyperopt.dropout=[0.2, 0.5]", "first.dropout: 0.1 is outside of the search space 0.2 to 0.5"),
        ("hyperopt.width=[24, 32]", "first.width: 16 is not among [24, 32]"),
        ("hyperopt.batch_size=[16]", "first.batch_size: 64 is not among [16]"),
        ("hyperopt.width=[1, 48]", "width"),
        ("hyperopt.class_balance=[0.0, 2.0]", "class_balance"),
        ("hyperopt.class_balance=[0.5]", "first.class_balance: 0.0 is not among [0.5]"),
    ],
)
def test_a_wrong_search_space_is_named(
    setting: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(STAGE, ["--prepare_train", str(tmp_path), "--out", str(tmp_path / "out"), "--set", setting]) == 64
    assert said in caplog.text
