"""The wiring of stage `hyperopt`: search, write, draw."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from stages.common.contract.artifacts import read_json, write_json
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.schema.attributes import read_attributes
from stages.common.training.hyperparameters import BEST
from stages.hyperopt.params import HyperoptSection, Params

RESULTS = "metrics/hyperopt_results.json"


def complete(section: HyperoptSection, prepared: Path) -> HyperoptSection:
    """The section with a first trial that names the loss weight of every attribute of a prepare_train artifact.

    Raises:
        UsageError: it names an unknown attribute.
    """
    return section.model_copy(update={"first": section.first.complete(read_attributes(prepared))})


def _check(params: Params, inputs: Mapping[str, Path]) -> Headline:
    complete(params.hyperopt, inputs["prepare_train"])
    return {}


def _skip(context: Context[Params], section: HyperoptSection) -> Headline:
    """Use the first trial's hyperparameters without a trial."""
    from stages.hyperopt.plots import plot_note  # not needed for --help

    note = "hyperopt.max_evals is 0: nothing was searched, hyperopt.first is used"
    log.info("%s", note)
    write_json(context.out / BEST, section.first.model_dump())
    write_json(context.out / RESULTS, {"evals": 0, "max_evals": 0, "ended_by_timeout": False, "trials": []})
    for name in ("trials", "importance"):
        plot_note(context.out / "plots" / f"{name}.png", note)
    return {"trials": 0}


def _run(context: Context[Params]) -> Headline:
    # not needed for --help: importing torch takes seconds
    from stages.common.training.device import describe_device, trainings_at_once
    from stages.hyperopt.importance import measure_importance
    from stages.hyperopt.plots import plot_importance, plot_trials
    from stages.hyperopt.search import search
    from stages.hyperopt.training import run_trial
    from stages.hyperopt.trials import rungs_of

    prepared = context.inputs["prepare_train"]
    section = complete(context.params.hyperopt, prepared)
    if not section.max_evals:
        return _skip(context, section)
    context.environment.update(describe_device(section.device))
    workers = trainings_at_once(section.device, section.workers, section.lag)  # any number gives the same result
    log.info(
        "up to %d trials of %s epochs, %d at a time",
        section.max_evals, " or ".join(map(str, rungs_of(section))), workers,
    )  # fmt: skip
    augmentation, metric = context.params.augmentation, context.params.evaluate.metric
    trial = partial(run_trial, prepared, augmentation, section, metric)
    result = search(section, trial, context.state, workers)
    trials, best = result.trials, result.best
    importance = measure_importance(trials, section.seed)
    if importance.note:
        log.info("%s", importance.note)

    counts = {state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed")}
    headline = {
        "trials": len(trials),
        **({} if result.is_complete else {"of": section.max_evals}),
        "stopped": counts["stopped"],
        "failed": counts["failed"],
        "best_val_loss": round(best.val_loss or 0, 4),
        "best_val_accuracy": round(best.val_mean_accuracy or 0, 4),
        "best_val_balanced_accuracy": round(best.val_mean_balanced_accuracy or 0, 4),
    }
    if trials[0].state == "finished":
        headline["first_val_loss"] = round(trials[0].val_loss or 0, 4)
    write_json(context.out / BEST, best.hyperparameters)
    write_json(
        context.out / RESULTS,
        {
            "evals": len(trials),
            **counts,
            "metric": metric,
            "best_val_accuracy": best.val_mean_accuracy,
            "best_val_balanced_accuracy": best.val_mean_balanced_accuracy,
            "max_evals": section.max_evals,
            "ended_by_timeout": not result.is_complete,
            "seconds": round(sum(trial.seconds for trial in trials), 3),
            "importance": asdict(importance),
            "best": asdict(best),
            "trials": [asdict(trial) for trial in trials],
        },
    )
    plot_trials(context.out / "plots" / "trials.png", trials, best)
    plot_importance(context.out / "plots" / "importance.png", importance)
    return headline


def _is_final(artifact: Path) -> bool:
    """Whether the search has finished; after a timeout, its result is used, and the next run continues it."""
    results = read_json(artifact / RESULTS)
    return not results["ended_by_timeout"]


STAGE = Stage(
    name="hyperopt",
    description="Searches learning rates, weight decay, dropout, width, batch size, loss weights with short trainings.",
    params=Params,
    inputs={"prepare_train": Input("artifact of stage prepare_train")},
    outputs={
        "best": (BEST, "the best hyperparameters, for stage train"),
        "metrics": (
            RESULTS,
            "every trial, how it ended, its losses; which parameters mattered",
        ),
        "trials": ("plots/trials.png", "validation loss per trial, by epochs, and against six of the hyperparameters"),
        "importance": ("plots/importance.png", "how much each hyperparameter mattered"),
    },
    run=_run,
    check=_check,
    is_final=_is_final,
    content=(BEST,),
)
