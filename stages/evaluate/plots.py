"""The pictures of an evaluation. All are PNGs of 1650 x 990 pixels with a panel per attribute and one of figures."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from stages.common.inference.answers import Answers
from stages.common.schema.attributes import ATTRIBUTES
from stages.common.schema.statistics import wilson
from stages.evaluate.measures import Measures, reliability_of, roc_curves

COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951")


def _panels() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    return figure, list(figure.subplots(2, 3).flat)


def _title(axes: Axes, text: str, remark: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold")
    axes.set_title(remark, loc="right", fontsize=8, color="#555")
    axes.tick_params(labelsize=8)


SUMMARY = {"labels": "labels", "accuracy": "accuracy", "f1": "F1", "roc_auc": "ROC AUC"}


def _draw_summary(axes: Axes, measures: Mapping[str, Measures], columns: Mapping[str, str] = SUMMARY) -> None:
    """A table of figures in the place of the sixth panel; `columns`: measure -> what people call it."""

    def cell(value: float | None) -> str:
        return "none" if value is None else f"{value}" if isinstance(value, int) else f"{value:.3f}"

    table = axes.table(
        [[cell(one[name]) for name in columns] for one in (measures[attribute.name] for attribute in ATTRIBUTES)],
        rowLabels=[attribute.title for attribute in ATTRIBUTES],
        colLabels=list(columns.values()),
        cellLoc="right",
        edges="horizontal",
        bbox=Bbox.from_bounds(0.22, 0.2, 0.78, 0.6),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    axes.axis("off")


def plot_confusion(path: Path, measures: Mapping[str, Measures]) -> None:
    """Draw a confusion matrix per attribute: counts, coloured by the share of their true class."""
    figure, panels = _panels()
    for attribute, axes in zip(ATTRIBUTES, panels, strict=False):
        counts = np.array(measures[attribute.name]["confusion_matrix"])
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
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
        axes.set_xticks(range(len(attribute.classes)), attribute.classes)
        axes.set_yticks(range(len(attribute.classes)), attribute.classes)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("true", fontsize=8)
        axes.spines[:].set_visible(False)
        _title(axes, attribute.title, f"{measures[attribute.name]['labels']} labels")
    _draw_summary(panels[-1], measures)
    figure.savefig(path, dpi=150)


def plot_roc(path: Path, answers: Sequence[Answers], measures: Mapping[str, Measures]) -> None:
    """Draw the ROC curves per attribute, every class against the rest."""
    figure, panels = _panels()
    for one, axes in zip(answers, panels, strict=False):
        axes.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle="--")
        curves = roc_curves(one.known())
        for color, (name, (false_rate, true_rate, area)) in zip(COLORS, curves.items(), strict=False):
            axes.plot(false_rate, true_rate, color=color, linewidth=1.6, label=f"{name}: {area:.3f}", clip_on=False)
        if curves:
            axes.legend(title="area", fontsize=8, title_fontsize=8, loc="lower right", frameon=False)
        else:
            note = textwrap.fill(measures[one.attribute.name].get("note", ""), 36)
            axes.text(0.5, 0.5, note, ha="center", va="center", fontsize=8, color="#555", backgroundcolor="white")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel("false positive rate", fontsize=8)
        axes.set_ylabel("true positive rate", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        _title(axes, one.attribute.title, f"{measures[one.attribute.name]['labels']} labels")
    _draw_summary(panels[-1], measures)
    figure.savefig(path, dpi=150)


def plot_reliability(path: Path, answers: Sequence[Answers], measures: Mapping[str, Measures]) -> None:
    """Draw how often the model is right at which confidence: on the diagonal it is as sure as it should be.

    A dot is a bin of answers, its area their number; the line through it spans 95 % of what chance makes of so few.
    """
    figure, panels = _panels()
    for one, axes in zip(answers, panels, strict=False):
        lowest = 1 / len(one.attribute.classes)
        axes.plot([lowest, 1], [lowest, 1], color="#bbb", linewidth=0.8, linestyle="--")
        found = reliability_of(one)
        total = sum(part.count for part in found)
        for part in found:
            axes.plot([part.confidence] * 2, wilson(part.accuracy, part.count), color=COLORS[0], linewidth=1, alpha=0.6)
            axes.scatter(
                part.confidence, part.accuracy, 12 + 200 * part.count / total, COLORS[0], linewidths=0, alpha=0.75,
                clip_on=False, zorder=3,
            )  # fmt: skip
        if one.threshold > 0:
            axes.axvline(one.threshold, color=COLORS[2], linewidth=1, linestyle=":", label="answers from here")
            axes.legend(fontsize=8, loc="lower right", frameon=False)
        axes.set_xlim(lowest, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("confidence", fontsize=8)
        axes.set_ylabel("right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        _title(axes, one.attribute.title, f"{measures[one.attribute.name]['labels']} labels")
    _draw_summary(
        panels[-1], measures, {"ece": "ECE", "threshold": "from", "coverage": "answered",
                               "answered_accuracy": "right"},
    )  # fmt: skip
    figure.savefig(path, dpi=150)
