"""Plots of a drift report: the distribution of a signal in the reference and in new images."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stages.common.reports.figures import names_are_text

THEN, NOW = "#8a94a0", "#d9622b"
DPI = 150
"""Gives plots of 900 x 390 pixels."""
BARS = 24
"""Bars of a histogram."""
CLASSES = 6
"""Number of classes that are drawn: those with the largest changes."""


LETTERS = 16
"""Letters of a class's name that are shown."""
IN_A_ROW = 60
"""Letters of names that fit side by side; if there are more, the names are rotated."""


@names_are_text
def draw_signal(then: "pd.Series[Any]", now: "pd.Series[Any]") -> Figure:
    """Draw the shares of images, gray for the reference and orange for new images.

    Args:
        then: the signal's column of the reference, with at least one known value.
        now: the same of the new images.
    """
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    labels = [f"reference ({then.count():,} images)", f"new ({now.count():,} images)"]
    if then.dtype.kind == "f":
        both = np.concatenate([then[np.isfinite(then)], now[np.isfinite(now)]])
        # the middle 99 %: one far value must not squeeze all others into a bar
        low, high = np.quantile(both, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, BARS + 1).tolist()
        for values, color, label in zip((then, now), (THEN, NOW), labels, strict=True):
            known = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
            axes.hist(known, edges, weights=np.full(len(known), 1 / len(known)), color=color, alpha=0.55, label=label)
    else:
        classes = list(then.cat.categories)
        shares = np.array([[float((values.dropna() == name).mean()) for name in classes] for values in (then, now)])
        chosen = np.sort(np.argsort(-abs(shares[1] - shares[0]), kind="stable")[:CLASSES])
        for of_images, color, label, side in zip(shares, (THEN, NOW), labels, (-0.2, 0.2), strict=True):
            axes.bar(np.arange(len(chosen)) + side, of_images[chosen], 0.38, color=color, label=label)
        shown = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in (classes[at] for at in chosen)]
        turned = sum(map(len, shown)) > IN_A_ROW
        axes.set_xticks(range(len(chosen)), shown, rotation=25 if turned else 0, ha="right" if turned else "center")
        if len(chosen) < len(classes):
            axes.set_xlabel(f"the {len(chosen)} of {len(classes)} classes that changed most")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylabel("share of images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)  # beside no bar
    return figure
