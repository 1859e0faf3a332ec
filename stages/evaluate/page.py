"""The report of an evaluation: measures of the model, and images that it gets wrong."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.checks.validation import Checked
from stages.common.checks.validation_report import data_docs_links, past_runs
from stages.common.images.thumbnails import thumbnail
from stages.common.inference.answers import Answers
from stages.common.inference.measures_page import (
    between,
    classes_table,
    measures_table,
    thresholds_table,
    told_means,
)
from stages.common.inference.slices import LEVEL, Slice, worst
from stages.common.reports.report import (
    Cards,
    Group,
    Labels,
    Links,
    PageSection,
    Picture,
    Pictures,
    Plot,
    Report,
    Table,
    short_table,
)
from stages.common.schema.attributes import UNKNOWN, Attributes, names
from stages.common.schema.dataset import Split

PICTURES = 12
"""Thumbnails of wrong answers, and the same number of unsure ones."""

AT_ONCE = 256
"""Images in memory while thumbnails are made."""
SLICES_SHOWN = 20
"""Rows of a table of slices, the worst first."""

Case = tuple[float, int, Answers]
"""One answer: its confidence, the image's position in the split, and the attribute's answers."""


def _cases(answers: Sequence[Answers], *, wrong: bool) -> list[Case]:
    """Wrong answers, the surest first, or else answers not known to be wrong, the least sure first."""
    cases = []
    for answer in answers:
        is_wrong = (answer.labels != UNKNOWN) & ~answer.right
        chosen = np.flatnonzero(answer.finite & (is_wrong == wrong))
        cases += [(float(answer.confidence[index]), int(index), answer) for index in chosen]
    return sorted(cases, key=lambda case: -case[0] if wrong else case[0])


def hardest_images(split: Split, answers: Sequence[Answers]) -> list[Pictures]:
    """The hardest test images: wrong answers, and unsure ones.

    Args:
        split: the test split.
        answers: one per attribute.
    """
    wrong, unsure = _cases(answers, wrong=True), _cases(answers, wrong=False)
    kinds = [
        ("Wrong answers", f"the surest of {len(wrong):,}", wrong),
        ("Unsure answers", "the least sure ones that are right or have no label", unsure),
    ]
    return [_pictures(title, note, cases, split) for title, note, cases in kinds if cases]


def _pictures(title: str, note: str, cases: Sequence[Case], split: Split) -> Pictures:
    first = cases[:PICTURES]
    images = split.take(np.array([index for _, index, _ in first], np.int64))
    pictures = [
        Picture(
            thumbnail(image),
            [split.filenames[index], *_lines(answer, index, confidence)],
            labels=_labels(answer, index, split),
        )
        for image, (confidence, index, answer) in zip(images, first, strict=True)
    ]
    return Pictures(title, pictures, note=note)


def thumbnails(split: Split, positions: Sequence[int]) -> Iterator[str]:
    """A data URI of each of these images."""
    for start in range(0, len(positions), AT_ONCE):
        images = split.take(np.array(positions[start : start + AT_ONCE], np.int64))
        yield from map(thumbnail, images)


def _labels(answers: Answers, index: int, split: Split) -> Labels:
    at = names(split.attributes).index(answers.attribute.name)
    known = [None if label == UNKNOWN else int(label) for label in split.labels[index]]
    return Labels(split.filenames[index], known, [at], {at: int(answers.predicted[index])})


def _lines(answers: Answers, index: int, confidence: float) -> Iterable[str]:
    classes, label = answers.attribute.classes, answers.labels[index]
    abstains = "" if answers.answered[index] else ", abstains"
    yield f"{answers.attribute.title}: {classes[answers.predicted[index]]} ({confidence:.0%}{abstains})"
    yield f"label: {'unknown' if label == UNKNOWN else classes[label]}"


def slices_page(slices: Sequence[Slice], by_slice: Mapping[str, Sequence[Mapping[str, Any]]]) -> Group:
    """The weak slices of the model: those farthest below the rest, then all lots, and pairs of classes.

    Args:
        slices: `stages.common.inference.slices.measure_slices`.
        by_slice: `stages.common.inference.slices.totals`.
    """
    found = worst(slices)
    below = [found for found in slices if found.accuracy < found.elsewhere]
    rows = [
        (f"images of {low.name}", low.attribute, low.labels, low.accuracy, between(low.interval), low.elsewhere, low.p)
        for low in sorted(below, key=lambda low: (low.p, low.accuracy))[:SLICES_SHOWN]  # of tens of thousands
    ]
    columns = ("Slice", "Attribute", "Labels", "Accuracy", "95 %", "Elsewhere", "p")
    told = f"The worst slice: {found.text}." if found else "No slice is worse than the rest beyond chance."
    csv = ("All slices as CSV", "slices.csv")
    tables = [short_table("Farthest below the rest", columns, rows, SLICES_SHOWN, of=len(below), link=csv)]
    of_totals = ("Images of", "Labels", "Accuracy of all answers")
    for title, kind in (("Lots", "lots"), ("Pairs of classes", "class_pairs")):
        totals = sorted(by_slice[kind], key=lambda total: float(total["accuracy"]))
        cells = [(total["name"], total["labels"], total["accuracy"]) for total in totals]
        tables.append(short_table(title, of_totals, cells, SLICES_SHOWN, folded=True))
    return Group(
        "Slices",
        tables,
        note=f"{told} A slice is the images of a lot, or of two classes of two attributes. p: how often a model that "
        "is equally good everywhere would have so many wrong answers there (Fisher's exact test, adjusted for all "
        f"slices with enough labels to reach significance); below {LEVEL:g} a slice is named.",
    )


def describe_model(
    attributes: Attributes,
    out: Path,
    checked: Checked,
    metrics: Mapping[str, Any],
    answered: Table,
    slices: Group,
    hardest: Sequence[Pictures],
    history: Sequence[Mapping[str, Any]],
) -> Report:
    """Put together the report of the artifact in `out`.

    Args:
        attributes: the evaluated attributes.
        out: the artifact; its plots are there.
        checked: the findings of the suite.
        metrics: `metrics/eval_metrics.json`.
        answered: the decision rules.
        slices: `slices_page`.
        hardest: `hardest_images`.
        history: past runs, this one last: means, the accuracy per attribute, `images`, `findings`.
    """
    measures, mean = metrics["attributes"], metrics["mean_accuracy"]
    titles = {attribute.name: attribute.title for attribute in attributes}
    cards = {
        "mean accuracy": mean,
        "mean balanced accuracy": metrics["mean_balanced_accuracy"],
        "most frequent class alone": metrics["mean_majority"],
        **{titles[name]: measure["accuracy"] for name, measure in measures.items()},
    }
    # below the table: a column of sentences would leave the figures no room
    notes = [f"{titles[name]}: {measure['note']}." for name, measure in measures.items() if "note" in measure]
    sections: list[PageSection] = [
        Cards({**cards, "test images": metrics["images"], "groups of them": metrics["groups"]}),
        measures_table(attributes, measures, "Measures", {"roc_auc": "ROC AUC"}, " ".join(notes)),
        classes_table(attributes, measures),
        slices,
        answered,
        thresholds_table(attributes, measures, "Confidence"),
        *checked.sections(),
        Plot("Confusion matrices", (out / "plots" / "confusion_matrices.png").read_bytes()),
        Plot("ROC curves", (out / "plots" / "roc_curves.png").read_bytes()),
        Plot("Reliability: right answers at each confidence", (out / "plots" / "reliability.png").read_bytes()),
        *hardest,
        past_runs(
            history,
            ("mean_accuracy", "mean_balanced_accuracy", *titles, "mean_ece", "mean_coverage", "images", "findings"),
            {**titles, "mean_ece": "calibration error", "mean_coverage": "answered"},
        ),
        Links("Files", {name: name for name in ("predictions.csv", "findings.csv", "metrics/eval_metrics.json")}),
        data_docs_links([checked.suite]),
    ]
    return Report(
        title="Evaluation",
        subtitle="The exported model on the test split, which no earlier stage has used.",
        verdict="; ".join(
            [
                f"{told_means(metrics)} on {metrics['images']} test images",
                *metrics["no_better"],
                *metrics["never_answered"],
                *([f"worst slice: {metrics['worst_slice']}"] if metrics["worst_slice"] else []),
                checked.verdict,
            ]
        ),
        sections=sections,
        attributes=attributes,
        remarked=bool(checked.found or metrics["no_better"] or metrics["never_answered"] or metrics["worst_slice"]),
    )
