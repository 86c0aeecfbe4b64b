"""Tests of the match network: its answer belongs to the scene, not to how images are held."""

from dataclasses import replace

import pytest
import torch

from rekd_hloc import weight_files
from rekd_hloc.geometry import wrap_angle
from rekd_hloc.matching.match_evidence import MatchEvidence
from rekd_hloc.matching.match_network import (
    MatchJudge,
    MatchNetwork,
    choose_pool,
    load_match_network,
    save_match_network,
)
from rekd_hloc.matching.nearest import distance_ratios, match_nearest
from rekd_hloc.types import Keypoints, Matches
from rekd_hloc.weight_files import write_weights


@pytest.fixture(scope="module")
def network():
    """Random weights, in double precision so that the answers are exact."""
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        network = MatchNetwork(width=16, edge_width=8, num_heads=2, num_layers=2)
    return network.double().eval().requires_grad_(False)


def random_evidence(count, seed=0):
    """Matches of which every second one follows one similarity transform."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    xy = draw(count, 2, 2) * 600
    angle, octaves = draw(count, 2) * 6.28, draw(count, 2) * 3
    right = torch.arange(count) % 2 == 0
    xy[right, 1] = xy[right, 0].flip(1) * torch.tensor([-0.7, 0.7])
    angle[right, 1] = angle[right, 0] + torch.pi / 2
    octaves[right, 1] = octaves[right, 0] - 0.5
    return MatchEvidence(
        xy, 2**octaves, wrap_angle(angle), 0.5 + draw(count) / 2, 0.5 + draw(count, 2) / 2,
        draw(count, 2),
    )  # fmt: skip


def moved(evidence, side, *, angle, factor, shift):
    """The same matches where one image is rotated, scaled and shifted."""
    cos, sin = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    rotation = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]).double()
    xy, scale, turned = evidence.xy.clone(), evidence.scale.clone(), evidence.angle.clone()
    xy[:, side] = factor * xy[:, side] @ rotation.T + torch.tensor(shift)
    scale[:, side] *= factor
    turned[:, side] = wrap_angle(turned[:, side] + angle)
    return replace(evidence, xy=xy, scale=scale, angle=turned)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("angle", "factor"), [(torch.pi / 2, 1.0), (2.0, 0.4), (0.0, 7.0)])
def test_rotating_scaling_and_shifting_an_image_changes_nothing(network, side, angle, factor):
    evidence = random_evidence(150)
    held = moved(evidence, side, angle=angle, factor=factor, shift=[30.0, -2000.0])
    before, after = network([evidence]), network([held])
    assert before[-1].std() > 0.01
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_frames_that_move_one_by_one_do_change_the_answer(network):
    evidence = random_evidence(150)
    spun = replace(evidence, angle=wrap_angle(evidence.angle + random_evidence(150, 5).angle))
    assert (network([spun])[-1] - network([evidence])[-1]).abs().max() > 0.01


def test_order_of_matches_changes_nothing(network):
    evidence = random_evidence(120)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        network([evidence[order]]), network([evidence])[:, order], atol=1e-9, rtol=0
    )


def test_pairs_of_a_batch_do_not_see_each_other(network):
    pairs = [random_evidence(count, count) for count in (60, 0, 1, 2, 30)]
    together = network(pairs).split([len(pair) for pair in pairs], dim=1)
    for pair, logits in zip(pairs, together, strict=True):
        torch.testing.assert_close(logits, network([pair]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 2, 25])
def test_few_matches(network, count):
    probabilities = MatchJudge(network, 0.5).probabilities([random_evidence(count)])
    assert [len(p) for p in probabilities] == [count]
    assert bool(torch.isfinite(probabilities[0]).all())


def test_no_pair(network):
    assert MatchJudge(network, 0.5).probabilities([]) == []


def test_matches_at_one_place(network):
    evidence = random_evidence(200)
    stacked = replace(evidence, xy=torch.zeros_like(evidence.xy))
    assert bool(torch.isfinite(network([stacked])).all())


@pytest.mark.slow
def test_thirty_thousand_matches(network):
    (probability,) = MatchJudge(network, 0.5).probabilities([random_evidence(30_000)])
    assert len(probability) == 30_000


def test_gradients_reach_every_weight(network):
    trained = MatchNetwork(width=16, edge_width=8, num_heads=2, num_layers=2)
    trained([random_evidence(80)]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.parameters())


def test_pool_holds_the_likely_ones_within_bounds():
    few_likely, all_likely = torch.linspace(-5, 0.1, 1000), torch.linspace(1, 2, 1000)
    assert choose_pool(few_likely).tolist() == list(range(900, 1000))
    assert choose_pool(all_likely).tolist() == list(range(500, 1000))
    assert len(choose_pool(torch.linspace(-1, 0.4, 1000))) == int(
        (torch.linspace(-1, 0.4, 1000) > 0).sum()
    )
    assert len(choose_pool(torch.zeros(1000))) == 1000  # equal ones are all taken
    assert len(choose_pool(torch.zeros(7))) == 7


def test_evidence_holds_each_matchs_own_values():
    keypoints = Keypoints(
        torch.tensor([[0.0, 1], [2, 3], [4, 5]]), torch.tensor([1.0, 2, 4]),
        torch.tensor([0.1, 0.2, 0.3]), torch.tensor([3.0, 1, 1]),
    )  # fmt: skip
    matches = Matches(torch.tensor([[0, 2], [1, 0]]), torch.ones(2))
    evidence = MatchEvidence.of(matches, keypoints, keypoints, torch.ones(2), torch.ones(2, 2))
    assert evidence.xy.tolist() == [[[0, 1], [4, 5]], [[2, 3], [0, 1]]]
    assert evidence.octaves.tolist() == [2, -1]
    torch.testing.assert_close(evidence.rank[0], torch.tensor([5 / 6, 1 / 3]).double())


def test_evidence_refuses_what_it_cannot_use():
    keypoints = Keypoints(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1), torch.zeros(1))
    one = Matches(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ValueError, match="scale_a must be positive"):
        MatchEvidence.of(one, keypoints, keypoints, torch.ones(1), torch.ones(1, 2))


def test_ratios_are_those_of_the_ratio_test():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(n, 4, generator=generator)) for n in (40, 30))
    matches = match_nearest(a, b)
    cosine, ratio = distance_ratios(matches, a, b, block=16)
    torch.testing.assert_close(cosine, matches.score)
    for bound in (0.6, 0.8, 0.95):
        kept = match_nearest(a, b, ratio=bound).index[:, 0]
        assert matches.index[(ratio < bound).all(dim=1), 0].tolist() == kept.tolist()


def test_ratios_of_matches_that_are_no_neighbours():
    a = torch.eye(3)
    wrong = Matches(torch.tensor([[0, 1]]), torch.zeros(1))
    cosine, ratio = distance_ratios(wrong, a, a)
    assert cosine.tolist() == [0]
    assert bool((ratio > 1).all())
    only = Matches(torch.tensor([[0, 0]]), torch.ones(1))
    assert distance_ratios(only, a[:1], a[:1])[1].tolist() == [[0, 0]]


def test_weights_come_back_as_written(network, tmp_path):
    path = tmp_path / "own.safetensors"
    save_match_network(path, MatchJudge(network.float(), 0.6), {"step": 3})
    loaded = load_match_network(str(path))
    assert loaded.threshold == 0.6
    evidence = random_evidence(50)
    torch.testing.assert_close(loaded.network([evidence]), network([evidence]))
    network.double()


def test_files_that_are_no_match_network(tmp_path, monkeypatch):
    path = tmp_path / "odd.safetensors"
    write_weights(path, {}, {"format": "another"})
    with pytest.raises(ValueError, match="has format 'another', a match network has"):
        load_match_network(str(path))
    path = tmp_path / "short.safetensors"
    write_weights(path, {}, {"format": "rekd_hloc match network 1", "network": "{}"})
    with pytest.raises(ValueError, match="does not fit what it states: .*; train it again"):
        load_match_network(str(path))
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match="no match network 'none-such': give short, or a"):
        load_match_network("none-such")
