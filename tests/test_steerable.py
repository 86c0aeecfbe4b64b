import pytest
import torch

from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector.steerable import SteerableBackbone
from tests.helpers import random_network, textured_image


@pytest.fixture(scope="module")
def image():
    return (torch.from_numpy(textured_image(40, 45)).float()[None, None] - 128) / 30


@pytest.fixture(scope="module", params=[4, 8, 36])
def backbone(request):
    return random_network(NetworkConfig(group_order=request.param, fields=(1, 2, 3))).backbone


def test_baked_equals_steerable(backbone, image):
    with torch.no_grad():
        features, logits = backbone(image)
    baked_features, baked_logits = backbone.bake()(image)
    assert features.shape == (1, 3, 40, 45)
    assert logits.shape == (1, backbone.group_order, 40, 45)
    assert logits.std() > 0.1
    assert (baked_features - features).abs().max() < 1e-5 * features.abs().max()
    assert (baked_logits - logits).abs().max() < 1e-5 * logits.abs().max()


def test_a_bake_follows_the_weights_of_train_mode(image):
    backbone = random_network(NetworkConfig(group_order=4)).backbone
    before = backbone.bake()(image)[1]
    backbone.train()
    with torch.no_grad():
        backbone.orientation.weights.mul_(2)
    torch.testing.assert_close(backbone.bake()(image)[1], 2 * before)


def test_learned_state_makes_an_equal_network(backbone, image):
    state = backbone.learned_state()
    assert sum(t.numel() for t in state.values()) < 4000  # no derived buffers
    other = SteerableBackbone(
        group_order=backbone.group_order, fields=backbone.fields, initialise=False
    )
    other.load_learned_state(state)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(image)[1], backbone(image)[1])


def test_learned_state_is_a_copy():
    backbone = random_network(NetworkConfig(group_order=4)).backbone
    state = backbone.learned_state()
    before = state["orientation"].clone()
    with torch.no_grad():
        backbone.orientation.weights.zero_()
    torch.testing.assert_close(state["orientation"], before)


def test_loading_after_eval_replaces_the_expanded_filters(image):
    source = random_network(NetworkConfig(group_order=8), seed=1).backbone
    target = random_network(NetworkConfig(group_order=8), seed=2).backbone
    assert not target.training
    with torch.no_grad():
        expected, before = source(image)[1], target(image)[1]
        assert (expected - before).abs().max() > 0.1
        target.load_learned_state(source.learned_state())
        torch.testing.assert_close(target(image)[1], expected)
    assert not target.training


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    backbone = random_network(NetworkConfig(group_order=4)).backbone
    before = backbone.learned_state()
    other = random_network(NetworkConfig(group_order=8)).backbone.learned_state()
    with pytest.raises(ValueError, match=r"convolutions.1 has shape \(352,\).*group_order 4"):
        backbone.load_learned_state(other)
    lacking = {name: t + 1 for name, t in before.items() if name != "orientation"}
    with pytest.raises(ValueError, match="orientation"):
        backbone.load_learned_state(lacking)
    after = backbone.learned_state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_initialise_draws_weights_by_the_global_seed(image):
    def logits():
        torch.manual_seed(3)
        backbone = SteerableBackbone(group_order=4, fields=(1, 1, 1)).eval()
        with torch.no_grad():
            return backbone(image)[1]

    first = logits()
    assert first.std() > 0
    torch.testing.assert_close(logits(), first)


def test_gradients_reach_every_parameter(image):
    backbone = random_network(NetworkConfig(group_order=4)).backbone.train()
    features, logits = backbone(image)
    (features.square().sum() + logits.square().sum()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_e2cnn_the_message_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "e2cnn", None)
    monkeypatch.setitem(sys.modules, "e2cnn.nn", None)
    with pytest.raises(ImportError, match=r"pip install 'rekd-hloc\[train\]'"):
        SteerableBackbone(group_order=4, fields=(1, 1, 1))
