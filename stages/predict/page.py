"""The report of predictions: images, answers, the least sure images, and files that were left out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.common.checks.validation_report import data_docs_links, past_runs, rejects
from stages.common.inference.to_label import TO_LABEL, Worth
from stages.common.inference.unlabelled_page import expected_table, in_words, worth_pictures
from stages.common.reports.report import (
    Bars,
    Cards,
    Group,
    Links,
    PageSection,
    Picture,
    Pictures,
    Report,
    Share,
    Table,
    short_table,
    shown,
)
from stages.common.schema.attributes import Attributes
from stages.predict.counts import ABSTAINED, Unsure

if TYPE_CHECKING:
    from stages.common.checks.validation import Checked

PICTURES = 24
"""Thumbnails of the least sure answers."""
ROWS_SHOWN = 50
"""Rows of a table; files beside the report hold all."""
TITLE = "Predictions"

Rows = Sequence[Sequence[str]]


def nothing_released() -> Report:
    """The report before any release."""
    verdict = "No version is released yet, so nothing is predicted."
    return Report(TITLE, "Predictions of the released model for the images of the raw folder.", verdict, remarked=True)


def _lots(attributes: Attributes, metrics: Mapping[str, Any]) -> Table:
    """Images per lot, and the share of them that is not answered, by attribute."""
    rows = []
    for lot, found in metrics["lots"].items():
        images = found["images"]
        abstained = [
            Share(found["classes"][attribute.name][ABSTAINED] / images) if images else None for attribute in attributes
        ]
        rows.append((lot, images, found["undecodable"], *abstained, "cached" if found["reused"] else ""))
    note = "For each attribute the share of images for which the model abstains."
    columns = ("Lot", "Images", "Undecodable", *(attribute.title for attribute in attributes), "Predicted before")
    return short_table("Lots", columns, rows, ROWS_SHOWN, note)


def _classes(attributes: Attributes, metrics: Mapping[str, Any]) -> Group:
    bars = [Bars(attribute.title, metrics["classes"][attribute.name], muted={ABSTAINED}) for attribute in attributes]
    return Group("Answers", bars, note="Images by predicted class; abstained: without an answer.")


def _unsure(cases: Sequence[Unsure], picture: Callable[[str, str], str]) -> Pictures:
    pictures = [
        Picture(
            picture(case.lot, case.filename),
            [
                case.filename,
                f"{case.attribute}: {case.answer} ({case.confidence:.0%}{'' if case.answered else ', abstains'})",
            ],
        )
        for case in cases
    ]
    note = "The answer with the lowest confidence of each image, lowest first."
    return Pictures("Least sure images", pictures, note=note)


def describe_undecodable(undecodable: Rows) -> list[PageSection]:
    """Images without a prediction, (filename, lot, reason) of each; empty if there are none."""
    columns = ("File name", "Lot", "Reason")
    return [rejects("Undecodable images", columns, undecodable, "undecodable.csv")] if undecodable else []


def describe_ignored(ignored: Rows) -> list[PageSection]:
    """Other files, (filename, lot, path, reason) of each; empty if there are none."""
    rows = [(path, reason) for _, _, path, reason in ignored]
    link = ("ignored.csv", "ignored.csv")
    return [short_table("Files not read", ("Path", "Reason"), rows, ROWS_SHOWN, link=link, folded=True)] if rows else []


def describe_predictions(
    attributes: Attributes,
    metrics: Mapping[str, Any],
    answered: Table,
    checked: "Checked",
    cases: Sequence[Unsure],
    worth: Sequence[Worth],
    picture: Callable[[str, str], str],
    undecodable: Rows,
    ignored: Rows,
    history: Sequence[Mapping[str, Any]],
) -> Report:
    """Put the report together.

    Args:
        attributes: all attributes; the verdict names those that are never answered.
        metrics: `metrics/predictions.json`.
        answered: the decision rules.
        checked: the findings of the suite.
        cases: the least sure answers.
        worth: the images of to_label.csv.
        picture: lot and file name -> thumbnail.
        undecodable: (filename, lot, reason) of each.
        ignored: (filename, lot, path, reason) of each.
        history: past runs, this one last: `images`, `undecodable`, `findings`.
    """
    cards = {"version": metrics["model_version"], "images": metrics["images"], "lots": len(metrics["lots"])}
    cards |= {"new to the model": metrics["new"]}
    if metrics["expected"]:
        cards["expected accuracy of these"] = Share(metrics["expected"]["mean"]["value"])
    cards |= {"cached lots": metrics["lots_reused"], "undecodable": metrics["undecodable"]}
    if metrics["images_per_s"]:
        cards["images a second"] = round(metrics["images_per_s"])
    files = [f"outputs/predictions_{lot}.csv" for lot in metrics["lots"]]
    first, note = shown(files, ROWS_SHOWN)
    names = [*first, TO_LABEL, "undecodable.csv", "ignored.csv", "findings.csv", "metrics/predictions.json"]
    of_lots = {lot: (counts["new"], counts["expected"], None) for lot, counts in metrics["lots"].items()}
    sections: list[PageSection | None] = [
        Cards(cards),
        *describe_undecodable(undecodable),
        _lots(attributes, metrics),
        expected_table(attributes, metrics["expected"], metrics["new"], of_lots),
        worth_pictures(worth, metrics["new"], picture),
        _classes(attributes, metrics),
        answered,
        _unsure(cases, picture),
        *checked.sections(),
        *describe_ignored(ignored),
        past_runs(history, ("images", "undecodable", "findings")),
        Links(f"Files{f' (predictions: {note})' if note else ''}", {name: name for name in names}),
        data_docs_links([checked.suite]),
    ]
    verdict = f"{metrics['images']:,} images predicted by {metrics['model_version']}"
    if undecodable:
        verdict += f", {len(undecodable):,} undecodable"
    if metrics["expected"]:
        verdict += f"; expected accuracy of the {metrics['new']:,} new to it: {in_words(metrics['expected'])}"
    return Report(
        TITLE,
        "Predictions of the released model for the images of the raw folder.",
        "; ".join([verdict, *metrics["never_answered"], checked.verdict]),
        sections=[section for section in sections if section],
        remarked=bool(checked.found or undecodable or metrics["never_answered"]),
    )
