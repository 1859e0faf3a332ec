"""The page of doubtful labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.images.thumbnails import thumbnail
from stages.common.inference.measures import EACH
from stages.common.reports.report import Cards, Labels, Links, PageSection, Picture, Pictures, Report, Table, share
from stages.common.schema.attributes import UNKNOWN, Attribute
from stages.common.schema.dataset import Split
from stages.label_doubt.doubts import Doubt
from stages.label_doubt.label_studio import CONFIG, TASKS

SHARES = {
    "accuracy": "accuracy out of fold", "majority": "most frequent class", "balanced_accuracy": "balanced accuracy",
}  # fmt: skip


def doubt_report(
    doubts: Sequence[Doubt],
    images: Split,
    rows: Sequence[Mapping[str, str]],
    metrics: Mapping[str, Any],
    max_shown: int,
) -> Report:
    """The page.

    Args:
        doubts: all doubts, those that are worth most first.
        images: N images.
        rows: their rows of the index.
        metrics: the content of label_doubt.json.
        max_shown: number of doubts to show.
    """
    ranked = list(enumerate(doubts, 1))[:max_shown]
    pictures: dict[Attribute, list[Picture]] = {attribute: [] for attribute in images.attributes}
    for rank, doubt in ranked:
        pixels = images.take(slice(doubt.image, doubt.image + 1))[0]
        lines = _lines(rank, doubt, rows[doubt.image])
        at = images.attributes.index(doubt.attribute)
        known = [None if label == UNKNOWN else int(label) for label in images.labels[doubt.image]]
        labels = Labels(rows[doubt.image]["filename"], known, [at], {at: doubt.suggested})
        pictures[doubt.attribute].append(Picture(thumbnail(pixels), lines, labels=labels))

    found: Mapping[str, Mapping[str, Any]] = metrics["attributes"]
    verdict = f"None of {metrics['labels']:,} labels is doubtful"
    if doubts:
        verdict = f"{len(doubts):,} of {metrics['labels']:,} labels are doubtful: inspect and correct them"
    reasons = {attribute.title: why for attribute in images.attributes if (why := found[attribute.name]["not_checked"])}
    refused = [f"{title} is not checked: {why}" for title, why in reasons.items()]
    if len(reasons) > EACH:
        refused = [f"{len(reasons)} attributes are not checked: {', '.join(reasons)}"]
    sections: list[PageSection] = [
        Cards({
            "doubtful labels": len(doubts),
            "images with such a label": metrics["doubtful_images"],
            "known labels": metrics["labels"],
            "mean held-out accuracy": share(metrics["mean_accuracy"]),
            "balanced accuracy": share(metrics["mean_balanced_accuracy"]),
            "most frequent class alone": share(metrics["mean_majority"]),
        }),
        Table(
            "Attributes",
            ("attribute", "known labels", "doubted", *SHARES.values(), "area under the ROC curve"),
            [
                (attribute.title, row["labels"], row["doubts"], *(share(row[name]) for name in SHARES), row["roc_auc"])
                for attribute in images.attributes
                if (row := found[attribute.name])
            ],
            note="Held-out answers against the labels as annotated. Most frequent class: the accuracy of always "
            "answering that class. Balanced accuracy: the mean recall of the classes. The area shows how well the "
            "networks separate the classes, rare ones too: .5 is guessing.",
            link=("All doubts as CSV", "doubts.csv"),
        ),
    ]  # fmt: skip
    if len(reasons) > EACH:
        sections.append(Table("Not checked", ("attribute", "why"), list(reasons.items()), folded=True))
    for attribute, chosen in pictures.items():
        if chosen:
            total = found[attribute.name]["doubts"]
            note = (
                f"{len(chosen):,} of {total:,} shown, with the probability of the annotated and of the suggested class."
            )
            sections.append(Pictures(attribute.title, chosen, note, ("All doubts as CSV", "doubts.csv")))
    if doubts:
        told = {f"{TASKS}: tasks for Label Studio": TASKS, f"{CONFIG}: its labelling configuration": CONFIG}
        sections.append(Links("Files", told))
    return Report(
        title="Label doubt",
        subtitle="Labels contradicted with confidence by a network trained without that image. Some of them are right. "
        "Rare classes come first.",
        verdict="; ".join([*refused, verdict]),
        remarked=bool(doubts or refused),
        attributes=images.attributes,
        sections=sections,
    )


def _lines(rank: int, doubt: Doubt, row: Mapping[str, str]) -> list[str]:
    classes = doubt.attribute.classes
    return [
        row["filename"],
        f"annotated {classes[doubt.label]}",
        f"suggested {classes[doubt.suggested]}",
        f"{doubt.probability_of_label:.1%} against {doubt.probability_of_suggested:.1%}",
        f"rank {rank}, {row['split']} split",
    ]
