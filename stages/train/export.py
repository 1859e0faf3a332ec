"""The trained network as files: ONNX for use, safetensors for PyTorch. Neither can carry code."""

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from stages.common.inference.calibration import Calibration
from stages.common.schema.attributes import names
from stages.common.training.kept import save_file
from stages.common.training.network import Classifier, Network


def export_onnx(
    path: Path,
    network: Network,
    calibration: Calibration,
    preprocessing: Mapping[str, Any],
    *,
    mirrored: bool = False,
) -> None:
    """Write the network as one ONNX file that takes uint8 images and gives probabilities and embeddings.

    A model is known by the bytes of this file. So the same weights, calibration and preprocessing give the same bytes,
    wherever and from whatever artifact: nothing in it tells where the code lies, or when and from what it was trained.

    Args:
        path: the file to write.
        network: on the CPU, in evaluation mode.
        calibration: temperatures, which become part of the graph, and thresholds.
        preprocessing: how images were prepared; its `image_size` fixes S of the input (N, S, S, 3). It goes into the
            metadata with the attributes and the calibration.
        mirrored: whether the graph looks at every image and at its mirror image, and answers of both together.
    """
    side = int(preprocessing["image_size"])
    metadata = {
        "attributes": [asdict(attribute) for attribute in network.attributes],
        "image_size": side,
        "preprocessing": dict(preprocessing),
        **calibration.model_dump(),
    }
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they tell each step of the optimiser
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # PyTorch 2.15's exporter calls parts of PyTorch that are deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            Classifier(network, calibration.temperatures, calibration.learned, mirrored=mirrored).eval(),
            (torch.zeros(2, side, side, 3, dtype=torch.uint8),),  # 2, for 1 would be taken as a constant
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=[*names(network.attributes), "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
        assert program is not None  # noqa: S101 (for mypy: it is None for the old exporter only)
        ClearMetadataAndDocStringPass()(program.model)  # lines and folders of the code that the exporter came through
        program.model.metadata_props["face_attributes"] = json.dumps(metadata)
        program.save(path, external_data=False)


def save_weights(path: Path, network: Network, calibration: Calibration, *, mirrored: bool) -> None:
    """Write the weights as safetensors, with what `Classifier` needs besides, as JSON in the metadata."""
    told = calibration.model_dump(include={"temperatures", "learned"}) | {"width": network.width, "mirrored": mirrored}
    metadata = {name: json.dumps(value) for name, value in told.items()}
    save_file(path, network.state_dict(), metadata)
