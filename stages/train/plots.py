"""The curves of a training, and some of its pictures."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.common.images.thumbnails import contact_sheet, for_sheet
from stages.common.reports.figures import names_are_text
from stages.common.schema.attributes import Attributes
from stages.common.schema.dataset import Split
from stages.common.training.augment import augment
from stages.common.training.fit import Epoch, FitSettings

COLORS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2")
LINES = ("-", "--", ":", "-.")
LEGEND_ROWS = 18
CELL = 64
"""Pixels a side of a picture in a sheet, which every version keeps; larger pictures are shrunk."""


def _epoch_axis(axes: Axes, history: Sequence[Epoch]) -> list[int]:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return [epoch.epoch for epoch in history]


def plot_training(path: Path, history: Sequence[Epoch]) -> None:
    """Losses and, below, the learning rate per epoch."""
    figure = Figure(figsize=(7, 5.5), dpi=120, layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    numbers = _epoch_axis(losses, history)
    losses.plot(numbers, [epoch.train_loss for epoch in history], "o-", color=COLORS[0], markersize=3.5, label="train")
    losses.plot(
        numbers, [epoch.val_loss for epoch in history], "o-", color=COLORS[3], markersize=3.5, label="validation"
    )
    losses.set_ylim(bottom=0)
    losses.set_xlabel("")
    losses.set_ylabel("cross-entropy, nats")
    losses.set_title("Loss (train: weighted, smoothed, augmented)", loc="left", fontsize=11, fontweight="bold")
    losses.legend(frameon=False)
    _epoch_axis(rates, history)
    rates.plot(numbers, [epoch.learning_rate for epoch in history], "o-", color=COLORS[4], markersize=3.5)
    rates.set_ylim(bottom=0)
    rates.set_ylabel("learning rate\n(share of peak)")
    figure.savefig(path)


@names_are_text
def plot_accuracy(path: Path, attributes: Attributes, history: Sequence[Epoch]) -> None:
    """Accuracy and, below, balanced accuracy on validation images per epoch, of every attribute and their mean.

    An attribute without known labels has no curve; an attribute with labels of one class has no balanced accuracy.
    """
    columns = math.ceil((len(attributes) + 1) / LEGEND_ROWS)
    figure = Figure(figsize=(7 + 2 * columns, 7), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, title in ((upper, "Validation accuracy (legend: both at the end)"), (lower, "Balanced accuracy")):
        numbers = _epoch_axis(axes, history)
        axes.set_ylabel("right, % of known labels" if axes is upper else "right, %, mean over classes")
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    upper.set_xlabel("")

    def draw(title: str, both: Sequence[tuple[float | None, float | None]], line: str, **style: Any) -> None:
        percent = [[100 * value for value in values if value is not None] for values in zip(*both, strict=True)]
        label = f"{title}  {' / '.join(f'{values[-1]:.1f}' for values in percent if values)}"
        for axes, values in zip((upper, lower), percent, strict=True):
            if values:
                axes.plot(numbers, values, line, label=label, **style)

    styles = itertools.cycle(itertools.product(LINES, COLORS))
    for attribute, (line, color) in zip(attributes, styles, strict=False):
        both = [(epoch.val_accuracy[attribute.name], epoch.val_balanced_accuracy[attribute.name]) for epoch in history]
        draw(attribute.title, both, line, color=color, linewidth=1.2)
    means = [(epoch.val_mean_accuracy, epoch.val_mean_balanced_accuracy) for epoch in history]
    draw("mean", means, "o-", color="#222", markersize=3.5)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right upper", frameon=False, ncols=columns)
    figure.savefig(path)


def plot_pictures(path: Path, train: Split, settings: FitSettings) -> None:
    """Training images as the network sees them once: augmented."""
    torch.manual_seed(settings.seed)
    seen = augment(torch.from_numpy(train.take(for_sheet(len(train)))), settings.augmentation)
    contact_sheet(seen.round().to(torch.uint8).numpy(), CELL).save(path)
