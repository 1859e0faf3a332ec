"""The search: which hyperparameters to try next, and the loop whose finished trials survive a kill.

hyperopt's own loop saves by pickle, and its resumption repeats the start-up points, for it does not keep the random
state. Here hyperopt is asked for one suggestion at a time, from the finished trials and a seed; both are kept as JSON.
"""

import json
import time
from collections.abc import Callable, Sequence
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
from stages.hyperopt.params import HyperoptSection

STATE = "search.json"


@dataclass(frozen=True)
class Score:
    """How good a trial's network is on the validation split.

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
class Trial:
    """A finished trial.

    Attributes:
        number: 1 for the first.
        hyperparameters: as in best_params.json.
        loss: what the search minimises; None if it failed.
        val_mean_accuracy: 0-1; None if it failed.
        val_loss: nats; None if it failed.
        failure: why it failed, else empty.
        seconds: it took.
    """

    number: int
    hyperparameters: dict[str, Any]
    loss: float | None
    val_mean_accuracy: float | None
    val_loss: float | None
    failure: str
    seconds: float


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the lowest loss, None if all failed."""
    finished = [(trial.loss, trial.number, trial) for trial in trials if trial.loss is not None]
    return min(finished)[2] if finished else None


def _space(section: HyperoptSection) -> dict[str, Any]:
    def log_uniform(label: str, bounds: Sequence[float]) -> Any:
        return hp.loguniform(label, *np.log(bounds))

    return {
        "learning_rate": log_uniform("learning_rate", section.learning_rate),
        "weight_decay": log_uniform("weight_decay", section.weight_decay),
        "dropout": hp.uniform("dropout", *section.dropout),
        "width": hp.choice("width", section.width),
        **{f"loss_weights.{name}": log_uniform(f"loss_weights.{name}", section.loss_weight) for name in NAMES},
    }


def _flatten(hyperparameters: dict[str, Any], section: HyperoptSection) -> dict[str, float | int]:
    """Label -> value as hyperopt counts: a choice is its position."""
    flat = {key: value for key, value in hyperparameters.items() if key != "loss_weights"}
    flat |= {f"loss_weights.{name}": hyperparameters["loss_weights"][name] for name in NAMES}
    flat["width"] = section.width.index(flat["width"])
    return flat


def suggest(trials: Sequence[Trial], section: HyperoptSection, seed: int) -> Hyperparameters:
    """What to try next: the tree-structured Parzen estimator of Bergstra et al. 2011, as hyperopt implements it.

    https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization. Failed trials count as infinitely
    bad. The first trial is given, and the next are random until there are `section.startup_trials`.

    Args:
        trials: those finished.
        section: search space.
        seed: of this one suggestion.
    """
    if not trials:
        return section.first
    domain = Domain(None, _space(section))
    past = Trials()
    for trial in trials:
        flat = _flatten(trial.hyperparameters, section)
        misc = {
            "tid": trial.number,
            "cmd": domain.cmd,
            "workdir": None,
            "idxs": {label: [trial.number] for label in flat},
            "vals": {label: [value] for label, value in flat.items()},
        }
        result = {"status": "ok" if trial.loss is not None else "fail", "loss": trial.loss}
        (document,) = past.new_trial_docs([trial.number], [None], [result], [misc])
        past.insert_trial_doc(document | {"state": JOB_STATE_DONE})
    past.refresh()
    (document,) = tpe.suggest(
        [len(trials) + 1], domain, past, seed, n_startup_jobs=section.startup_trials, verbose=False
    )
    values = {label: values[0] for label, values in document["misc"]["vals"].items()}
    return Hyperparameters(
        learning_rate=_within(values["learning_rate"], section.learning_rate),
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
    evaluate: Callable[[Hyperparameters, Callable[[], bool]], Score | str | None],
    state: Path,
) -> list[Trial]:
    """Run trials until there are `section.max_evals` or `section.timeout` seconds have passed.

    Args:
        section: search space and limits.
        evaluate: trains with hyperparameters; gives the score, or text that says why the trial failed, or None if it
            gave up because its second argument told that time is over.
        state: a folder that outlives a kill. Trials and random state are saved there after each trial.

    Returns:
        The finished trials, at least one of which did not fail.

    Raises:
        UsageError: no trial finished in time, or all failed.
    """
    generator = np.random.default_rng(section.seed)
    trials: list[Trial] = []
    spent = 0.0
    file = state / STATE
    if file.exists():
        saved = json.loads(file.read_text(encoding="utf-8"))
        trials = [Trial(**trial) for trial in saved["trials"]]
        spent = saved["seconds"]
        generator.bit_generator.state = saved["random_state"]
        log.info("going on after %d trials of an interrupted search", len(trials))
    started = time.monotonic() - spent

    def is_over() -> bool:
        return time.monotonic() - started > section.timeout

    while len(trials) < section.max_evals and not is_over():
        chosen = suggest(trials, section, int(generator.integers(2**31 - 1)))
        began = time.monotonic()
        score = evaluate(chosen, is_over)
        if score is None:
            break
        trial = Trial(
            number=len(trials) + 1,
            hyperparameters=chosen.model_dump(),
            loss=None if isinstance(score, str) else score.loss,
            val_mean_accuracy=None if isinstance(score, str) else score.val_mean_accuracy,
            val_loss=None if isinstance(score, str) else score.val_loss,
            failure=score if isinstance(score, str) else "",
            seconds=round(time.monotonic() - began, 3),
        )
        trials.append(trial)
        write_json(
            file,
            {
                "trials": [asdict(trial) for trial in trials],
                "random_state": generator.bit_generator.state,
                "seconds": time.monotonic() - started,
            },
        )
        _tell(trial, section.max_evals)
    if not trials:
        raise UsageError(
            f"no trial finished within hyperopt.timeout ({section.timeout:g} s): raise it, or lower hyperopt.epochs"
        )
    if best_trial(trials) is None:
        raise UsageError(
            f"all {len(trials)} trials failed, the last because {trials[-1].failure}: lower the bounds of "
            "hyperopt.learning_rate"
        )
    if len(trials) < section.max_evals:
        log.warning(
            "hyperopt.timeout (%g s) ended the search after %d of %d trials", section.timeout, len(trials),
            section.max_evals,
        )  # fmt: skip
    return trials


def _tell(trial: Trial, total: int) -> None:
    shown = " ".join(f"{key} {value:.3g}" for key, value in trial.hyperparameters.items() if key != "loss_weights")
    if trial.val_mean_accuracy is None:
        log.warning("trial %d of %d failed: %s (%s)", trial.number, total, trial.failure, shown)
    else:
        log.info(
            "trial %d of %d: validation accuracy %.4f, loss %.4f, %.0f s (%s)",
            trial.number, total, trial.val_mean_accuracy, trial.loss, trial.seconds, shown,
        )  # fmt: skip
