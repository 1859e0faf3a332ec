"""Model card and data card of a version in small: what people wrote, what the run knows, and where they are found."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.archive.cards import ASKED, LONGEST, OWN
from stages.common.registry.registry import PAGE
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.stages.archived import Pipeline

pytestmark = pytest.mark.slow
TEXT = """\
<!-- what this file is for -->
The first <b>paragraph</b>.

# intended use
For doors.

- not for banks
- nor for <script>alert(1)</script>

## Licences
CC0.
# Intended use
And windows.

```
# no headline
```
# What we learned
Nothing.
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A version without a text of people, and once more with one."""
    made = Pipeline(tmp_path_factory.mktemp("cards"))
    made.prepare(wrong=(10, 4, 0, 0, 0, 0), lots=2)
    made.train(0)
    assert made.archive() == 0
    return made


def card(pipeline: Pipeline, name: str) -> tuple[Any, dict[str, str]]:
    """Head of a card, and headline -> what stands below it."""
    text = Path(pipeline.result["outputs"][name]).read_text()
    _, head, body = text.split("---\n", 2)
    first, *rest = re.split(r"^## (.+)\n", body, flags=re.MULTILINE)
    return yaml.safe_load(head), {"": first, **dict(zip(rest[::2], rest[1::2], strict=True))}


def test_cards_ask_people_for_what_no_run_can_know(pipeline: Pipeline) -> None:
    asked = dict[str, str]()
    for name in ("model_card", "data_card"):
        asked |= {title: text for title, text in card(pipeline, name)[1].items() if "Not written yet" in text}
    assert set(asked) == set(ASKED)
    assert f"Say below '# Uses' in {OWN} of the data folder {ASKED['Uses']}." in asked["Uses"]


def test_the_model_card_tells_what_it_was_measured_on_at_what_cost(pipeline: Pipeline) -> None:
    head, sections = card(pipeline, "model_card")
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "name": "mean", "value": 0.9}
    for attribute in SAMPLE_ATTRIBUTES:
        assert f"| {attribute.title} | {', '.join(attribute.classes)} |" in sections["Model details"]
        assert f"| {attribute.title} |" in sections["Metrics"]
    assert "lots (s1, s2)" in sections["Evaluation data"]
    assert "| all | 6 |" in sections["Energy"]
    assert "| s1 | 200 |" in card(pipeline, "data_card")[1]["Composition"]


def test_what_people_write_is_in_both_cards_and_makes_no_other_version(pipeline: Pipeline) -> None:
    before = pipeline.result["key"]
    (pipeline.inputs["card"] / OWN).write_text(TEXT)
    assert pipeline.archive() == 0
    assert pipeline.result["key"] != before
    assert [version.name for version in pipeline.registry.versions()] == ["v1"]
    model, data = (card(pipeline, name)[1] for name in ("model_card", "data_card"))
    written = "For doors.\n\n- not for banks\n- nor for <script>alert(1)</script>\n\nAnd windows.\n\n"
    written += "```\n# no headline\n```\n\n"
    assert model["Intended use"].startswith(f"\n{written}")
    assert model["What we learned"] == "\nNothing.\n"
    for told in (model, data):
        assert told[""].endswith("The first <b>paragraph</b>.\n\n")
        assert told["Licences"].startswith("\nCC0.\n")
        assert "what this file is for" not in "".join(told.values())
    page = Path(pipeline.result["path"], "model_card.html").read_text()
    assert "<script" not in page
    assert "<p>- not for banks</p>" in page
    assert "<p>And windows.</p>" in page


def test_a_text_that_cannot_be_read_is_refused(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    own = pipeline.inputs["card"] / OWN
    for content, cause in ((b"gr\xfc\xdfe", "byte 2 is not UTF-8"), (b"x" * (LONGEST + 1), "at most 65,536 are read")):
        own.write_bytes(content)
        caplog.clear()
        assert pipeline.archive() == 65
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert str(own) in line
        assert cause in line
    own.write_text(TEXT)
    assert pipeline.archive() == 0


def test_a_version_its_run_and_the_page_of_all_versions_lead_to_the_cards(pipeline: Pipeline) -> None:
    for page in (Path(pipeline.result["report"]), Path(pipeline.result["path"], "report.html")):
        for name in ("model_card.html", "data_card.html"):
            assert f'href="{name}"' in page.read_text()
            for link in re.findall(r'href="([^"#]+)"', page.with_name(name).read_text()):
                assert page.with_name(link).is_file()
    versions = pipeline.registry.home / PAGE
    data = json.loads(re.findall(r'id="data">(.*?)</script>', versions.read_text(), re.DOTALL)[0])
    assert (versions.parent / data["versions"][0]["card"]).is_file()
    assert "# Model card" in pipeline.registry.text("v1", "model_card.md")
    assert "# Data card" in pipeline.registry.text("v1", "data_card.md")
