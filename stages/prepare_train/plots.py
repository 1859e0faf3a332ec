"""The picture of the data distribution."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.schema.attributes import ATTRIBUTES
from stages.common.schema.dataset import SPLITS

COLORS = {"train": "#4269d0", "val": "#efb118", "test": "#3ca951"}
BAR = 0.26


def _short(count: int) -> str:
    """At most four characters, so that the labels of neighbouring bars do not touch."""
    return str(count) if count < 1000 else f"{count / 1000:.2g}k" if count < 10_000 else f"{count / 1000:.0f}k"


def _draw_shares(axes: Axes, title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Grouped bars: per class, the share of each split's known labels; unknown labels are told in the title."""
    classes = [name for name in counts["train"] if name != "unknown"]
    for position, split in enumerate(SPLITS):
        known = sum(counts[split][name] for name in classes)
        shares = [100 * counts[split][name] / max(1, known) for name in classes]
        bars = axes.bar(
            [number + (position - 1) * BAR for number in range(len(classes))],
            shares,
            width=BAR * 0.92,
            color=COLORS[split],
            label=split,
        )
        axes.bar_label(
            bars, labels=[_short(counts[split][name]) for name in classes], fontsize=6.5, color="#555", padding=1
        )
    unknown = sum(counts[split]["unknown"] for split in SPLITS)
    axes.set_title(title + (f"  ({unknown} unknown)" if unknown else ""), loc="left", fontsize=10, fontweight="bold")
    axes.set_xticks(range(len(classes)), classes)
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


def plot_distribution(
    path: Path, classes: Mapping[str, Mapping[str, Mapping[str, int]]], lots: Mapping[str, Mapping[str, int]]
) -> None:
    """Draw class shares per attribute and split, and images per lot, as a PNG of 1650 x 900 pixels.

    Args:
        path: the file to write.
        classes: what `statistics.count_classes` returns.
        lots: lot -> split -> images.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3).flat
    for attribute, axes in zip(ATTRIBUTES, panels, strict=False):
        _draw_shares(axes, attribute.title, classes[attribute.name])
    _draw_lots(panels[len(ATTRIBUTES)], lots)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    totals = {split: sum(lot[split] for lot in lots.values()) for split in SPLITS}
    handles = panels[0].get_legend_handles_labels()[0]
    figure.legend(
        handles, [f"{split}: {count} images" for split, count in totals.items()], loc="outside upper right", ncols=3,
        fontsize=9, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=150)
