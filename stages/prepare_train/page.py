"""The report of the prepared data: counts, images that were left out, and prepared pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.common.checks.validation import Checked
from stages.common.checks.validation_report import data_docs_links, past_runs, rejects
from stages.common.images.settings import Preprocessing
from stages.common.images.thumbnails import contact_sheet, for_sheet, thumbnail
from stages.common.reports.report import (
    Cards,
    Group,
    Links,
    PageSection,
    Picture,
    Pictures,
    Plot,
    Report,
    Table,
    short_table,
)
from stages.common.schema.dataset import SPLITS

PICTURES = 12
"""Thumbnails of the images with the least contrast."""
ROWS_SHOWN = 20
"""Rows of a table; files beside the report hold all."""
CELL = 96
"""Pixels a side of a picture in the sheets; larger ones are shrunk."""
NAMES_SHOWN = 6
"""File names of one group of duplicates."""


def describe_rejects(rejected: Mapping[str, str]) -> Group:
    """Images that cannot be used (filename -> reason)."""
    return rejects("Rejected images", ("File name", "Reason"), sorted(rejected.items()), "rejected.csv")


def describe_left_out(left_out: Mapping[str, str]) -> Table:
    """Images that are near duplicates of an image in another split (filename -> reason)."""
    note = "Validation and test hold no face from training, no near duplicate of one, and no image of its group."
    rows = sorted(left_out.items())
    return short_table("Left out of validation and test", ("File name", "Reason"), rows, ROWS_SHOWN, note)


def _describe_groups(images: Mapping[str, int], groups: Mapping[str, int]) -> Table:
    """Images and groups per split."""
    rows = [(split, images[split], groups[split]) for split in SPLITS]
    told = "A group, such as all images of one person, is in one split; an image in no group counts as one"
    return Table("Groups", ("Split", "Images", "Groups"), rows, note=told)


def _describe_pixels(out: Path, table: pd.DataFrame, train: Mapping[str, Sequence[float]]) -> Group:
    quartiles = [("lowest", 0), ("5%", 0.05), ("median", 0.5), ("95%", 0.95), ("highest", 1)]
    spread = [
        (title, *(float(table[column].quantile(share)) for _, share in quartiles))
        for title, column in (("mean of an image", "mean"), ("standard deviation of an image", "std"))
    ]
    pictures = [
        Picture(
            thumbnail(_read(out, row["lot"], row["row"])),
            [row["filename"], f"standard deviation {row['std']:g}"],
        )
        for row in table.nsmallest(PICTURES, "std").to_dict("records")
    ]
    return Group(
        "Pixels",
        [
            Table("", ("All images", *(title for title, _ in quartiles)), spread),
            Table("", ("Train split", "red", "green", "blue"), [("mean", *train["mean"]), ("std", *train["std"])]),
            Pictures("Images with the least contrast", pictures),
        ],
        note="From 0 (black) to 255 (white), after cropping and resizing.",
    )


def _read(out: Path, lot: str, row: str) -> npt.NDArray[np.uint8]:
    images: npt.NDArray[np.uint8] = np.load(out / "shards" / f"{lot}.npy", mmap_mode="r")[int(row)]
    return images


def _show_splits(out: Path, table: pd.DataFrame, settings: Preprocessing) -> Group:
    """The prepared pictures: a sheet of each split, as in the shards up to `CELL` pixels."""
    side, share = settings.image_size, settings.centre_share
    of = f" of {' x '.join(f'{side:g}' for side in share)}" if share else ""
    colours = "grey" if settings.grey else "colour"
    sheets = []
    for split in SPLITS:
        images = table[table["split"] == split]
        chosen = images.iloc[for_sheet(len(images))]
        pictures = [_read(out, lot, row) for lot, row in zip(chosen["lot"], chosen["row"], strict=True)]
        content = io.BytesIO()
        contact_sheet(np.stack(pictures), CELL).save(content, "JPEG", quality=90)
        sheets.append(Plot(f"{split}: {len(pictures)} of {len(images):,}", content.getvalue()))
    note = f"{side} x {side} pixels in {colours}, crop {settings.crop}{of}: section data of params.yaml."
    return Group("Prepared pictures", sheets, note=note)


def _describe_faces(faces: Mapping[str, int]) -> Table:
    note = "The largest face is used; without a face, the whole picture. index.csv has the boxes."
    return Table("Faces found in a picture", ("Faces", "Images"), list(faces.items()), note=note)


def _describe_duplicates(duplicates: Mapping[str, Any]) -> Table:
    rows = []
    for group in duplicates["listed"]:
        names, more = group[:NAMES_SHOWN], len(group) - NAMES_SHOWN
        rows.append((len(group), ", ".join(names) + (f" and {more} more" if more > 0 else "")))
    note = f"{duplicates['images']:,} images show only {duplicates['pictures']:,} pictures"
    note += f"; {duplicates['contradicting_labels']:,} of these have contradictory labels and come first."
    return short_table("Duplicates", ("Images", "File names"), rows, ROWS_SHOWN, note, of=duplicates["pictures"])


def describe_data(
    out: Path,
    checked: Checked,
    settings: Preprocessing,
    table: pd.DataFrame,
    statistics: Mapping[str, Any],
    rejected: Mapping[str, str],
    left_out: Mapping[str, str],
    history: Sequence[Mapping[str, Any]],
) -> Report:
    """Put together the report of the artifact in `out`.

    Args:
        out: the artifact; its plots and shards are there.
        checked: the findings of the suite.
        settings: of the preprocessing.
        table: `stages.prepare_train.table.index_table`.
        statistics: `metrics/data_stats.json`.
        rejected: filename -> reason.
        left_out: the same for near duplicates of images in another split.
        history: past runs, this one last: `images`, one per split, `left_out`, `rejected`, `contradicting`, `findings`.
    """
    splits, lots, given = statistics["splits"], statistics["lots"], statistics["given_groups"]
    cards = {
        "images": statistics["images"],
        **splits,
        **({"given groups": given} if given else {}),
        "left out": len(left_out),
        "rejected": len(rejected),
        "lots": len(lots),
    }
    by_lot = [(lot, *counts.values()) for lot, counts in lots.items()]
    files = ("index.csv", "rejected.csv", "left_out.csv", "findings.csv", "metrics/data_stats.json")
    sections: list[PageSection] = [
        Cards(cards),
        *checked.sections(),
        Plot("Classes and lots", (out / "plots" / "data_distribution.png").read_bytes()),
        _show_splits(out, table, settings),
        *([describe_rejects(rejected)] if rejected else []),
        *([describe_left_out(left_out)] if left_out else []),
        *([_describe_groups(splits, statistics["groups"])] if given else []),
        *([_describe_faces(statistics["faces"])] if statistics["faces"] else []),
        *([_describe_duplicates(statistics["duplicates"])] if statistics["duplicates"]["pictures"] else []),
        _describe_pixels(out, table, statistics["train_pixels"]),
        short_table("Lots", ("Lot", *SPLITS, "left out", "rejected"), by_lot, ROWS_SHOWN, folded=True),
        past_runs(
            history,
            ("images", *SPLITS, "rejected", "left_out", "contradicting", "findings"),
            {"contradicting": "contradicting duplicates"},
        ),
        Links("Files", {name: name for name in files}),
        data_docs_links([checked.suite]),
    ]
    return Report(
        title="Prepared images",
        subtitle="Decoded, cropped and resized, in train, validation and test split.",
        verdict=checked.verdict,
        sections=sections,
        remarked=bool(checked.found or rejected),
    )
