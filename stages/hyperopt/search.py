"""The search: the next hyperparameters, the trials to train longer, and the loop that runs them.

hyperopt's own loop runs one trial after the other, or many through Spark or MongoDB; it saves by pickle, and resuming
repeats the start-up points, because it does not save the random state. Here hyperopt only proposes trials, and our own
pool of processes runs them.

Early stopping is successive halving. Every trial stops before its end, and only the best share of them continues from
its checkpoint. A rung is useful only late in the one-cycle schedule: while the learning rate is high, the loss hardly
predicts the end of the training. For 24 random settings on 200 faces, 10 epochs, the order by loss after epoch 4, 6, 7
and 8 agrees with the final order by .15, .48, .85 and .96 (Spearman); among the better half after epoch 8 by .84. With
trainings of 4 epochs in a schedule of that length, and full trainings of the better ones, the agreement is .79 and .30.

Only the results of runs 1 to n - `lag` decide run n. So `lag` runs can be under way at a time, no worker waits for the
end of a whole round, and a seed gives the same trials on one core or many, at any speed, and after a kill at any
moment. The randomness of a choice follows from the seed and the run's number, so the finished runs are the whole state.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import hp, tpe
from hyperopt.base import JOB_STATE_DONE, Domain, Trials
from pydantic import TypeAdapter

from stages.common.contract.artifacts import json_digest, write_json
from stages.common.contract.errors import UsageError
from stages.common.contract.logs import log
from stages.common.training.hyperparameters import Hyperparameters
from stages.common.workers.pool import WorkerPool
from stages.hyperopt.params import CHOICES, LOGARITHMIC, RANGES, HyperoptSection
from stages.hyperopt.trials import Job, Plan, Run, Score, Trial, best_trial, flatten, ranked, rungs_of, summarise

STATE = "search.json"
TOLD_EVERY_S = 30.0
"""Seconds between two log lines while no trial ends; a container should log at least once a minute."""


@dataclass(frozen=True)
class Result:
    """The result of a search.

    Attributes:
        trials: in the order of their numbers.
        best: the finished trial with the lowest validation loss.
        is_complete: whether it finished before its timeout.
    """

    trials: list[Trial]
    best: Trial
    is_complete: bool


def next_plan(known: Sequence[Run], pending: Sequence[Plan], section: HyperoptSection) -> Plan | None:
    """Plan the next run, by asynchronous successive halving.

    A trial among the best share `keep` on its rung that is not yet on the next rung continues there; higher rungs come
    first. If there is no such trial, a new trial begins. This is ASHA (Li et al. 2020, https://arxiv.org/abs/1810.05934)
    after Jamieson and Talwalkar 2016 (https://arxiv.org/abs/1502.07943), except that the share is rounded up, so the
    first trial is always trained in full.

    Args:
        known: finished runs that decide.
        pending: later runs.
        section: search space, rungs and seed.

    Returns:
        None if all trials have begun and none is worth continuing.
    """
    plans = [*(run.plan for run in known), *pending]
    number = len(plans) + 1
    rungs = rungs_of(section)
    for fewer, more in reversed(list(itertools.pairwise(rungs))):
        on_rung = sorted(
            (run.score.val_loss, run.plan.trial, run) for run in known if run.score and run.plan.epochs == fewer
        )
        promoted = {plan.trial for plan in plans if plan.epochs == more}
        for _, trial, run in on_rung[: math.ceil(section.keep * len(on_rung))]:
            if trial not in promoted:
                return Plan(number, trial, fewer, more, run.plan.hyperparameters)
    trials = {plan.trial for plan in plans}
    if len(trials) == section.max_evals:
        return None
    told = {run.plan.trial for run in known}
    untold = [plan.hyperparameters for plan in pending if plan.trial not in told]
    return Plan(number, len(trials) + 1, 0, rungs[0], suggest(summarise(known, section), untold, number, section))


def _space(section: HyperoptSection) -> dict[str, Any]:
    def log_uniform(label: str, bounds: Sequence[float]) -> Any:
        return hp.loguniform(label, *np.log(bounds))

    weights = [f"loss_weights.{name}" for name in section.first.loss_weights]
    return {
        **{label: log_uniform(label, getattr(section, label)) for label in LOGARITHMIC},
        "dropout": hp.uniform("dropout", *section.dropout),
        **{label: hp.choice(label, getattr(section, label)) for label in CHOICES},
        **{label: log_uniform(label, section.loss_weight) for label in weights},
    }


def suggest(
    known: Sequence[Trial], pending: Sequence[Hyperparameters], number: int, section: HyperoptSection
) -> Hyperparameters:
    """Propose the next trial: the tree-structured Parzen estimator of Bergstra et al. 2011, as hyperopt implements it.

    https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization. It only needs the best trials, so
    their places serve as losses. The first trial is given, and the next are random until `section.startup_trials` are
    known.

    Args:
        known: finished trials.
        pending: hyperparameters of trials that have begun since then. They count as bad until they are known; else all
            trials would be at nearly the same place ("constant liar", Ginsbourger et al. 2010).
        number: of the run; it decides the randomness, together with the section's seed.
        section: search space and seed.
    """
    if not known and not pending:
        return section.first
    domain = Domain(None, _space(section))
    past = Trials()
    tried = [(trial.hyperparameters, place) for trial, place in zip(known, ranked(known), strict=True)]
    tried += [(plan.model_dump(), math.inf) for plan in pending]
    for at, (hyperparameters, place) in enumerate(tried, 1):
        flat = flatten(hyperparameters)
        flat |= {label: _nearest(getattr(section, label), flat[label]) for label in CHOICES}  # positions
        misc = {
            "tid": at,
            "cmd": domain.cmd,
            "workdir": None,
            "idxs": {label: [at] for label in flat},
            "vals": {label: [value] for label, value in flat.items()},
        }
        (document,) = past.new_trial_docs([at], [None], [{"status": "ok", "loss": place}], [misc])
        past.insert_trial_doc(document | {"state": JOB_STATE_DONE})
    past.refresh()
    is_startup = len(known) < section.startup_trials
    seed = int(np.random.default_rng([section.seed, number]).integers(2**31 - 1))
    (document,) = tpe.suggest(
        [len(tried) + 1], domain, past, seed, n_startup_jobs=len(tried) + 1 if is_startup else 0, verbose=False
    )
    values = {label: values[0] for label, values in document["misc"]["vals"].items()}
    chosen: dict[str, Any] = {label: _within(values[label], getattr(section, label)) for label in RANGES}
    chosen |= {label: getattr(section, label)[int(values[label])] for label in CHOICES}
    weights = {
        name: _within(values[f"loss_weights.{name}"], section.loss_weight) for name in section.first.loss_weights
    }
    return Hyperparameters(**chosen, loss_weights=weights)


def _nearest(choices: Sequence[float], value: float) -> int:
    """Position of the choice nearest to a value: half a batch may not be among the choices."""
    return min(range(len(choices)), key=lambda at: abs(choices[at] - value))


def _as_run(plan: Plan, score: Score | None) -> Plan:
    """The plan with the batch size that was used."""
    if score is None or score.batch_size in {None, plan.hyperparameters.batch_size}:
        return plan
    return replace(plan, hyperparameters=plan.hyperparameters.model_copy(update={"batch_size": score.batch_size}))


def _within(value: float, bounds: Sequence[float]) -> float:
    """Clip a value to its bounds: rounding of exp(log(bound)) may step over them."""
    return float(min(max(value, bounds[0]), bounds[1]))


def search(
    section: HyperoptSection,
    evaluate: Callable[[Job], Score | str | None],
    state: Path,
    workers: int = 1,
    epochs: float = math.inf,
) -> Result:
    """Run trials until there are `section.max_evals` or `section.timeout` seconds have passed.

    Args:
        section: search space and limits; its first trial names the loss weight of every attribute.
        evaluate: trains, and returns the score, or a text with the cause of a failure, or None if the time was over. It
            is called in other processes.
        state: a folder that outlives a kill; runs are saved there after each run.
        workers: greatest number of parallel runs; more than `section.lag` are useless.
        epochs: limit of epochs of all runs together, which does not depend on the machine.

    Returns:
        The trials, at least one of which finished.

    Raises:
        UsageError: no trial finished in time, or all failed.
        UnavailableError: a worker was killed from outside.
    """
    runs, spent = _load(state / STATE)
    started = time.monotonic() - spent
    deadline = started + section.timeout

    def plan(number: int) -> Plan | None:
        """Plan of run `number`, from the runs that decide it; None if these have not ended, or at the end."""
        for count in range(max(0, number - section.lag), number):
            if any(run not in runs for run in range(1, count + 1)):
                return None
            known = [runs[run] for run in range(1, count + 1)]
            pending = [runs[run].plan if run in runs else under_way[run] for run in range(count + 1, number)]
            if found := next_plan(known, pending, section):
                plans = [*(run.plan for run in known), *pending, found]
                return found if sum(plan.epochs - plan.after for plan in plans) <= epochs else None
        return None

    running: dict[Future[Score | str | None], tuple[Job, float]] = {}
    told = time.monotonic()
    with WorkerPool(min(workers, section.lag), "hyperopt.workers") as pool:
        while True:
            under_way = {job.plan.run: job.plan for job, _ in running.values()}
            number = next(free for free in itertools.count(1) if free not in runs and free not in under_way)
            has_room = len(running) < pool.workers and time.monotonic() < deadline
            if has_room and (found := plan(number)):
                slot = min(set(range(pool.workers)) - {job.slot for job, _ in running.values()})
                job = Job(found, deadline, slot, state)
                began = time.monotonic()
                running[pool.submit(evaluate, job)] = job, began
                continue
            if not running:
                break
            for future in pool.done(running):
                job, began = running.pop(future)
                if result := future.result():
                    score, failure = (None, result) if isinstance(result, str) else (result, "")
                    run = Run(_as_run(job.plan, score), score, failure, round(time.monotonic() - began, 3))
                    runs[run.plan.run] = run
                    _save(state / STATE, runs, time.monotonic() - started)
                    job.checkpoint(job.plan.after).unlink(missing_ok=True)
                    if failure or job.plan.epochs == section.epochs:
                        job.checkpoint(job.plan.epochs).unlink(missing_ok=True)
                    _tell(run, section)
                    told = time.monotonic()
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                log.info("training trials %s", ", ".join(str(job.plan.trial) for job, _ in running.values()))
        is_complete = plan(number) is None
    if not is_complete:  # the next search with this state has its own time
        _save(state / STATE, runs, 0)
    return _checked(summarise(list(runs.values()), section), section, is_complete)


def _load(file: Path) -> tuple[dict[int, Run], float]:
    """Runs by number, and the seconds of the search; empty if the file is damaged."""
    if not file.exists():
        return {}, 0.0
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if saved.pop("sha256") != json_digest(saved):
            raise ValueError("its digest differs")  # noqa: TRY301
        runs, seconds = TypeAdapter(list[Run]).validate_python(saved["runs"]), float(saved["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s): the search starts again", file, " ".join(str(error).split()))
        return {}, 0.0
    log.info("continuing after %d runs of an interrupted search", len(runs))
    return {run.plan.run: run for run in runs}, seconds


def _save(file: Path, runs: Mapping[int, Run], seconds: float) -> None:
    saved = TypeAdapter(list[Run]).dump_python([runs[number] for number in sorted(runs)])
    told = json.loads(json.dumps({"runs": saved, "seconds": seconds}))
    write_json(file, {**told, "sha256": json_digest(told)})


def _checked(trials: list[Trial], section: HyperoptSection, is_complete: bool) -> Result:
    """Refuse a search without a result, and log that a search has not finished."""
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed and len(failed) == len(trials):
        raise UsageError(
            f"all {len(trials)} trials failed, the last because {failed[-1].reason}: lower the bounds of "
            "hyperopt.learning_rate and hyperopt.muon_learning_rate"
        )
    best = best_trial(trials)
    if best is None:
        raise UsageError(
            f"no trial finished within hyperopt.timeout ({section.timeout:g} s): raise it, or lower hyperopt.epochs"
        )
    if not is_complete:
        log.warning(
            "hyperopt.timeout (%g s) ended the search after %d of %d trials; the next run continues it",
            section.timeout, len(trials), section.max_evals,
        )  # fmt: skip
    return Result(trials, best, is_complete)


def _tell(run: Run, section: HyperoptSection) -> None:
    flat = run.plan.hyperparameters.model_dump(exclude={"loss_weights"})
    shown = " ".join(f"{key} {value:.3g}" for key, value in flat.items())
    which = f"trial {run.plan.trial} of {section.max_evals}, {run.plan.epochs} epochs"
    if run.score is None:
        log.warning("%s: failed: %s (%s)", which, run.failure, shown)
    else:
        log.info(
            "%s: validation loss %.4f, accuracy %.4f, balanced %.4f, %.0f s (%s)",
            which, run.score.val_loss, run.score.val_mean_accuracy,
            math.nan if run.score.val_mean_balanced_accuracy is None else run.score.val_mean_balanced_accuracy,
            run.seconds, shown,
        )  # fmt: skip
