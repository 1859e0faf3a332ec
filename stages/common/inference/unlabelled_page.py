"""Report sections on images without labels: their expected accuracy, and the images to label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.common.inference.to_label import TO_LABEL, Worth
from stages.common.reports.report import Badge, Picture, Pictures, Share, Table, short_table, text_of
from stages.common.schema.attributes import Attributes

ROWS = 30
"""Lots in a table."""
TOO_HIGH = (
    "For other images it is too high, and the interval does not show that. On drawn faces it was too high by 2 "
    "percentage points if they were blurred, by 10 to 17 if darker, 25 in another drawing style, 34 at night "
    "(bench/README.md)."
)
"""Limits of every such figure, as measured by bench.unlabelled."""


def in_words(expected: Mapping[str, Any] | None) -> str:
    """The mean and its interval: 98.1% (96.5% to 99.2%); "not known" without one."""
    if not expected:
        return "not known"
    value, low, high = map(text_of, _cells(expected["mean"]))
    return f"{value} ({low} to {high})"


def expected_table(
    attributes: Attributes,
    total: Mapping[str, Any] | None,
    images: int,
    lots: Mapping[str, tuple[int, Mapping[str, Any] | None, Badge | None]],
) -> Table | None:
    """Expected accuracy on images without labels; None if there is no estimate.

    Args:
        attributes: the answered attributes.
        total: `stages.common.inference.expected.figures` of all these images.
        images: number of images.
        lots: lot -> number of its images, their figures, and a remark.
    """
    if not total:
        return None
    rows: list[tuple[object, ...]] = [("All", "Mean", images, *_cells(total["mean"]), "")]
    of_attributes = total["attributes"]
    rows += [
        ("All", attribute.title, images, *_cells(of_attributes[attribute.name]), "")
        for attribute in attributes
        if attribute.name in of_attributes
    ]
    rows += [
        (lot, "Mean", count, *_cells(figures["mean"]), badge or "")
        for lot, (count, figures, badge) in lots.items()
        if figures
    ]
    note = (
        "Estimated share of right answers: the model's confidences, corrected by the gap between confidence and "
        "accuracy on its test images. The true accuracy lies between lowest and highest with 95% if these images are "
        f"like the test images. {TOO_HIGH}"
    )
    columns = ("Lot", "Attribute", "Images", "Expected", "Lowest", "Highest", "")
    return short_table("Expected accuracy", columns, rows, ROWS + len(attributes) + 1, note)


def _cells(figures: Mapping[str, float]) -> tuple[Share, ...]:
    return tuple(Share(figures[name]) for name in ("value", "low", "high"))


def worth_pictures(worth: Sequence[Worth], of: int, picture: Callable[[str, str], str]) -> Pictures | None:
    """Images that are most worth labels; None if there are none.

    Args:
        worth: images of to_label.csv.
        of: number of images without labels.
        picture: lot and file name -> thumbnail, "" if there is none.
    """
    if not worth:
        return None
    note = (
        f"{len(worth):,} of {of:,} images without labels: the model is unsure of them, and they are far from its test "
        "images and unlike each other. Fill in the empty cells of the file with names or numbers of classes, and put "
        "it with your annotations; rows left empty are not read."
    )
    pictures = [Picture(picture(image.lot, image.filename), [image.filename, image.why]) for image in worth]
    return Pictures("Worth labelling", pictures, note, (f"{TO_LABEL}, to be filled in", TO_LABEL))
