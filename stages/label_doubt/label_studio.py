"""Doubtful labels for Label Studio: tasks with the suggested classes chosen, and the configuration of the project.

The form is that of Label Studio 1.x, "Basic Label Studio JSON": https://labelstud.io/guide/predictions. Stage
`validate` reads its export as "JSON".
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from stages.common.images.thumbnails import thumbnail
from stages.common.schema.annotations import CANNOT_TELL
from stages.common.schema.attributes import UNKNOWN, Attributes
from stages.common.schema.dataset import Split
from stages.label_doubt.doubts import Doubt

TASKS, CONFIG = "label_studio.json", "label_studio.xml"


def write_label_studio(folder: Path, doubts: Sequence[Doubt], images: Split, rows: Sequence[Mapping[str, str]]) -> None:
    """Write both files.

    Args:
        folder: of the artifact.
        doubts: all doubts, those that are worth most first.
        images: N images.
        rows: their rows of the index.
    """
    of_image: dict[int, list[Doubt]] = {}
    for doubt in doubts:
        of_image.setdefault(doubt.image, []).append(doubt)
    with (folder / TASKS).open("w", encoding="utf-8") as file:  # one at a time: a picture has 2 kB
        file.write("[")
        for number, (image, found) in enumerate(of_image.items()):
            file.write(",\n" if number else "\n")
            json.dump(_task(found, image, images, rows[image]), file)
        file.write("\n]\n")
    (folder / CONFIG).write_text(_config(images.attributes), encoding="utf-8")


def _task(doubts: Sequence[Doubt], image: int, images: Split, row: Mapping[str, str]) -> dict[str, Any]:
    """A task with the annotated labels; for a doubtful label, the suggested class is chosen."""
    suggested = {doubt.attribute.name: doubt.suggested for doubt in doubts}
    known = {
        attribute.name: int(label) for attribute, label in zip(images.attributes, images.labels[image], strict=True)
    }
    chosen = {name: label for name, label in (known | suggested).items() if label != UNKNOWN}
    result = [
        {
            "id": attribute.name,
            "from_name": attribute.column,
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [attribute.classes[chosen[attribute.name]]]},
        }
        for attribute in images.attributes
        if attribute.name in chosen
    ]
    told = [
        f"{attribute.title}: annotated {attribute.classes[doubt.label]} ({doubt.probability_of_label:.1%}), "
        f"suggested {attribute.classes[doubt.suggested]} ({doubt.probability_of_suggested:.1%})"
        for doubt in doubts
        for attribute in (doubt.attribute,)
    ]
    picture = thumbnail(images.take(slice(image, image + 1))[0])
    return {
        "data": {"image": picture, "filename": row["filename"], "lot": row["lot"], "doubts": "; ".join(told)},
        "predictions": [
            {"model_version": "label_doubt", "score": doubts[0].probability_of_suggested, "result": result}
        ],
    }


def _config(attributes: Attributes) -> str:
    """The labelling configuration: the picture, the doubts, and a block of choices per attribute."""
    blocks = [
        line
        for attribute in attributes
        for line in (
            f"  <Header value={quoteattr(attribute.title)}/>",
            f'  <Choices name={quoteattr(attribute.column)} toName="image" choice="single" showInline="true">',
            *(f"    <Choice value={quoteattr(name)}/>" for name in (*attribute.classes, CANNOT_TELL)),
            "  </Choices>",
        )
    ]
    return "\n".join(
        [
            "<View>",
            '  <Image name="image" value="$image" width="240px"/>',
            '  <Text name="doubts" value="$doubts"/>',
            *blocks,
            "</View>",
            "",
        ]
    )
