"""The plots of the search."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from stages.hyperopt.importance import Importance
from stages.hyperopt.trials import Trial

SHOWN = (
    ("muon_learning_rate", "learning rate, Muon", "log"),
    ("learning_rate", "learning rate, AdamW", "log"),
    ("weight_decay", "weight decay", "log"),
    ("dropout", "dropout", "linear"),
    ("width", "width", "linear"),
    ("batch_size", "batch size", "linear"),
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
    """Validation loss per trial with the best so far, by epochs, and against six of the hyperparameters."""
    worst = max(trial.val_loss for trial in trials if trial.val_loss is not None)
    height = {trial.number: worst if trial.val_loss is None else trial.val_loss for trial in trials}
    finished = [trial.number for trial in trials if trial.state == "finished"]

    figure = Figure(figsize=(11, 6.5), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 18, height_ratios=(1.2, 1))
    axes, curves = figure.add_subplot(grid[0, :12]), figure.add_subplot(grid[0, 12:])
    row = [figure.add_subplot(grid[1, 3 * at : 3 * at + 3]) for at in range(len(SHOWN))]
    so_far = list(accumulate((height[number] for number in finished), min))
    axes.step(finished, so_far, where="post", color="#efb118", label="best so far")
    for state, (marker, color) in MARKS.items():
        chosen = [trial for trial in trials if trial.state == state]
        if chosen:
            heights = [height[trial.number] for trial in chosen]
            axes.plot([trial.number for trial in chosen], heights, marker, color=color, label=state)
            for panel, (key, _, _) in zip(row, SHOWN, strict=True):
                panel.plot([trial.hyperparameters[key] for trial in chosen], heights, marker, color=color, alpha=0.8)
    axes.plot([best.number], [height[best.number]], **BEST, label=f"chosen (trial {best.number})")
    for trial in trials:
        marker, color = MARKS[trial.state]
        color, width, order = ("#222", 2, 3) if trial is best else (color, 1, 2)
        losses = trial.val_losses
        curves.plot(list(losses), list(losses.values()), marker=marker, color=color, linewidth=width, zorder=order)

    axes.set_xlabel("trial")
    curves.set_xlabel("epochs of the training")
    for panel in (axes, curves):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    row[0].set_ylabel("validation loss, nats")
    axes.set_title("Validation loss of the trials after calibration, nats", loc="left", fontsize=11, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    for panel, (key, title, scale) in zip(row, SHOWN, strict=True):
        panel.set_xscale(scale)
        if scale == "log":
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.plot([best.hyperparameters[key]], [height[best.number]], **BEST)
        panel.set_xlabel(title)
    for panel in (axes, curves, *row):
        panel.set_yscale("log")
        panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        panel.yaxis.set_major_formatter("{x:.4g}")
        panel.yaxis.set_minor_formatter("{x:.4g}")
        if panel not in (axes, row[0]):
            panel.sharey(axes if panel is curves else row[0])
            panel.tick_params(labelleft=False, which="both")
        panel.grid(color="#e5e5e5", which="both", axis="y")
        panel.grid(color="#e5e5e5", axis="x")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def plot_note(path: Path, note: str) -> None:
    """A line in place of a plot, for a search that was skipped."""
    figure = Figure(figsize=(9, 1.2), dpi=120)
    figure.text(0.02, 0.5, note)
    figure.savefig(path)


def plot_importance(path: Path, importance: Importance) -> None:
    """Share of the importance per hyperparameter, or why it is unknown."""
    figure = Figure(figsize=(9, 1.2 + 0.21 * len(importance.shares)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("How much each hyperparameter mattered", loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    if importance.shares:
        labels = [label.replace("_", " ").replace(".", ": ") for label in importance.shares]
        bars = axes.barh(labels, [100 * share for share in importance.shares.values()], color="#4269d0")
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel(f"share, %  ({importance.note})")
    else:
        axes.axis("off")
        axes.text(0, 0.5, importance.note, transform=axes.transAxes)
    figure.savefig(path)
