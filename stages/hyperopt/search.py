"""The search: which hyperparameters to try next, which trials to give up early, and the loop that runs them.

hyperopt's own loop runs one trial after the other, or many through Spark or MongoDB; it saves by pickle, and resuming
repeats the start-up points, for it does not keep the random state. Here hyperopt is only asked what to try, and our own
pool of processes runs it.

Trial n is chosen, and given up, by what trials 1 to n - `lag` gave and by nothing else. So `lag` trials can be under
way at a time, no worker waits for a whole round to end, and a seed gives the same trials on one core or many, at any
speed, and after a kill at any moment. What is random in a trial follows from the seed and its number, so that the
trials that have ended are all the state there is.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import hp, tpe
from hyperopt.base import JOB_STATE_DONE, Domain, Trials

from stages.common.artifacts import write_json
from stages.common.attributes import NAMES
from stages.common.errors import UsageError
from stages.common.hyperparameters import Hyperparameters
from stages.common.logs import log
from stages.common.pool import WorkerPool
from stages.hyperopt.params import HyperoptSection

STATE = "search.json"
MIN_COMPARED = 4
"""Earlier trials at the same epoch without which none is given up: the worse half of fewer says little."""
TOLD_EVERY_S = 30.0
"""Seconds between two log lines while no trial ends; a container should tell something at least once a minute."""


@dataclass(frozen=True)
class Score:
    """How good a trial's network is on the validation split after an epoch.

    Attributes:
        val_mean_accuracy: mean over attributes, 0-1.
        val_loss: cross-entropy in nats, unweighted mean over attributes.
    """

    val_mean_accuracy: float
    val_loss: float

    @property
    def loss(self) -> float:
        """What the search minimises.

        Errors first. A hundred labels allow a hundred accuracies only, so a tenth of the cross-entropy decides
        between trials that are about equal.
        """
        return 1 - self.val_mean_accuracy + 0.1 * self.val_loss


@dataclass(frozen=True)
class Job:
    """What a worker is to try.

    Attributes:
        hyperparameters: to train with.
        limits: epoch -> the loss above which the trial is given up there.
        deadline: when the search's time is over, by `time.monotonic`, which all processes of a machine share.
        slot: 0 to workers - 1; no two trials that run at a time have the same.
    """

    hyperparameters: Hyperparameters
    limits: Mapping[int, float]
    deadline: float
    slot: int

    def is_over(self) -> bool:
        """Whether the search's time is over."""
        return time.monotonic() > self.deadline


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes:
        scores: after each of its epochs.
        failure: why it failed, else empty.
    """

    scores: Sequence[Score]
    failure: str = ""


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: 1 for the first.
        hyperparameters: as in best_params.json.
        state: finished, stopped (given up early) or failed.
        reason: why it stopped or failed, else empty.
        losses: what the search minimises, after each epoch.
        loss: the last of them; None if the trial failed.
        val_mean_accuracy: likewise, 0-1.
        val_loss: likewise, nats.
        seconds: it took.
    """

    number: int
    hyperparameters: dict[str, Any]
    state: str
    reason: str
    losses: list[float]
    loss: float | None
    val_mean_accuracy: float | None
    val_loss: float | None
    seconds: float


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the lowest loss, None if there is none."""
    finished = [(trial.loss, trial.number, trial) for trial in trials if trial.state == "finished"]
    return min(finished)[2] if finished else None


def loss_limits(trials: Sequence[Trial], section: HyperoptSection) -> dict[int, float]:
    """Epoch -> the loss above which a trial is given up there, once enough earlier `trials` have come so far.

    Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943) that waits for nobody, as in ASHA
    (Li et al. 2020, https://arxiv.org/abs/1810.05934): who is not among the best share `keep` of those that reached the
    rung ends there. With one half that is the median rule of Vizier (Golovin et al. 2017).
    """
    limits = {}
    for rung in section.rungs:
        epoch = max(1, round(rung * section.epochs))
        losses = sorted(trial.losses[epoch - 1] for trial in trials if len(trial.losses) >= epoch)
        if epoch < section.epochs and len(losses) >= MIN_COMPARED:
            limits[epoch] = losses[math.ceil(section.keep * len(losses)) - 1]
    return limits


def _space(section: HyperoptSection) -> dict[str, Any]:
    def log_uniform(label: str, bounds: Sequence[float]) -> Any:
        return hp.loguniform(label, *np.log(bounds))

    return {
        "learning_rate": log_uniform("learning_rate", section.learning_rate),
        "muon_learning_rate": log_uniform("muon_learning_rate", section.muon_learning_rate),
        "weight_decay": log_uniform("weight_decay", section.weight_decay),
        "dropout": hp.uniform("dropout", *section.dropout),
        "width": hp.choice("width", section.width),
        **{f"loss_weights.{name}": log_uniform(f"loss_weights.{name}", section.loss_weight) for name in NAMES},
    }


def flatten(hyperparameters: Mapping[str, Any]) -> dict[str, float]:
    """Label -> value, those of the loss weights as `loss_weights.<attribute>`."""
    flat = {key: value for key, value in hyperparameters.items() if key != "loss_weights"}
    return flat | {f"loss_weights.{name}": hyperparameters["loss_weights"][name] for name in NAMES}


def suggest(
    known: Sequence[Trial], pending: Sequence[Hyperparameters], number: int, section: HyperoptSection
) -> Hyperparameters:
    """What to try next: the tree-structured Parzen estimator of Bergstra et al. 2011, as hyperopt implements it.

    https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization. The first trial is given, and the
    next are random until `section.startup_trials` are known.

    Args:
        known: the earlier trials to learn from; those that failed count as infinitely bad.
        pending: what is tried since then. It counts as bad until it is known, or else all would be tried at nearly the
            same place ("constant liar", Ginsbourger et al. 2010).
        number: of the trial.
        section: search space and seed.
    """
    if number == 1:
        return section.first
    domain = Domain(None, _space(section))
    past = Trials()
    tried = [(trial.hyperparameters, trial.loss) for trial in known] + [(one.model_dump(), None) for one in pending]
    for at, (hyperparameters, loss) in enumerate(tried, 1):
        flat = flatten(hyperparameters)
        flat["width"] = section.width.index(hyperparameters["width"])  # hyperopt counts the choices
        misc = {
            "tid": at,
            "cmd": domain.cmd,
            "workdir": None,
            "idxs": {label: [at] for label in flat},
            "vals": {label: [value] for label, value in flat.items()},
        }
        result = {"status": "ok" if loss is not None else "fail", "loss": loss}
        (document,) = past.new_trial_docs([at], [None], [result], [misc])
        past.insert_trial_doc(document | {"state": JOB_STATE_DONE})
    past.refresh()
    is_startup = len(known) < section.startup_trials
    seed = int(np.random.default_rng([section.seed, number]).integers(2**31 - 1))
    (document,) = tpe.suggest(
        [len(tried) + 1], domain, past, seed, n_startup_jobs=len(tried) + 1 if is_startup else 0, verbose=False
    )
    values = {label: values[0] for label, values in document["misc"]["vals"].items()}
    return Hyperparameters(
        learning_rate=_within(values["learning_rate"], section.learning_rate),
        muon_learning_rate=_within(values["muon_learning_rate"], section.muon_learning_rate),
        weight_decay=_within(values["weight_decay"], section.weight_decay),
        dropout=_within(values["dropout"], section.dropout),
        width=section.width[int(values["width"])],
        loss_weights={name: _within(values[f"loss_weights.{name}"], section.loss_weight) for name in NAMES},
    )


def _within(value: float, bounds: Sequence[float]) -> float:
    """Rounding of exp(log(bound)) may step over the bound."""
    return float(min(max(value, bounds[0]), bounds[1]))


def search(
    section: HyperoptSection,
    evaluate: Callable[[Job], Outcome | None],
    state: Path,
    workers: int = 1,
) -> list[Trial]:
    """Run trials until there are `section.max_evals` or `section.timeout` seconds have passed.

    Args:
        section: search space and limits.
        evaluate: trains; gives None if it gave up because time was over. It is called in other processes.
        state: a folder that outlives a kill; the trials are saved there after each one.
        workers: trials that run at a time at most; more than `section.lag` are of no use.

    Returns:
        The trials in their order, at least one of which finished.

    Raises:
        UsageError: no trial finished in time, or all failed.
        UnavailableError: a worker was killed from outside.
    """
    trials, spent = _load(state / STATE)
    started = time.monotonic() - spent
    deadline = started + section.timeout
    chosen: dict[int, Hyperparameters] = {}

    def choose(number: int) -> Hyperparameters:
        if number in trials:
            return Hyperparameters(**trials[number].hyperparameters)
        if number not in chosen:
            known = [trials[one] for one in range(1, number - section.lag + 1)]
            pending = [choose(one) for one in range(max(1, number - section.lag + 1), number)]
            chosen[number] = suggest(known, pending, number, section)
        return chosen[number]

    numbers = range(1, section.max_evals + 1)
    running: dict[Future[Outcome | None], tuple[int, int, float]] = {}
    told = time.monotonic()
    with WorkerPool(min(workers, section.lag, section.max_evals), "hyperopt.workers") as pool:
        while True:
            under_way = {number for number, _, _ in running.values()}
            oldest = next((one for one in numbers if one not in trials), 0)  # all before it have ended
            number = next((one for one in numbers if one not in trials and one not in under_way), 0)
            ready = 0 < number < oldest + section.lag
            if ready and len(running) < pool.workers and time.monotonic() < deadline:
                slot = min(set(range(pool.workers)) - {slot for _, slot, _ in running.values()})
                limits = loss_limits([trials[one] for one in range(1, number - section.lag + 1)], section)
                job = Job(choose(number), limits, deadline, slot)
                began = time.monotonic()
                running[pool.submit(evaluate, job)] = number, slot, began
                continue
            if not running:
                break
            for future in pool.done(running):
                number, _, began = running.pop(future)
                if outcome := future.result():
                    trials[number] = _record(number, choose(number), outcome, section, time.monotonic() - began)
                    _save(state / STATE, trials, time.monotonic() - started)
                    _tell(trials[number], len(trials), section)
                    told = time.monotonic()
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                shown = ", ".join(str(number) for number, _, _ in running.values())
                log.info("%d of %d trials have ended, running: %s", len(trials), section.max_evals, shown)
    return _checked([trials[number] for number in sorted(trials)], section)


def _load(file: Path) -> tuple[dict[int, Trial], float]:
    """Trials by number, and the seconds that the search has taken."""
    if not file.exists():
        return {}, 0.0
    saved = json.loads(file.read_text(encoding="utf-8"))
    trials = {trial["number"]: Trial(**trial) for trial in saved["trials"]}
    log.info("going on after %d trials of an interrupted search", len(trials))
    return trials, saved["seconds"]


def _save(file: Path, trials: Mapping[int, Trial], seconds: float) -> None:
    write_json(file, {"trials": [asdict(trials[number]) for number in sorted(trials)], "seconds": seconds})


def _record(number: int, chosen: Hyperparameters, outcome: Outcome, section: HyperoptSection, seconds: float) -> Trial:
    state, reason = ("failed", outcome.failure) if outcome.failure else ("finished", "")
    epochs = len(outcome.scores)
    if not outcome.failure and epochs < section.epochs:
        state = "stopped"
        reason = (
            f"after {epochs} of {section.epochs} epochs not among the best {section.keep:.0%} of the earlier trials"
        )
    last = outcome.scores[-1] if state != "failed" else None
    return Trial(
        number=number,
        hyperparameters=chosen.model_dump(),
        state=state,
        reason=reason,
        losses=[score.loss for score in outcome.scores],
        loss=last.loss if last else None,
        val_mean_accuracy=last.val_mean_accuracy if last else None,
        val_loss=last.val_loss if last else None,
        seconds=round(seconds, 3),
    )


def _checked(trials: list[Trial], section: HyperoptSection) -> list[Trial]:
    """Refuse a search without a result, and tell one that did not come to its end."""
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed and len(failed) == len(trials):
        raise UsageError(
            f"all {len(trials)} trials failed, the last because {failed[-1].reason}: lower the bounds of "
            "hyperopt.learning_rate and hyperopt.muon_learning_rate"
        )
    if best_trial(trials) is None:
        raise UsageError(
            f"no trial finished within hyperopt.timeout ({section.timeout:g} s): raise it, or lower hyperopt.epochs"
        )
    if len(trials) < section.max_evals:
        log.warning(
            "hyperopt.timeout (%g s) ended the search after %d of %d trials", section.timeout, len(trials),
            section.max_evals,
        )  # fmt: skip
    return trials


def _tell(trial: Trial, ended: int, section: HyperoptSection) -> None:
    shown = " ".join(f"{key} {value:.3g}" for key, value in trial.hyperparameters.items() if key != "loss_weights")
    if trial.state == "failed":
        log.warning("trial %d failed: %s (%s)", trial.number, trial.reason, shown)
        return
    log.info(
        "trial %d %s (%d of %d): validation accuracy %.4f, loss %.4f, %.0f s (%s)%s",
        trial.number, trial.state, ended, section.max_evals, trial.val_mean_accuracy, trial.loss, trial.seconds, shown,
        f": {trial.reason}" if trial.reason else "",
    )  # fmt: skip
