"""A model's observation of images: its answers, its embeddings, and statistics of its input."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from stages.common.contract.logs import Progress
from stages.common.images.statistics import image_statistics
from stages.common.inference.features import Features, evenly_spread, join_features
from stages.common.inference.onnx_model import OnnxModel
from stages.common.schema.face import NO_FACES

Images = npt.NDArray[np.uint8]


def observe(model: OnnxModel, filenames: Sequence[str], take: Callable[[slice], Images], batch_size: int) -> Features:
    """Run a model over images, batch by batch.

    Args:
        model: expects images of their size.
        filenames: N names, N >= 1.
        take: gives the images of a slice, uint8 (n, S, S, 3): `Split.take`, or `__getitem__` of an array.
        batch_size: images at once.

    Returns:
        Features of the N images, with evenly spread examples.
    """
    progress = Progress(len(filenames), "images")
    examples = {filenames[position] for position in evenly_spread(len(filenames))}
    parts = []
    for start in range(0, len(filenames), batch_size):
        batch = slice(start, start + batch_size)
        parts.append(observe_batch(model, filenames[batch], take(batch), examples))
        progress.advance(len(parts[-1]))
    return join_features(parts)


def observe_batch(
    model: OnnxModel,
    filenames: Sequence[str],
    images: Images,
    examples: Collection[str],
    pictures: Sequence[int] = (),
    faces: Sequence[Sequence[int]] = (),
) -> Features:
    """Run a model over one batch.

    Args:
        model: expects images of their size.
        filenames: n names, n >= 1.
        images: uint8 (n, S, S, 3).
        examples: names of those images to keep whole.
        pictures: n numbers that identify the pictures, or none.
        faces: n times the fields of `stages.common.schema.face.Face`, or none.
    """
    probabilities, embeddings = model.predict_and_embed(images)
    chosen = [position for position, name in enumerate(filenames) if name in examples]
    return Features(
        filenames=filenames,
        statistics=image_statistics(images),
        embeddings=embeddings,
        probabilities=probabilities,
        examples=images[chosen],
        example_names=[filenames[position] for position in chosen],
        pictures=np.array(pictures, np.uint64),
        decision=model.calibration.decision,
        faces=np.array(faces, np.int32).reshape(-1, NO_FACES.shape[1]),
    )
