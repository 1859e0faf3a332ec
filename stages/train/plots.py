"""The curves of a training, and the pictures that it learns from."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.common.images.thumbnails import contact_sheet, for_sheet
from stages.common.schema.attributes import Attributes
from stages.common.schema.dataset import Split
from stages.common.training.augment import augment
from stages.common.training.fit import Epoch, FitSettings

COLORS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2")
LINES = ("-", "--", ":", "-.")
LEGEND_ROWS = 18
CELL = 64
"""Pixels a side of a picture in a sheet, which every version keeps; larger ones are shrunk."""


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


def plot_accuracy(path: Path, attributes: Attributes, history: Sequence[Epoch]) -> None:
    """Validation accuracy per epoch, for every attribute and their mean; attributes without known labels have none."""
    columns = math.ceil((len(attributes) + 1) / LEGEND_ROWS)
    figure = Figure(figsize=(7 + 2 * columns, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    numbers = _epoch_axis(axes, history)
    styles = itertools.cycle(itertools.product(LINES, COLORS))
    for attribute, (line, color) in zip(attributes, styles, strict=False):
        values = [epoch.val_accuracy[attribute.name] for epoch in history]
        final = history[-1].val_accuracy[attribute.name]
        if final is not None:
            shown = [100 * value for value in values if value is not None]
            label = f"{attribute.title}  {100 * final:.1f}"
            axes.plot(numbers, shown, line, color=color, linewidth=1.2, label=label)
    mean = [100 * epoch.val_mean_accuracy for epoch in history]
    axes.plot(numbers, mean, "o-", color="#222", markersize=3.5, label=f"mean  {mean[-1]:.1f}")
    axes.set_ylabel("right, % of known labels")
    axes.set_title("Validation accuracy (legend: at the end)", loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right upper", frameon=False, ncols=columns)
    figure.savefig(path)


def plot_pictures(path: Path, train: Split, settings: FitSettings) -> None:
    """Training images as the network sees them once: augmented."""
    torch.manual_seed(settings.seed)
    seen = augment(torch.from_numpy(train.take(for_sheet(len(train)))), settings.augmentation)
    contact_sheet(seen.round().to(torch.uint8).numpy(), CELL).save(path)
