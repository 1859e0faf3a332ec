"""A pipeline up to stage archive in small: its models read their answers off 8x8 pictures."""

import csv
import html
import json
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.archive.stage import STAGE
from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.stage import Input
from stages.common.images.thumbnails import thumbnail
from stages.common.inference.answers import Answers
from stages.common.inference.measures import measure
from stages.common.registry.registry import Registry
from stages.common.schema.attributes import Attributes, write_attributes
from stages.common.schema.dataset import INDEX, index_columns
from tests.common.onnx_models import PREPROCESSING, SIDE, save_model
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES

MODELS = 6
"""The picture's row r holds what model r answers."""


PICTURE = Image.new("RGB", (9, 9), "red")
COPY = "c" * 32
"""Digest of a picture that was left out for being nearly that of the first image."""


class Pipeline:
    """Artifacts of the stages before archive, as they are asked for, and the stage that is run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stage = folder, STAGE
        self.registry = Registry(folder / "registry")
        self.inputs = {name: folder / name for name in STAGE.inputs}
        self.result: dict[str, Any] = {}
        for name in ("validate", "card"):
            (folder / name).mkdir()
        (folder / "validate" / "annotations.csv").write_text(
            f"filename,pixels,group\ns1_copy.jpg,{COPY},{artifacts.json_digest(['a', 0])[:32]}\n"
        )
        for name in ("validate", "hyperopt", "label_doubt"):
            self._finish(name)
        (folder / "evaluate" / "reference").mkdir(parents=True)
        (folder / "evaluate" / "metrics").mkdir()
        (folder / "evaluate" / "hardest.json").write_text("[]")
        thumbnails = {artifacts.json_digest(["a", number])[:32]: thumbnail(PICTURE) for number in range(20)}
        artifacts.write_json(folder / "evaluate" / "pictures.json", thumbnails)
        (folder / "evaluate" / "reference" / "features.npz").write_text("features")
        nothing = measure(Answers(SAMPLE_ATTRIBUTES[0], np.zeros(0, int), np.zeros((0, 2))))
        metrics = {
            "mean_accuracy": 0.9, "mean_balanced_accuracy": 0.8, "mean_majority": 0.7, "images": 1, "no_better": [],
            "worst_slice": None,
            "attributes": dict.fromkeys((*SAMPLE_NAMES, "hat"), nothing),
        }  # fmt: skip
        artifacts.write_json(folder / "evaluate" / "metrics" / "eval_metrics.json", metrics)
        self._finish("evaluate")
        self.prepare()

    def prepare(
        self,
        pictures: str = "a",
        images: int = 200,
        wrong: Sequence[int] = (0,) * MODELS,
        attributes: Attributes = SAMPLE_ATTRIBUTES,
        unlabelled: Collection[str] = (),
        lots: int = 1,
        **data: Any,
    ) -> None:
        """Make other data.

        Args:
            pictures: those of one text have nothing in common with those of another.
            images: in the test split.
            wrong: per model, how many of its answers are wrong: one an image, of each model in other images.
            attributes: what is annotated.
            unlabelled: those of them without a label.
            lots: that the images are in, s1 and so on, equally many in each.
            **data: of section `data` of params.yaml.
        """
        folder = self.inputs["prepare_train"]
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("shards", "metrics"):
            (folder / name).mkdir(parents=True)
        random = np.random.default_rng(0)
        labels = np.stack([random.integers(0, len(attribute.classes), images) for attribute in attributes], axis=1)
        shard = np.zeros((images, SIDE, SIDE, 3), np.uint8)
        for model, count in enumerate(wrong):
            shard[:, model, : len(attributes), 0] = labels
            for image in (sum(wrong[:model]) + np.arange(count)) % images:
                column = image % len(attributes)
                shard[image, model, column, 0] = (labels[image, column] + 1) % len(attributes[column].classes)
        each = images // lots
        for lot in range(lots):
            np.save(folder / "shards" / f"s{lot + 1}.npy", shard[lot * each : (lot + 1) * each])
        write_attributes(folder, attributes)
        with (folder / INDEX).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(index_columns(attributes))
            for number in range(images):
                digest = artifacts.json_digest([pictures, number])[:32]
                cells = [
                    "" if attribute.name in unlabelled else label
                    for attribute, label in zip(attributes, labels[number], strict=True)
                ]
                of_lot, row = f"s{number // each + 1}", number % each
                table.writerow([f"{of_lot}_{number}.png", of_lot, row, "test", digest, digest, *cells])
        artifacts.write_json(folder / "metrics" / "data_stats.json", self._statistics(images))
        self._finish("prepare_train", params={"data": {"seed": 1, **data}}, headline={"images": images})

    def train(self, model: int = 0, key: str = "", **changes: Any) -> None:
        """Make a model: that which reads row `model`, in an artifact with a key made of `key`."""
        folder = self.inputs["train"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        save_model(folder / "model.onnx", row=model, **changes)
        (folder / "model.safetensors").write_text(f"weights {model}")
        self._finish("train", key=artifacts.json_digest([model, key]))

    def add_stage(self, name: str, page: str, **files: str) -> None:
        """Give the stage one more input, with these files in the artifact, by their names before `.csv`."""
        self.stage = replace(self.stage, inputs={**self.stage.inputs, name: Input("one more stage")})
        self.inputs[name] = self.folder / name
        self.inputs[name].mkdir()
        for file, text in files.items():
            (self.inputs[name] / f"{file}.csv").write_text(text)
        self._finish(name, page=page)

    def archive(self, *overrides: str) -> int:
        """Run the stage; its exit code. Headline and paths are in `result`."""
        told = self.folder / "result.json"
        told.unlink(missing_ok=True)
        arguments = [word for name, path in self.inputs.items() for word in (f"--{name}", str(path))]
        arguments += ["--store", str(self.folder / "store"), "--result", str(told)]
        code = main(self.stage, [*arguments, *(word for item in overrides for word in ("--set", item))])
        self.result = json.loads(told.read_text()) if told.exists() else {}
        return code

    def champion(self) -> str:
        """The champion's name, "" if there is none."""
        champion = self.registry.champion()
        return champion.name if champion else ""

    def page(self) -> str:
        """The text of the last run's page."""
        page = Path(self.result["report"]).read_text()
        return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", page[page.index("<body") :])))

    def verdict(self) -> str:
        """Beginning of that page."""
        return self.page()[:1200]

    def _statistics(self, images: int) -> dict[str, Any]:
        duplicates = {"pictures": 0, "images": 0, "contradicting_labels": 0, "listed": []}
        return {"lots": {"s1": {"test": images}}, "preprocessing": PREPROCESSING, "duplicates": duplicates}

    def _finish(self, stage: str, key: str = "", params: Any = None, headline: Any = None, page: str = "") -> None:
        folder = self.inputs[stage]
        folder.mkdir(exist_ok=True)
        (folder / "report.html").write_text(page or f"<p>{stage}")
        artifacts.write_manifest(
            folder, stage=stage, key=key or artifacts.json_digest([stage, artifacts.list_files(folder)]),
            version="0" * 64, inputs={}, params=params or {}, image="", git_commit="", created="2026-01-01T00:00:00Z",
            seconds=1.0, peak_memory_mb=1.0, headline=headline or {},
        )  # fmt: skip
