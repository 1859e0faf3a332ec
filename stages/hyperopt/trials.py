"""Runs and trials of a search, without an import of hyperopt, which takes a worker 1 s."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.training.hyperparameters import Hyperparameters
from stages.hyperopt.params import HyperoptSection


@dataclass(frozen=True)
class Score:
    """The quality of a network on the validation split after its last epoch.

    The search minimises the cross-entropy, because a hundred images allow too few different accuracies. For 9 networks
    on the faces, the order by accuracy on 100 images agrees with the order by accuracy on 300 others by 0.07 (Spearman,
    mean of 400 draws), and the order by cross-entropy by 0.32. It is computed after temperature scaling, as in the
    model of stage train: for 60 random settings, the order by it on 200 faces agrees with the order by accuracy on 500
    others by 0.93, and without scaling by 0.70, because a right network may be too sure, or not sure enough.

    In balanced accuracy a rare class counts as much as a frequent one. So the cross-entropy is then the mean over
    classes, with probabilities as if all classes were equally frequent
    (`stages.hyperopt.training.balanced_cross_entropy`).

    Attributes:
        val_mean_accuracy: mean over attributes, 0-1.
        val_mean_balanced_accuracy: likewise; None if no attribute has labels of two classes.
        val_loss: cross-entropy in nats after temperature scaling, unweighted mean over attributes.
        batch_size: used batch size, half of the plan's if GPU memory did not suffice; None if it is the plan's.
    """

    val_mean_accuracy: float
    val_loss: float
    batch_size: int | None = None
    val_mean_balanced_accuracy: float | None = None


@dataclass(frozen=True)
class Plan:
    """A run: a part of a trial's training.

    Attributes:
        run: 1 for the first.
        trial: 1 for the first.
        after: epochs at the end of the trial's last run; 0 for the first run.
        epochs: epochs at its end.
        hyperparameters: of the trial.
    """

    run: int
    trial: int
    after: int
    epochs: int
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Job:
    """A worker's task.

    Attributes:
        plan: the training.
        deadline: end of the search's time, by `time.monotonic`, which all processes of a machine share.
        slot: 0 to workers - 1; parallel runs have different slots.
        folder: for checkpoints; it outlives a kill.
    """

    plan: Plan
    deadline: float
    slot: int
    folder: Path

    def checkpoint(self, epochs: int) -> Path:
        """Checkpoint of the trial after so many epochs; it may be gone."""
        return self.folder / f"trial-{self.plan.trial}-{epochs}.safetensors"

    def is_over(self) -> bool:
        """Whether the search's time is over."""
        return time.monotonic() > self.deadline


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        plan: its plan.
        score: its score, None if it failed.
        failure: cause of a failure, else empty.
        seconds: its duration.
    """

    plan: Plan
    score: Score | None
    failure: str
    seconds: float


@dataclass(frozen=True)
class Trial:
    """The result of all runs of a trial.

    Attributes:
        number: 1 for the first.
        hyperparameters: as in best_params.json.
        state: finished (trained for all epochs), stopped (too low on its rung) or failed.
        reason: why it was stopped or failed, else empty.
        val_losses: epochs at the end of a run -> loss that the search minimises, in nats.
        epochs: epochs at the end of the last run.
        val_loss: after the last run; None if it failed.
        val_mean_accuracy: likewise, 0-1.
        val_mean_balanced_accuracy: likewise.
        seconds: duration of all runs.
    """

    number: int
    hyperparameters: dict[str, Any]
    state: str
    reason: str
    val_losses: dict[int, float]
    epochs: int
    val_loss: float | None
    val_mean_accuracy: float | None
    val_mean_balanced_accuracy: float | None
    seconds: float


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the lowest validation loss, None if there is none."""
    finished = [(trial.val_loss, trial.number, trial) for trial in trials if trial.state == "finished"]
    return min(finished)[2] if finished else None


def rungs_of(section: HyperoptSection) -> list[int]:
    """Epochs at the end of a trial's first, second, ... run."""
    return sorted({*(max(1, round(rung * section.epochs)) for rung in section.rungs), section.epochs})


def summarise(runs: Sequence[Run], section: HyperoptSection) -> list[Trial]:
    """The trials of some runs, in order."""
    rungs = rungs_of(section)
    by_trial: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.plan.trial, run.plan.epochs)):
        by_trial.setdefault(run.plan.trial, []).append(run)
    reached = {epochs: sum(run.plan.epochs == epochs and run.score is not None for run in runs) for epochs in rungs}
    trials = []
    for number, of_trial in by_trial.items():
        plan, score = of_trial[-1].plan, of_trial[-1].score
        state, reason = "finished", ""
        if score is None:
            state, reason = "failed", of_trial[-1].failure
        elif plan.epochs < section.epochs:
            others = [run.score.val_loss for run in runs if run.score and run.plan.epochs == plan.epochs]
            place = 1 + sum(loss < score.val_loss for loss in others)
            state, reason = "stopped", f"place {place} of {reached[plan.epochs]} trials after {plan.epochs} epochs"
        trials.append(
            Trial(
                number=number,
                hyperparameters=plan.hyperparameters.model_dump(),
                state=state,
                reason=reason,
                val_losses={run.plan.epochs: run.score.val_loss for run in of_trial if run.score},
                epochs=plan.epochs,
                val_loss=score.val_loss if score else None,
                val_mean_accuracy=score.val_mean_accuracy if score else None,
                val_mean_balanced_accuracy=score.val_mean_balanced_accuracy if score else None,
                seconds=round(sum(run.seconds for run in of_trial), 3),
            )
        )
    return trials


def ranked(trials: Sequence[Trial]) -> list[float]:
    """Place of each trial, 1 for the best: by epochs, then by loss; infinite if it failed."""
    order = sorted((-trial.epochs, trial.val_loss, trial.number) for trial in trials if trial.val_loss is not None)
    places = {number: float(place) for place, (_, _, number) in enumerate(order, 1)}
    return [places.get(trial.number, math.inf) for trial in trials]


def flatten(hyperparameters: Mapping[str, Any]) -> dict[str, float]:
    """Label -> value, those of the loss weights as `loss_weights.<attribute>`."""
    flat = {key: value for key, value in hyperparameters.items() if key != "loss_weights"}
    return flat | {f"loss_weights.{name}": weight for name, weight in hyperparameters["loss_weights"].items()}
