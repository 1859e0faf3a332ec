"""The page of doubtful labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from stages.common.attributes import ATTRIBUTES
from stages.common.dataset import Split
from stages.common.report import Cards, Picture, Pictures, Report, Section, Table
from stages.common.thumbnails import thumbnail
from stages.label_doubt.doubts import Doubt


def doubt_report(doubts: Sequence[Doubt], images: Split, splits: Sequence[str], metrics: Mapping[str, Any],
                 max_shown: int) -> Report:  # fmt: skip
    """The page.

    Args:
        doubts: all of them, the most doubtful first; the first `max_shown` are shown.
        images: N images.
        splits: N names.
        metrics: the content of label_doubt.json.
        max_shown: pictures at most.
    """
    shown = doubts[:max_shown]
    measured = metrics["attributes"]
    sections: list[Section] = [
        Cards({"images": metrics["images"], "labels doubted": len(doubts), "folds": metrics["folds"]}),
        Table(
            "Attributes",
            ("attribute", "known labels", "doubts", "out-of-fold accuracy"),
            [
                (one.title, row["labels"], row["doubts"], "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}")
                for one in ATTRIBUTES
                if (row := measured[one.name])
            ],
            note="Accuracy against the labels as annotated, by networks that had not seen the image.",
            link=("all doubts as CSV", "doubts.csv"),
        ),
    ]
    for attribute in ATTRIBUTES:
        chosen = [(rank, doubt) for rank, doubt in enumerate(shown, 1) if doubt.attribute is attribute]
        total = measured[attribute.name]["doubts"]
        if not total:
            continue
        pictures = []
        for rank, doubt in chosen:
            uri = thumbnail(Image.fromarray(images.take(slice(doubt.image, doubt.image + 1))[0]))
            pictures.append(Picture(uri, _lines(rank, doubt, images.filenames[doubt.image], splits[doubt.image])))
        sections.append(
            Pictures(attribute.title, pictures, note=f"{len(chosen)} of {total} shown, the most doubtful first.")
        )
    verdict = f"{len(doubts)} labels are doubtful" if doubts else "No label is doubtful: confident learning found none."
    return Report(
        title="Label doubts",
        subtitle="Annotated labels that a network which had not seen the image most confidently contradicts",
        verdict=verdict,
        passed=not doubts,
        sections=sections,
    )


def _lines(rank: int, doubt: Doubt, filename: str, split: str) -> list[str]:
    classes = doubt.attribute.classes
    return [
        f"{rank}. {filename}",
        f"annotated {classes[doubt.label]} ({doubt.probability_of_label:.2f})",
        f"suggested {classes[doubt.suggested]} ({doubt.probability_of_suggested:.2f})",
        split,
    ]
