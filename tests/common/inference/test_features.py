"""Data for drift: statistics of pictures, and features that are saved, joined and thinned out."""

from pathlib import Path

import numpy as np
import pytest

from stages.common.contract.errors import DataError
from stages.common.images.statistics import STATISTICS, image_statistics
from stages.common.inference.features import EXAMPLES, Features, evenly_spread, join_features, load_features
from stages.common.inference.observation import observe
from stages.common.inference.onnx_model import load
from tests.common.onnx_models import SIDE, save_model
from tests.common.samples import FIRST, SAMPLE_ATTRIBUTES, SAMPLE_NAMES


def picture(*colors: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """8x8 pixels in as many vertical stripes as there are colours."""
    stripes = np.repeat(np.array(colors, np.uint8), SIDE // len(colors), axis=0)
    return np.broadcast_to(stripes, (SIDE, SIDE, 3)).copy()


def test_statistics_are_what_they_are_called() -> None:
    black, white, red, checks = (0, 0, 0), (255, 255, 255), (255, 0, 0), ((0, 0, 0), (255, 255, 255)) * 4
    images = np.stack([picture(black), picture(white), picture(red), picture(black, white), picture(*checks)])
    found = image_statistics(images)
    assert list(found) == list(STATISTICS)
    assert {values.dtype.name for values in found.values()} == {"float32"}
    assert found["brightness"].tolist() == [0, 255, 76, 127.5, 127.5]
    assert found["contrast"].tolist() == [0, 0, 0, 127.5, 127.5]
    assert found["saturation"].tolist() == [0, 0, 255, 0, 0]
    assert found["warmth"].tolist() == [0, 0, 255, 0, 0]
    assert found["sharpness"].tolist() == [0, 0, 0, 85, 510]
    assert found["flatness"].tolist() == pytest.approx([1, 1, 1, 1 - 1 / 14, 0.5])
    assert found["ripple"].tolist() == [0, 0, 0, 0, 0]
    assert found["white"].tolist() == [0, 1, 0, 0.5, 0.5]
    ripples = images[3].copy()
    ripples[::2] -= np.minimum(ripples[::2], 5)
    assert image_statistics(ripples[None])["ripple"].tolist() == pytest.approx([0.25])  # half of it, up and down


def test_colour_in_blocks_shows() -> None:
    smooth = np.random.default_rng(0).normal(128, 20, (20, 96, 96, 3))
    blocks = smooth.reshape(20, 8, 12, 8, 12, 3).mean((2, 4)).repeat(12, 1).repeat(12, 2)
    low, high = (image_statistics(images.astype(np.uint8))["blockiness"] for images in (smooth, blocks))
    assert low.max() < 0.25 < high.min()
    assert image_statistics(np.full((1, SIDE, SIDE, 3), 200, np.uint8))["blockiness"].tolist() == [0]


def test_statistics_of_an_image_do_not_depend_on_its_neighbours() -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, SIDE, SIDE, 3), np.uint8)
    together = image_statistics(images)
    for number in (0, 31, 32, 69):
        for name, values in image_statistics(images[number : number + 1]).items():
            assert values[0] == together[name][number]
    assert all(len(values) == 0 for values in image_statistics(images[:0]).values())


def test_a_model_observes_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    model = load(save_model(tmp_path / "model.onnx"), threads=1)
    images = np.random.default_rng(0).integers(0, 2, (50, SIDE, SIDE, 3), np.uint8)
    names = [f"{number}.png" for number in range(50)]
    one, other = (observe(model, names, images.__getitem__, size) for size in (7, 64))
    assert len(one) == 50
    assert len(one.examples) == len(one.example_names) == EXAMPLES
    assert (one.example_names[0], one.example_names[-1]) == ("0.png", "49.png")
    assert one.embeddings.tolist() == images[:, 0, :, 0].tolist()
    for name, image in zip(one.example_names, one.examples, strict=True):
        assert (image == images[names.index(name)]).all()
    one.save(tmp_path / "features.npz")
    for features in (other, load_features(tmp_path / "features.npz")):
        assert features.filenames == names
        assert (features.examples == one.examples).all()
        assert (features.embeddings == one.embeddings).all()
        assert list(features.statistics) == list(STATISTICS)
        for attribute in SAMPLE_ATTRIBUTES:
            assert features.probabilities[attribute.name].shape == (50, len(attribute.classes))
            assert (features.probabilities[attribute.name] == one.probabilities[attribute.name]).all()


def test_positions_are_evenly_spread() -> None:
    assert evenly_spread(0) == []
    assert evenly_spread(1) == [0]
    assert evenly_spread(5, 3) == [0, 2, 4]
    assert evenly_spread(3, 5) == [0, 1, 2]
    assert len(evenly_spread(1000)) == EXAMPLES


def make(names: list[str]) -> Features:
    count = len(names)
    return Features(
        filenames=names,
        statistics={"brightness": np.zeros(count, np.float32)},
        embeddings=np.zeros((count, 4), np.float32),
        probabilities={name: np.zeros((count, 2), np.float32) for name in SAMPLE_NAMES},
        examples=np.zeros((count, 2, 2, 3), np.uint8),
        example_names=names,
    )


def test_joined_features_keep_few_examples_and_all_else() -> None:
    joined = join_features([make([f"{lot}{number}" for number in range(20)]) for lot in "ab"])
    assert joined.filenames[19:21] == ["a19", "b0"]
    assert joined.embeddings.shape == (40, 4)
    assert len(joined.examples) == len(joined.example_names) == EXAMPLES
    assert {name[0] for name in joined.example_names} == {"a", "b"}


def test_what_a_model_decides_by_goes_with_its_probabilities(tmp_path: Path) -> None:
    features = Features(**{**vars(make(["a", "b"])), "decision": {FIRST: [0.0, 1.5]}})
    features.save(tmp_path / "features.npz")
    loaded = load_features(tmp_path / "features.npz")
    for features in (loaded, join_features([loaded, loaded]), loaded.take(np.array([1]))):
        assert features.decision == {FIRST: [0.0, 1.5]}


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"\x80\x04."])
def test_what_are_no_features_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "features.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        load_features(tmp_path / "features.npz")
