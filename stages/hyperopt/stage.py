"""The wiring of stage `hyperopt`: read, search, write, draw."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from stages.common.artifacts import write_json
from stages.common.dataset import read_split
from stages.common.hyperparameters import Hyperparameters
from stages.common.logs import log
from stages.common.stage import Context, Headline, Input, Stage
from stages.hyperopt.params import Params

if TYPE_CHECKING:
    from stages.hyperopt.search import Score


def _run(context: Context[Params]) -> Headline:
    # not needed for --help: importing torch takes seconds
    from stages.common.fit import DivergedError, FitSettings, fit
    from stages.hyperopt.plots import plot_trials
    from stages.hyperopt.search import Score, best_trial, search

    section = context.params.hyperopt
    train, val = (read_split(context.inputs["prepare_train"], split) for split in ("train", "val"))
    log.info("up to %d trials of %d epochs on %d images", section.max_evals, section.epochs, len(train))

    def evaluate(chosen: Hyperparameters, is_over: Callable[[], bool]) -> "Score | str | None":
        settings = FitSettings(
            hyperparameters=chosen,
            epochs=section.epochs,
            batch_size=section.batch_size,
            patience=section.epochs,
            seed=section.seed,
            device=section.device,
        )
        try:
            result = fit(train, val, settings, on_epoch=lambda _epoch: is_over())
        except DivergedError as error:
            return str(error)
        if len(result.history) < section.epochs:
            return None
        return Score(result.best.val_mean_accuracy, result.best.val_loss)

    trials = search(section, evaluate, context.state)
    best = best_trial(trials)
    assert best is not None  # noqa: S101 (for mypy: search raises)
    first = trials[0].val_mean_accuracy
    headline: dict[str, int | float] = {
        "trials": len(trials),
        "failed": sum(trial.loss is None for trial in trials),
        "best_val_accuracy": round(best.val_mean_accuracy or 0, 4),
    }
    if first is not None:
        headline["improvement"] = round((best.val_mean_accuracy or 0) - first, 4)
    for folder in ("metrics", "plots"):
        (context.out / folder).mkdir()
    write_json(context.out / "best_params.json", best.hyperparameters)
    write_json(
        context.out / "metrics" / "hyperopt_results.json",
        {
            "evals": len(trials),
            "failed": headline["failed"],
            "best_val_accuracy": best.val_mean_accuracy,
            "max_evals": section.max_evals,
            "ended_by_timeout": len(trials) < section.max_evals,
            "seconds": round(sum(trial.seconds for trial in trials), 3),
            "best": asdict(best),
            "trials": [asdict(trial) for trial in trials],
        },
    )
    plot_trials(context.out / "plots" / "trials.png", trials, best)
    return headline


STAGE = Stage(
    name="hyperopt",
    description="Searches learning rate, weight decay, dropout, width and loss weights with short trainings.",
    params=Params,
    inputs={"prepare_train": Input("artifact of stage prepare_train")},
    outputs={
        "best": ("best_params.json", "the best hyperparameters, for stage train"),
        "metrics": ("metrics/hyperopt_results.json", "every trial with hyperparameters, loss, accuracy, seconds"),
        "trials": ("plots/trials.png", "accuracy per trial, and against four of the hyperparameters"),
    },
    run=_run,
)
