"""The plot of the data distribution."""

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.reports.figures import names_are_text
from stages.common.schema.attributes import Attributes
from stages.common.schema.dataset import SPLITS

COLORS = {"train": "#4269d0", "val": "#efb118", "test": "#3ca951"}
BAR = 0.26
COLUMNS = 3
CLASSES_SHOWN = 20
"""Number of classes of an attribute that are drawn, the most frequent ones."""
UPRIGHT = 6
"""Greatest number of classes whose names, and counts on bars, fit side by side."""


def _short(count: int) -> str:
    """At most four characters, so that the labels of neighbouring bars do not touch."""
    return str(count) if count < 1000 else f"{count / 1000:.2g}k" if count < 10_000 else f"{count / 1000:.0f}k"


def _draw_shares(axes: Axes, title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Grouped bars: per class, the share of each split's known labels; the title has the unknown labels."""
    totals = {name: sum(counts[split][name] for split in SPLITS) for name in counts["train"] if name != "unknown"}
    most = sorted(totals, key=lambda name: -totals[name])[:CLASSES_SHOWN]
    classes = [name for name in totals if name in most]
    for position, split in enumerate(SPLITS):
        known = sum(counts[split][name] for name in totals)
        shares = [100 * counts[split][name] / max(1, known) for name in classes]
        bars = axes.bar(
            [number + (position - 1) * BAR for number in range(len(classes))],
            shares,
            width=BAR * 0.92,
            color=COLORS[split],
            label=split,
        )
        if len(classes) <= UPRIGHT:
            labels = [_short(counts[split][name]) for name in classes]
            axes.bar_label(bars, labels=labels, fontsize=6.5, color="#555", padding=1)
    unknown = sum(counts[split]["unknown"] for split in SPLITS)
    told = [f"{len(classes)} of {len(totals)} classes"] if len(totals) > len(classes) else []
    told += [f"{unknown} unknown"] if unknown else []
    axes.set_title(title + (f"  ({', '.join(told)})" if told else ""), loc="left", fontsize=10, fontweight="bold")
    axes.set_xticks(range(len(classes)), [name if len(name) <= 10 else name[:9] + "…" for name in classes])
    if len(classes) > UPRIGHT:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("share of known labels, %", fontsize=8)
    axes.margins(y=0.12)


def _draw_lots(axes: Axes, lots: Mapping[str, Mapping[str, int]]) -> None:
    """Stacked bars: images per lot, by split; beyond 12 lots only the last are drawn."""
    shown = sorted(lots)[-12:]
    base = [0] * len(shown)
    for split in SPLITS:
        heights = [lots[lot][split] for lot in shown]
        axes.bar(range(len(shown)), heights, bottom=base, width=0.7, color=COLORS[split], label=split)
        base = [low + high for low, high in zip(base, heights, strict=True)]
    axes.set_title(
        "Images per lot" + (f"  (last 12 of {len(lots)})" if len(lots) > 12 else ""),
        loc="left",
        fontsize=10,
        fontweight="bold",
    )
    axes.set_xticks(range(len(shown)), [lot if len(lot) <= 10 else lot[:9] + "…" for lot in shown])
    axes.set_ylabel("images", fontsize=8)
    axes.margins(y=0.12)


@names_are_text
def plot_distribution(
    attributes: Attributes,
    path: Path,
    classes: Mapping[str, Mapping[str, Mapping[str, int]]],
    lots: Mapping[str, Mapping[str, int]],
) -> None:
    """Draw class shares per attribute and split, and images per lot, as a PNG of 1650 pixels, 450 per row of three.

    Args:
        attributes: the annotated attributes.
        path: the file to write.
        classes: result of `statistics.count_classes`.
        lots: lot -> split -> images.
    """
    rows = math.ceil((len(attributes) + 1) / COLUMNS)
    figure = Figure(figsize=(11, 3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for attribute, axes in zip(attributes, panels, strict=False):
        _draw_shares(axes, attribute.title, classes[attribute.name])
    _draw_lots(panels[len(attributes)], lots)
    for axes in panels[len(attributes) + 1 :]:
        axes.remove()
    for axes in panels[: len(attributes) + 1]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    totals = {split: sum(lot[split] for lot in lots.values()) for split in SPLITS}
    handles = panels[0].get_legend_handles_labels()[0]
    figure.legend(
        handles, [f"{split}: {count} images" for split, count in totals.items()], loc="outside upper right", ncols=3,
        fontsize=9, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=150)
