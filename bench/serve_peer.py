"""The service for the comparison of `bench.serve --peer`: BentoML, on the same model.

It runs in another Python environment, with BentoML and images/serve/requirements.txt. Decoding, cropping and the
model's session are ours, so only the serving differs. BentoML's batches need lists of images in JSON or in a form, not
an image as the body of a request, so each image is answered by itself, with a process per core.
"""

import os
from pathlib import Path
from typing import Any

import bentoml  # type: ignore[import-not-found]  # lies in the environment of the peer alone
import numpy as np

from stages.common.images.preprocess import content_of, fit_square
from stages.common.inference.onnx_model import load


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), metrics={"enabled": False})
class Peer:
    """Answers with the probabilities of each attribute."""

    def __init__(self) -> None:
        """Load the model."""
        self.model = load(Path(os.environ["PEER_MODEL"]), threads=1)

    @bentoml.api  # type: ignore[untyped-decorator]
    def answer(self, image: Path, /) -> dict[str, Any]:
        """Answer one image."""
        settings = self.model.preprocessing
        picture = fit_square(content_of(image.read_bytes(), settings).picture, settings)
        return {name: values[0].tolist() for name, values in self.model.predict(picture[np.newaxis]).items()}
