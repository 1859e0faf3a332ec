"""Findings of a successful stage that a person should inspect, from its headline."""

from collections.abc import Mapping

LENGTH = 200
"""Characters of one finding; the report has the rest."""
STAGES = ("validate", "prepare_train", "evaluate", "label_doubt", "archive", "predict", "monitor")
"""Stages that may have findings."""


def findings(stage: str, headline: Mapping[str, object]) -> dict[str, str]:
    """Kind of finding -> the finding, in a few words.

    Args:
        stage: a stage of `STAGES`; others have no findings.
        headline: its headline.
    """

    def some(name: str, what: str) -> str:
        count = headline.get(name)
        return f"{count:,} {what}" if isinstance(count, int) and count else ""

    def listed(name: str, what: str) -> str:
        return f"{what}: {headline[name]}" if headline.get(name) else ""

    def when(is_so: bool, what: str) -> str:
        return what if is_so else ""

    unfit = f"{headline.get('version')} is not fit: {headline.get('why') or 'see its report'}"
    of_stage = {
        "validate": {
            "rejects": some("rejected", "rows rejected"),
            "warnings": listed("warnings", "rows with a warning"),
            "notices": listed("notices", "about the whole table"),
        },
        "prepare_train": {"rejects": some("rejected", "images rejected")},
        "evaluate": {
            "no better": listed("no_better", "no better than the most frequent class"),
            "slice": listed("worst_slice", "worst slice"),
        },
        "label_doubt": {"doubts": some("doubts", "doubtful labels")},
        "archive": {
            "not fit": when(headline.get("fit") == "no", unfit),
            "slices": listed("warnings", "slices that fell"),
        },
        "predict": {
            "undecodable": some("undecodable", "undecodable images"),
            "answers": listed("findings", "answers"),
        },
        "monitor": {
            "drift": when(headline.get("drift") == "found", "drift found"),
            "accuracy": when(headline.get("performance") == "low", "accuracy is low"),
            "labels": when(headline.get("labels_needed") == "yes", "labels needed: its to_label.csv lists images"),
        },
    }
    return {kind: text[:LENGTH] for kind, text in of_stage.get(stage, {}).items() if text}
