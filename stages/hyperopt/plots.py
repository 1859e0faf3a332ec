"""The pictures of the search."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from stages.hyperopt.importance import Importance
from stages.hyperopt.trials import Trial

SHOWN = (
    ("muon_learning_rate", "learning rate, Muon", "log"),
    ("learning_rate", "learning rate, AdamW", "log"),
    ("weight_decay", "weight decay", "log"),
    ("dropout", "dropout", "linear"),
    ("width", "width", "linear"),
)
MARKS = {"finished": ("o", "#4269d0"), "stopped": ("v", "#9498a0"), "failed": ("x", "#ff725c")}
BEST: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "markerfacecolor": "none",
    "color": "#222",
    "linestyle": "none",
}


def plot_trials(path: Path, trials: Sequence[Trial], best: Trial) -> None:
    """Accuracy per trial with the best so far, losses by epochs, and accuracy against five of the hyperparameters."""
    accuracy = {trial.number: 100 * trial.val_mean_accuracy for trial in trials if trial.val_mean_accuracy is not None}
    finished = [accuracy[trial.number] for trial in trials if trial.state == "finished"]
    # A hopeless trial must not squeeze the others together: what lies far below is drawn at the lower edge.
    floor = max(min(accuracy.values()), 2 * min(finished) - max(finished) - 5)
    height = {trial.number: max(accuracy.get(trial.number, floor), floor) for trial in trials}

    figure = Figure(figsize=(10, 6.5), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 15, height_ratios=(1.2, 1))
    axes = figure.add_subplot(grid[0, :10])
    ended = [trial for trial in trials if trial.state == "finished"]
    axes.step([trial.number for trial in ended], list(accumulate((height[trial.number] for trial in ended), max)),
              where="post", color="#efb118", label="best so far")  # fmt: skip
    row = [figure.add_subplot(grid[1, 3 * at : 3 * at + 3], sharey=axes) for at in range(len(SHOWN))]
    for state, (marker, color) in MARKS.items():
        chosen = [trial for trial in trials if trial.state == state]
        if chosen:
            heights = [height[trial.number] for trial in chosen]
            axes.plot([trial.number for trial in chosen], heights, marker, color=color, label=state)
            for one, (key, _, _) in zip(row, SHOWN, strict=True):
                one.plot([trial.hyperparameters[key] for trial in chosen], heights, marker, color=color, alpha=0.8)
    axes.plot([best.number], [height[best.number]], **BEST, label=f"chosen (trial {best.number})")
    axes.set_xlabel("trial")
    axes.set_ylabel("mean accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Validation accuracy of the trials", loc="left", fontsize=11, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)

    curves = figure.add_subplot(grid[0, 10:])
    for trial in trials:
        marker, color = MARKS[trial.state]
        color, width = ("#222", 2) if trial is best else (color, 1)
        curves.plot(list(trial.losses), list(trial.losses.values()), color=color, linewidth=width, marker=marker)
    curves.set_yscale("log")
    curves.yaxis.set_minor_formatter(NullFormatter())
    curves.set_xlabel("epochs")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.set_title("Loss by epochs", loc="left", fontsize=11, fontweight="bold")

    for one, (key, title, scale) in zip(row, SHOWN, strict=True):
        one.set_xscale(scale)
        if scale == "log":
            one.xaxis.set_minor_formatter(NullFormatter())
        one.plot([best.hyperparameters[key]], [height[best.number]], **BEST)
        one.set_xlabel(title)
    for one in row[1:]:
        one.tick_params(labelleft=False)
    row[0].set_ylabel("mean accuracy, %")
    for one in (axes, curves, *row):
        one.grid(color="#e5e5e5")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def plot_importance(path: Path, importance: Importance) -> None:
    """Share of the importance per hyperparameter, or why it cannot be told."""
    figure = Figure(figsize=(9, 3.5 if importance.shares else 1.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("How much each hyperparameter mattered", loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    if importance.shares:
        labels = [label.replace("_", " ").replace(".", ": ") for label in importance.shares]
        bars = axes.barh(labels, [100 * share for share in importance.shares.values()], color="#4269d0")
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.invert_yaxis()
        axes.set_xlabel(f"share, %  ({importance.note})")
    else:
        axes.axis("off")
        axes.text(0, 0.5, importance.note, transform=axes.transAxes)
    figure.savefig(path)
