"""Made-up predictions: artifacts of stage predict with any number of images, for tests of their readers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.contract import artifacts
from stages.common.inference.answers import answers_of
from stages.common.inference.features import Features
from stages.common.inference.predictions import write_predictions
from stages.common.schema.attributes import Attribute, Attributes, names, write_attributes
from stages.predict.counts import add_counts, count_answers

ATTRIBUTES: Attributes = tuple(
    Attribute(f"part_{number}", tuple(f"kind_{kind}" for kind in range(count)), f"part_{number}", f"Part {number}")
    for number, count in enumerate((2, 2, 2, 4, 3))
)


def make_predictions(
    store: Path,
    lots: Mapping[str, int],
    attributes: Attributes = ATTRIBUTES,
    version: str = "v1",
    width: int = 8,
    raw: Path = Path("raw"),
) -> Path:
    """Write an artifact of stage predict, with random answers.

    Args:
        store: the artifact store.
        lots: lot -> images; each lot has the same answers whatever other lots there are.
        attributes: that are answered; images are abstained from below a confidence of .6.
        version: that answered.
        width: of the embeddings.
        raw: the folder with the images, which nobody looks for.

    Returns:
        The artifact.
    """
    champion = artifacts.json_digest(["champion", version])
    (store / "champion" / champion).mkdir(parents=True, exist_ok=True)
    write_attributes(store / "champion" / champion, attributes)
    key = artifacts.json_digest([lots, names(attributes), version])
    artifact = store / "predict" / key
    for folder in ("outputs", "features", "metrics"):
        (artifact / folder).mkdir(parents=True)
    told: dict[str, dict[str, Any]] = {}
    for lot, count in lots.items():
        random = np.random.default_rng(list(f"{lot}{version}".encode()))
        probabilities = {
            attribute.name: random.dirichlet(np.full(len(attribute.classes), 0.4), count).astype(np.float32)
            for attribute in attributes
        }
        filenames = [f"{lot}_{number:07}.png" for number in range(count)]
        embeddings = np.abs(random.standard_normal((count, width), np.float32))
        Features(filenames, {}, embeddings, probabilities, np.empty((0, 8, 8, 3), np.uint8), []).save(
            artifact / "features" / f"{lot}.npz"
        )
        answers = [replace(answer, threshold=0.6) for answer in answers_of(attributes, probabilities)]
        write_predictions(artifact / "outputs" / f"predictions_{lot}.csv", filenames, answers, version)
        told[lot] = {"images": count, "undecodable": 0, "reused": False, "classes": count_answers(answers)}
    metrics = {"model_version": version, "classes": add_counts(lot["classes"] for lot in told.values()), "lots": told}
    artifacts.write_json(artifact / "metrics/predictions.json", metrics)
    artifacts.write_manifest(
        artifact,
        stage="predict",
        key=key,
        inputs={"raw": {"path": str(raw), "digest": "0" * 64}, "champion": {"key": champion, "content": "0" * 64}},
        headline={"version": version, "images": sum(lots.values())},
    )
    return artifact
