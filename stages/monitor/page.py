"""The report of a check: first the verdict, then the drifted signals, with pictures of reference and new images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.common.checks.validation import Checked
from stages.common.checks.validation_report import checks, data_docs_links, past_runs
from stages.common.images.thumbnails import thumbnail
from stages.common.inference.features import Features
from stages.common.inference.measures import in_words
from stages.common.inference.measures_page import classes_table, measures_table
from stages.common.inference.to_label import TO_LABEL, Worth
from stages.common.inference.unlabelled_page import expected_table, worth_pictures
from stages.common.inference.unlabelled_page import in_words as expected_in_words
from stages.common.registry.champion import Champion
from stages.common.registry.monitor_settings import MonitorSection
from stages.common.reports.report import (
    Badge,
    Cards,
    Group,
    Links,
    PageSection,
    Picture,
    Pictures,
    Plot,
    Report,
    Share,
    Table,
    share,
    short_table,
)
from stages.common.schema.attributes import Attributes
from stages.monitor import drift as drifting
from stages.monitor import performance as performing
from stages.monitor.drift import ALL, EMBEDDING, Drift, Signal
from stages.monitor.performance import Accuracy, Performance
from stages.monitor.plots import DPI, draw_signal
from stages.monitor.unlabelled import Unlabelled
from stages.monitor.words import explain, title_of

EXAMPLES = 8
"""Pictures of the reference, and the same number of new ones."""
MOVED = 12
"""Signals in the first table; the folded table has all."""
PLOTS = 4
LOTS = 30
"""Lots in a table."""
SIGNALS = 200
"""Signals in the table of all."""
TONES = {"ok": "good", "none": "good", "low": "bad", "found": "remark"}
FILES = ("decision.json", "metrics/drift.json", "metrics/expected.json", "metrics/performance.json")


def verdict_line(
    champion: Champion,
    decision: Mapping[str, Any],
    performance: Performance,
    drift: Drift,
    unlabelled: Unlabelled,
    remarks: Sequence[str] = (),
) -> str:
    """The verdict in one or two sentences, followed by the given ones."""
    mean, version = performance.total.mean, decision["champion"]
    if mean.value is None:
        first = f"Accuracy of {version} on new images: not enough data ({mean.labels or 'no'} labels)"
    else:
        low = performance.verdict == performing.LOW
        how = f"too low in {_names(performance.concerned)}" if low else "good enough"
        found = f"{mean.value:.1%} ({mean.low:.1%} to {mean.high:.1%})"
        if performance.metric == "accuracy":
            always = performance.means["mean_majority"]
            first = f"{version} is right in {found} of new labels, the most frequent classes alone in {always:.1%}"
        else:
            first = f"{version} has a mean {in_words(performance.metric)} of {found} on new labels"
        first += f": {how}"
    if unlabelled.expected:
        expected = expected_in_words(unlabelled.expected)
        first += f"; expected accuracy of {unlabelled.images:,} images without labels: {expected}"
        first += ", too high because of the drift" if drift.verdict == drifting.FOUND else ""
    if drift.verdict == drifting.FOUND:
        moved = _telling(drift)[0]
        how = explain(champion.attributes, moved)
        second = f"New images of {_names(drift.concerned)} differ from the reference: {how}"
        second += f" ({moved.lot})" if len(drift.concerned) > 1 else ""
        more = len({test.signal for test in drift.tests if test.drifted}) - 1
        second += f", and {more} more signals drifted" if more > 1 else ", and one more signal drifted" if more else ""
    elif drift.verdict == drifting.NONE:
        second = "New images are like the reference"
    else:
        second = "Drift: not enough data"
    third = " This asks for a training." if decision["retrain"] else ""
    if decision["labels_needed"]:
        third += (
            f" Label images of {_names(decision['labels_needed'])} first ({TO_LABEL}): without labels a training learns"
            " nothing new."
        )
    if not decision["labels_read"]:
        third += " No labels could be read, because stage validate failed: its report says why."
    return " ".join([f"{first}. {second}.{third}", *(f"{remark}." for remark in remarks)])


def _telling(drift: Drift) -> list[Signal]:
    """Drifted signals, or tested ones if none drifted; directions of embeddings, which are hard to picture, last."""
    found = [test for test in drift.tests if test.drifted] or [test for test in drift.tests if test.p is not None]
    return sorted(found, key=lambda test: test.signal.startswith(EMBEDDING))


def _names(lots: Sequence[str]) -> str:
    if ALL in lots:
        return ALL
    first, more = list(lots[:3]), len(lots) - 3
    return f"lot{'s' if len(lots) > 1 else ''} {', '.join(first)}" + (f" and {more} more" if more > 0 else "")


def nothing_report(decision: Mapping[str, Any]) -> Report:
    """The report if there is nothing to monitor."""
    version, images = decision["champion"], sum(decision["seen"].values())
    why = (
        f"Nothing to monitor: {version} was trained or evaluated on the pictures of all {images:,} predicted images."
        if version
        else "Nothing to monitor: no version is released yet."
    )
    return Report(
        "Monitoring", "The released model on new images.", why, sections=[Links("Files", {FILES[0]: FILES[0]})]
    )


def describe_check(
    out: Path,
    champion: Champion,
    decision: Mapping[str, Any],
    performance: Performance,
    drift: Drift,
    reference: Features,
    lots: Mapping[str, Features],
    unlabelled: Unlabelled,
    worth: Sequence[Worth],
    picture: Callable[[str, str], str],
    checked: Checked | None,
    looked_at: Sequence[str],
    history: Sequence[Mapping[str, Any]],
    settings: MonitorSection,
    remarks: Sequence[str] = (),
) -> Report:
    """Put together the report of the artifact in `out`, and draw its plots there.

    Args:
        out: the artifact; its plots go to `plots/`.
        champion: the monitored version.
        decision: `decision.json`.
        performance: on new labels.
        drift: of new images.
        reference: the images on which the champion was measured.
        lots: lot -> its new images.
        unlabelled: expected accuracy on new images without labels.
        worth: images of to_label.csv.
        picture: lot and file name -> thumbnail, "" if there is none.
        checked: the findings of the suite; None if there was nothing to check.
        looked_at: the lots that the suite has checked.
        history: past checks, this one last: `performance.means`, `drifted`, `images`, `lots`.
        settings: the thresholds.
        remarks: further remarks for the verdict, each a sentence without its full stop.
    """
    attributes = champion.attributes
    on_labels: dict[str, object] = {
        "mean accuracy on new labels": share(performance.means["mean_accuracy"]),
        "at release": share(champion.mean_accuracy),
        "mean balanced accuracy on new labels": share(performance.means["mean_balanced_accuracy"]),
        "balanced at release": share(champion.mean_balanced_accuracy),
        "most frequent class alone": share(performance.means["mean_majority"]),
    }
    measured: list[PageSection | None] = [
        _accuracies(attributes, performance, settings),
        measures_table(attributes, performance.measures, "All figures on new labels"),
        classes_table(attributes, performance.measures),
    ]
    if not performance.total.mean.labels:  # nothing to say on labels that are not there
        on_labels, measured = {"mean accuracy at release": share(champion.mean_accuracy)}, []
    cards: dict[str, object] = {
        **on_labels,
        "drift": drift.verdict,
        "asks for a training": bool(decision["retrain"]),
        "asks for labels": bool(decision["labels_needed"]),
        "new images": sum(decision["lots"].values()),
        "of them labelled": performance.total.images if decision["labels_read"] else None,
        "expected accuracy of the others": unlabelled.expected and Share(unlabelled.expected["mean"]["value"]),
        "known images": sum(decision["seen"].values()),
        "champion": champion.version,
    }
    files = (*FILES, *(["findings.csv"] if checked else []))
    sections: list[PageSection | None] = [
        Cards(cards),
        _moved(attributes, drift),
        *_plots(attributes, out, drift),
        _examples(drift, reference, lots),
        *measured,
        expected_table(attributes, unlabelled.expected, unlabelled.images, _expected(unlabelled, drift)),
        worth_pictures(worth, unlabelled.images, picture),
        _lots(performance, drift, decision["lots"], decision["seen"]),
        _all_signals(attributes, drift),
        _expectations(checked, looked_at) if checked else None,
        past_runs(
            history,
            ("mean_accuracy", "mean_balanced_accuracy", "drifted", "images", "lots"),
            {"drifted": "drifted signals", "images": "new images", "lots": "lots with new images"},
        ),
        _reading(settings),
        Links("Files", {f"{TO_LABEL} ({len(worth):,} images to label)": TO_LABEL} | {name: name for name in files}),
        data_docs_links([checked.suite]) if checked else None,
    ]
    ill = performance.verdict == performing.LOW
    unsure = drift.verdict != drifting.NONE or performance.verdict == performing.NOT_ENOUGH
    return Report(
        title="Monitoring",
        subtitle=f"The released model {champion.version} on images outside its training.",
        verdict=verdict_line(champion, decision, performance, drift, unlabelled, remarks),
        passed=not ill,
        remarked=unsure or bool(checked and checked.found),
        sections=[section for section in sections if section],
        word="Asks for a training" if decision["retrain"] else "Asks for labels" if decision["labels_needed"] else "",
    )


def _expected(unlabelled: Unlabelled, drift: Drift) -> dict[str, tuple[int, Mapping[str, Any] | None, Badge | None]]:
    """Expected accuracy of each lot, with a mark if the lot drifted, which makes the estimate too high."""
    drifted = Badge("too high: drifted", "remark")
    return {
        lot: (images, expected, drifted if drift.lots[lot] == drifting.FOUND else None)
        for lot, (images, expected) in unlabelled.lots.items()
    }


def _moved(attributes: Attributes, drift: Drift) -> Table | None:
    moved = [test for test in drift.tests if test.drifted]
    tests = moved or [test for test in drift.tests if test.p is not None][:PLOTS]
    rows = [(test.lot, explain(attributes, test), *_row(attributes, test)[1:-1]) for test in tests]
    columns = ("Lot", "In words", "Signal", "Reference", "New", "PSI", "Distance", "p corrected")
    if moved:
        return short_table("Drifted signals", columns, rows, MOVED, "The strongest first.")
    return Table("Largest changes, none of them drift", columns, rows) if rows else None


def _row(attributes: Attributes, test: Signal) -> tuple[object, ...]:
    figures = map(share if test.moved else _figure, (test.then, test.now))
    what = title_of(attributes, test.signal) + (f" ({test.moved})" if test.moved else "")
    verdict = Badge(test.note or ("moved" if test.drifted else "no drift"), "remark" if test.drifted else "plain")
    return test.lot, what, *figures, _figure(test.psi), _figure(test.distance), _p(test.p_corrected), verdict


def _figure(value: float | None) -> float | None:
    return None if value is None else round(value, 3) + 0.0  # never -0


def _p(value: float | None) -> object:
    return None if value is None else "< 0.001" if value < 0.001 else round(value, 3)


def _plots(attributes: Attributes, out: Path, drift: Drift) -> list[Plot]:
    """The signals with the largest changes, equally many of each drifted lot."""
    telling = _telling(drift)
    lots = list(dict.fromkeys(test.lot for test in telling if test.lot != ALL)) or [ALL]
    each = max(1, PLOTS // len(lots))
    chosen = [test for lot in lots[:PLOTS] for test in [signal for signal in telling if signal.lot == lot][:each]]
    plots = []
    (out / "plots").mkdir()
    for number, test in enumerate(chosen, 1):
        path = out / "plots" / f"{number}_{test.signal}.png"
        draw_signal(drift.then[test.signal], drift.now[test.lot][test.signal]).savefig(path, dpi=DPI)
        plots.append(Plot(f"{title_of(attributes, test.signal)}, {test.lot}", path.read_bytes()))
    return plots


def _examples(drift: Drift, reference: Features, lots: Mapping[str, Features]) -> Group:
    """Some images of the reference beside images of the lots concerned, or of all new images."""
    names = [lot for lot in drift.concerned if lot != ALL] or list(lots)
    each = max(1, EXAMPLES // len(names))
    now = [picture for name in names[:EXAMPLES] for picture in _pictures(lots[name], each)]
    return Group(
        "Reference and new images",
        [
            Pictures("", _pictures(reference, EXAMPLES), "Reference: what the model was evaluated on"),
            Pictures("", now, f"New: {_names(names)}"),
        ],
    )


def _pictures(features: Features, most: int) -> list[Picture]:
    chosen = range(0, len(features.examples), max(1, len(features.examples) // most))[:most]
    return [Picture(thumbnail(features.examples[at]), [features.example_names[at]]) for at in chosen]


def _accuracies(attributes: Attributes, performance: Performance, settings: MonitorSection) -> Table:
    total = performance.total
    named = {attribute.title: total.attributes[attribute.name] for attribute in attributes} | {"Mean": total.mean}
    what = in_words(performance.metric)
    return Table(
        f"{what.capitalize()} on new labels",
        ("Attribute", "Labels", what.capitalize(), "Lowest", "Highest", "Verdict"),
        [(title, accuracy.labels, *_shares(accuracy), _enough(accuracy)) for title, accuracy in named.items()],
        note=f"The true {what} lies between lowest and highest with 95%. An attribute with fewer than "
        f"{settings.min_labels} labels {_counted(performance.metric)}has not enough data and is left out of the mean, "
        f"which should be at least {settings.min_accuracy:.0%}.",
    )


def _counted(metric: str) -> str:
    """Remark on the count of labels, if it is not simply their number."""
    return "" if metric == "accuracy" else "(or as informative as so many of equally frequent classes) "


def _shares(accuracy: Accuracy) -> tuple[Share | None, ...]:
    return tuple(map(share, (accuracy.value, accuracy.low, accuracy.high)))


def _enough(accuracy: Accuracy) -> Badge:
    return Badge(performing.NOT_ENOUGH) if accuracy.value is None else Badge("measured", "good")


def _lots(performance: Performance, drift: Drift, images: Mapping[str, int], seen: Mapping[str, int]) -> Table:
    rows = []
    known = {**seen, ALL: sum(seen.values())}
    for lot in [*images, *([ALL] if len(images) > 1 else [])]:
        group = performance.total if lot == ALL else performance.lots.get(lot)
        mean = group.mean if group else Accuracy(0)
        verdict = performing.NOT_ENOUGH if mean.value is None else performing.OK
        together = lot == ALL or len(images) == 1
        if lot in performance.concerned or (together and performance.verdict == performing.LOW):
            verdict = performing.LOW
        told = [Badge(word, TONES.get(word, "plain")) for word in (verdict, drift.lots[lot])]
        rows.append((lot, images.get(lot, sum(images.values())), known[lot], mean.labels, *_shares(mean), *told))
    others = len(seen.keys() - images.keys())
    note = f"The model knows all pictures of {others} other lot{'s' if others > 1 else ''}." if others else ""
    what = in_words(performance.metric).capitalize()
    columns = ("Lot", "New images", "Known images", "Labels", what, "Lowest", "Highest", "Verdict", "Drift")
    return short_table("New images by lot", columns, rows, LOTS, note)


def _all_signals(attributes: Attributes, drift: Drift) -> Table:
    rows = [_row(attributes, test) for test in drift.tests]
    columns = ("Lot", "Signal", "Reference", "New", "PSI", "Distance", "p corrected", "Verdict")
    return short_table(f"All {len(rows)} signals", columns, rows, SIGNALS, folded=True)


def _expectations(checked: Checked, lots: Sequence[str]) -> Group:
    group = checks(checked.suite, checked.result)
    return replace(group, note=f"{group.note} by {_names(lots)}")


def _reading(settings: MonitorSection) -> Table:
    rows = [
        ("Reference, new", "The mean of the signal, or the share of the class in brackets, in the images that the "
         "model was evaluated on at its release, and in the new images."),
        ("PSI", "Population stability index: how differently the images spread over ten ranges that each hold a tenth "
         "of the reference, less the part that chance explains. From 0.1 a change is called moderate, from 0.25 "
         f"large. Below {settings.min_psi:g} nothing counts as drift."),
        ("Distance", "The largest difference between the shares of images below any value (Kolmogorov-Smirnov), or "
         "between the shares of a class. 0 is the same, 1 is nothing in common."),
        ("p corrected", "How likely a difference of this size is by chance, given the number of tested signals (Holm). "
         f"Above {settings.alpha:g} nothing counts as drift."),
        ("Not enough data", f"Fewer than {settings.min_images} different images, or values that never vary. This is "
         "not the same as no drift."),
    ]  # fmt: skip
    return Table("How to read these figures", ("Word", "What it means"), rows, folded=True)
