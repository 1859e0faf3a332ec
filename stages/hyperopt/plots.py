"""The picture of the search."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from stages.hyperopt.search import Trial

SHOWN = (("learning_rate", "learning rate", "log"), ("weight_decay", "weight decay", "log"),
         ("dropout", "dropout", "linear"), ("width", "width", "linear"))  # fmt: skip


def plot_trials(path: Path, trials: Sequence[Trial], best: Trial) -> None:
    """Validation accuracy per trial with the best so far, and against four of the hyperparameters."""
    finished = [(trial, 100 * trial.val_mean_accuracy) for trial in trials if trial.val_mean_accuracy is not None]
    failed = [trial for trial in trials if trial.val_mean_accuracy is None]
    numbers = [trial.number for trial, _ in finished]
    values = [value for _, value in finished]
    floor = min(values)

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, len(SHOWN), height_ratios=(1.2, 1))
    axes = figure.add_subplot(grid[0, :])
    axes.step(numbers, list(accumulate(values, max)), where="post", color="#efb118", label="best so far")
    axes.plot(numbers, values, "o", color="#4269d0", label="trial")
    if failed:
        axes.plot([trial.number for trial in failed], [floor] * len(failed), "x", color="#ff725c", label="failed")
    axes.plot([best.number], [100 * (best.val_mean_accuracy or 0)], "o", markersize=11, markerfacecolor="none",
              color="#222", label=f"chosen (trial {best.number})")  # fmt: skip
    axes.set_xlabel("trial")
    axes.set_ylabel("mean accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Validation accuracy of the trials", loc="left", fontsize=11, fontweight="bold")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False)
    row = [figure.add_subplot(grid[1, column], sharey=axes) for column in range(len(SHOWN))]
    for one, (key, title, scale) in zip(row, SHOWN, strict=True):
        one.set_xscale(scale)
        if scale == "log":
            one.xaxis.set_minor_formatter(NullFormatter())
        one.plot([trial.hyperparameters[key] for trial, _ in finished], values, "o", color="#4269d0", alpha=0.8)
        one.plot([trial.hyperparameters[key] for trial in failed], [floor] * len(failed), "x", color="#ff725c")
        one.plot([best.hyperparameters[key]], [100 * (best.val_mean_accuracy or 0)], "o", markersize=11,
                 markerfacecolor="none", color="#222")  # fmt: skip
        one.set_xlabel(title)
    for one in row[1:]:
        one.tick_params(labelleft=False)
    row[0].set_ylabel("mean accuracy, %")
    for one in (axes, *row):
        one.grid(color="#e5e5e5")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
