"""The plots of an evaluation. All are PNGs with a panel of 550 x 495 pixels per attribute, three in a row."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.inference.answers import Answers
from stages.common.inference.decision import lowest_confidence
from stages.common.inference.measures import Measures
from stages.common.reports.figures import names_are_text
from stages.common.schema.attributes import Attributes
from stages.common.schema.statistics import wilson
from stages.evaluate.measures import reliability_of, roc_curves

COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951")
IN_A_ROW = 3
COUNTED, NAMED = 7, 16
"""Greatest number of classes whose counts, and whose names, fit into a confusion matrix."""
LETTERS = 32
"""Greatest number of letters of all names side by side below it."""


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // IN_A_ROW)
    figure = Figure(figsize=(11, 3.3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, IN_A_ROW, squeeze=False).flat)
    for axes in panels[count:]:
        axes.axis("off")
    return figure, panels[:count]


def _title(axes: Axes, text: str, remark: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold")
    axes.set_title(remark, loc="right", fontsize=8, color="#555")
    axes.tick_params(labelsize=8)


@names_are_text
def plot_confusion(attributes: Attributes, path: Path, measures: Mapping[str, Measures]) -> None:
    """Draw a confusion matrix per attribute: counts, coloured by the share of their true class."""
    figure, panels = _panels(len(attributes))
    for attribute, axes in zip(attributes, panels, strict=True):
        counts = np.array(measures[attribute.name]["confusion_matrix"])
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(attribute.classes) <= COUNTED:
            _write_counts(axes, counts, shares)
        if len(attribute.classes) <= NAMED:
            upright = 90 if sum(map(len, attribute.classes)) > LETTERS else 0
            axes.set_xticks(range(len(attribute.classes)), attribute.classes, rotation=upright)
            axes.set_yticks(range(len(attribute.classes)), attribute.classes)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("true", fontsize=8)
        axes.spines[:].set_visible(False)
        _title(axes, attribute.title, f"{measures[attribute.name]['labels']} labels")
    figure.savefig(path, dpi=150)


def _write_counts(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            f"{count}\n{100 * shares[row, column]:.0f} %",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.55 else "#333",
        )


@names_are_text
def plot_roc(path: Path, answers: Sequence[Answers], measures: Mapping[str, Measures]) -> None:
    """Draw the ROC curves per attribute, every class against the rest; those with the lowest areas have a name."""
    figure, panels = _panels(len(answers))
    for answer, axes in zip(answers, panels, strict=True):
        axes.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle="--")
        curves = roc_curves(answer.known())
        lowest = sorted(curves, key=lambda name: curves[name][-1])[: len(COLORS)]
        colors = iter(COLORS)
        for name, (false_rate, true_rate, area) in curves.items():
            if name in lowest:
                axes.plot(
                    false_rate, true_rate, color=next(colors), linewidth=1.6, label=f"{name}: {area:.3f}", clip_on=False
                )
            else:
                axes.plot(false_rate, true_rate, color="#ccc", linewidth=0.6, zorder=1)
        if curves:
            title = "area" if len(curves) == len(lowest) else f"area, the lowest of {len(curves)}"
            axes.legend(title=title, fontsize=8, title_fontsize=8, loc="lower right", frameon=False)
        else:
            note = textwrap.fill(measures[answer.attribute.name].get("note", ""), 36)
            axes.text(0.5, 0.5, note, ha="center", va="center", fontsize=8, color="#555", backgroundcolor="white")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel("false positive rate", fontsize=8)
        axes.set_ylabel("true positive rate", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        _title(axes, answer.attribute.title, f"{measures[answer.attribute.name]['labels']} labels")
    figure.savefig(path, dpi=150)


@names_are_text
def plot_reliability(path: Path, answers: Sequence[Answers], measures: Mapping[str, Measures]) -> None:
    """Draw the share of right answers by confidence: on the diagonal, confidences are true.

    A dot is a bin of answers, and its area is their number; the line through it spans 95 % of the variation by chance.
    """
    figure, panels = _panels(len(answers))
    for answer, axes in zip(answers, panels, strict=True):
        lowest = lowest_confidence(answer.attribute, answer.decision)
        axes.plot([lowest, 1], [lowest, 1], color="#bbb", linewidth=0.8, linestyle="--")
        found = reliability_of(answer)
        total = sum(part.count for part in found)
        for part in found:
            axes.plot([part.confidence] * 2, wilson(part.accuracy, part.count), color=COLORS[0], linewidth=1, alpha=0.6)
            axes.scatter(
                part.confidence, part.accuracy, 12 + 200 * part.count / total, COLORS[0], linewidths=0, alpha=0.75,
                clip_on=False, zorder=3,
            )  # fmt: skip
        label = "answers from here"
        for threshold in sorted({*np.ravel(answer.threshold).tolist()} - {0.0}):
            axes.axvline(threshold, color=COLORS[2], linewidth=1, linestyle=":", label=label)
            axes.legend(fontsize=8, loc="lower right", frameon=False)
            label = "_"  # of several lines, one is named
        axes.set_xlim(lowest, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("confidence", fontsize=8)
        axes.set_ylabel("right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        _title(axes, answer.attribute.title, f"{measures[answer.attribute.name]['labels']} labels")
    figure.savefig(path, dpi=150)
