"""The report of a training: its figures, its answers on the validation split, and its curves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stages.common.inference.measures import Measures
from stages.common.inference.measures_page import classes_table, measures_table, told_threshold
from stages.common.reports.report import Report, Table, plain_report
from stages.common.schema.attributes import Attributes
from stages.train.calibrate import Calibrated


def describe_training(
    attributes: Attributes,
    description: str,
    headline: Mapping[str, object],
    calibrated: Sequence[Calibrated],
    remarks: Sequence[str],
    out: Path,
) -> Report:
    """Put the report together.

    Args:
        attributes: the trained attributes.
        description: of the stage.
        headline: its figures.
        calibrated: one per attribute.
        remarks: first remarks for people.
        out: the artifact; its plots are there.
    """
    plain = plain_report("train", description, headline, out)
    cards, *others = plain.sections
    notes = [
        f"{attribute.title}: {chosen.decision.note}"
        for attribute, chosen in zip(attributes, calibrated, strict=True)
        if chosen.decision.note
    ]
    told = [*remarks, *notes]
    measures: Mapping[str, Measures] = {calibration.attribute: calibration.measures for calibration in calibrated}
    tables = [
        measures_table(attributes, measures, "Validation images"),
        classes_table(attributes, measures),
        _answers(attributes, calibrated),
    ]
    return replace(plain, verdict="; ".join(told), sections=[cards, *tables, *others], remarked=bool(told))


def _answers(attributes: Attributes, calibrated: Sequence[Calibrated]) -> Table:
    rows = []
    for attribute, decided in zip(attributes, calibrated, strict=True):
        chosen, given = decided.decision, decided.abstention
        from_ = told_threshold(attribute.classes, given.threshold)
        notes = "; ".join(filter(None, (chosen.note, given.note)))
        rows.append((attribute.title, chosen.by, chosen.answer, from_, notes))
    note = "Chosen on the validation split: the class that is answered, and the confidence from which it is given."
    return Table("Answers", ("Attribute", "Chosen for", "Answer", "Given from", "Note"), rows, note=note)
