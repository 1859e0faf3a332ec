"""The network: what goes in and what comes out."""

import pytest
import torch
from torch import nn

from stages.common.schema.attributes import names
from stages.common.schema.learned import all_learned
from stages.common.training.network import Classifier, Heads, Network, Outputs, count_parameters
from tests.common.samples import SAMPLE_ATTRIBUTES


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("side", [16, 50, 64])
def test_bytes_of_any_size_become_probabilities_per_attribute(side: int, mirrored: bool) -> None:
    images = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8)
    *outputs, embeddings = Classifier(Network(SAMPLE_ATTRIBUTES, width=8).eval(), mirrored=mirrored)(images)
    assert embeddings.shape == (3, 32)
    assert [tuple(output.shape) for output in outputs] == [
        (3, len(attribute.classes)) for attribute in SAMPLE_ATTRIBUTES
    ]
    for output in outputs:
        torch.testing.assert_close(output.sum(1), torch.ones(3))


def test_mirrored_answers_are_the_mean_of_both_sides_and_temperatures_act_on_that() -> None:
    torch.manual_seed(0)
    network = Network(SAMPLE_ATTRIBUTES, width=8).eval()
    images = torch.randint(0, 256, (4, 24, 24, 3), dtype=torch.uint8)
    plain = Classifier(network)
    means = [(one + other) / 2 for one, other in zip(plain(images), plain(images.flip(2)), strict=True)]
    for found, mean in zip(Classifier(network, mirrored=True)(images), means, strict=True):
        torch.testing.assert_close(found, mean)
    temperatures = dict.fromkeys(names(SAMPLE_ATTRIBUTES), 2.0)
    *hot, _ = Classifier(network, temperatures, mirrored=True)(images)
    *logits, _ = Outputs(network, mirrored=True)(images)
    for found, mean, raw in zip(hot, means[:-1], logits, strict=True):
        torch.testing.assert_close(found, mean.sqrt() / mean.sqrt().sum(1, keepdim=True))
        torch.testing.assert_close(raw.softmax(1), mean)


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_was_never_learned_is_never_answered(mirrored: bool) -> None:
    first, second = SAMPLE_ATTRIBUTES[-2:]
    learned = all_learned(SAMPLE_ATTRIBUTES) | {first.name: first.classes[:1], second.name: second.classes[1:]}
    images = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    *_, one, other, _ = Classifier(Network(SAMPLE_ATTRIBUTES, width=8).eval(), learned=learned, mirrored=mirrored)(
        images
    )
    assert one.isnan().all()
    assert (other[:, 0] == 0).all()
    torch.testing.assert_close(other.sum(1), torch.ones(3))


def test_bytes_and_floats_of_the_same_image_get_the_same_answer() -> None:
    network = Network(SAMPLE_ATTRIBUTES, width=8).eval()
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    for one, other in zip(network(images), network(images.float()), strict=True):
        torch.testing.assert_close(one, other)


def test_the_network_stays_small() -> None:
    assert 200_000 < count_parameters(Network(SAMPLE_ATTRIBUTES, width=32)) < 400_000


def test_one_layer_is_a_layer_for_each_attribute_to_its_weights_and_their_names() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 5)])
    torch.manual_seed(0)
    heads, features = Heads(6, [2, 5]), torch.randn(3, 6)
    for part, layer in zip(heads(features), layers, strict=True):
        torch.testing.assert_close(part, layer(features))
    state, expected = heads.state_dict(), layers.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)

    network, other = (Network(SAMPLE_ATTRIBUTES, width=8) for _ in range(2))
    assert {f"heads.{number}.bias" for number in range(len(SAMPLE_ATTRIBUTES))} < network.state_dict().keys()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.heads.weight, network.heads.weight)
    incomplete = network.state_dict()
    del incomplete["heads.0.bias"]
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(incomplete)
