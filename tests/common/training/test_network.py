"""The network: what goes in and what comes out."""

import pytest
import torch

from stages.common.training.network import Classifier, Network, count_parameters
from tests.common.samples import SAMPLE_ATTRIBUTES


@pytest.mark.parametrize("side", [16, 50, 64])
def test_bytes_of_any_size_become_probabilities_per_attribute(side: int) -> None:
    images = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8)
    *outputs, embeddings = Classifier(Network(SAMPLE_ATTRIBUTES, width=8).eval())(images)
    assert embeddings.shape == (3, 32)
    assert [tuple(one.shape) for one in outputs] == [(3, len(attribute.classes)) for attribute in SAMPLE_ATTRIBUTES]
    for one in outputs:
        torch.testing.assert_close(one.sum(1), torch.ones(3))


def test_bytes_and_floats_of_the_same_image_get_the_same_answer() -> None:
    network = Network(SAMPLE_ATTRIBUTES, width=8).eval()
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    for one, other in zip(network(images), network(images.float()), strict=True):
        torch.testing.assert_close(one, other)


def test_the_network_stays_small() -> None:
    assert 200_000 < count_parameters(Network(SAMPLE_ATTRIBUTES, width=32)) < 400_000
