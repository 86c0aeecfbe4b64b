"""The descriptor's losses, its memory of negatives, and the average of its weights."""

import pytest
import torch
from torch import nn

from training.descriptor_losses import hardest_in_batch_loss, second_order_loss
from training.descriptor_memory import DescriptorMemory, PastNegatives
from training.places import Places
from training.weight_average import WeightAverage


def units(count, seed=0, channels=8):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, channels, generator=generator), dim=1)


def places_of(frames, xs):
    position = torch.tensor([[float(x), 0, 0] for x in xs])
    frame = torch.tensor(frames)
    return Places(frame, position, torch.full((len(xs),), 10.0), frame)


def test_the_hardest_in_batch_loss_by_hand():
    a = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    b = nn.functional.normalize(torch.tensor([[1.0, 0.1, 0], [0.6, 1, 0], [0, 0, 1]]))
    none = torch.zeros(3, 3, dtype=torch.bool)
    distance = torch.cdist(a, b)
    negatives = []
    for i in range(3):
        others = [j for j in range(3) if j != i]
        negatives.append(min(*distance[i, others], *distance[others, i]))
    truth = (1 + distance.diagonal() - torch.stack(negatives)).clamp(min=0).mean()
    loss, positive, negative = hardest_in_batch_loss(a, b, none)
    assert float(loss) == pytest.approx(float(truth), abs=2e-3)
    assert float(positive) == pytest.approx(float(distance.diagonal().mean()), abs=2e-3)
    assert float(negative) == pytest.approx(float(torch.stack(negatives).mean()), abs=2e-3)
    excluded = none.clone()
    excluded[0, 1] = excluded[1, 0] = True
    assert hardest_in_batch_loss(a, b, excluded)[0] < loss


def test_a_past_descriptor_is_a_negative_seen_from_either_column():
    a, b = units(6), nn.functional.normalize(units(6) + 0.1 * units(6, seed=1), dim=1)
    none = torch.zeros(6, 6, dtype=torch.bool)
    before, _, hardest = hardest_in_batch_loss(a, b, none)
    for column in (a, b):
        near = nn.functional.normalize(column[2] + 0.05 * units(1, seed=3)[0], dim=0)[None]
        past = PastNegatives(near, torch.zeros(6, 1, dtype=torch.bool))
        loss, _, negative = hardest_in_batch_loss(a, b, none, past=past)
        assert loss > before
        assert negative < hardest
        same = PastNegatives(near, torch.arange(6)[:, None] == 2)
        left_out = hardest_in_batch_loss(a, b, none, past=same)[0]
        assert before <= left_out < loss
    everything = PastNegatives(a, torch.ones(6, 6, dtype=torch.bool))
    assert torch.equal(hardest_in_batch_loss(a, b, none, past=everything)[0], before)


def test_equal_distances_within_both_columns_cost_nothing():
    a = units(12).requires_grad_()
    none = torch.zeros(12, 12, dtype=torch.bool)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    loss = second_order_loss(a, a.detach() @ rotation, none)
    assert float(loss.detach()) < 1e-3
    (gradient,) = torch.autograd.grad(second_order_loss(a, a.detach().clone(), none), a)
    assert torch.isfinite(gradient).all()
    assert float(second_order_loss(a.detach(), units(12, seed=5), none)) > 0.5


def test_the_second_order_term_by_hand():
    a, b = units(5, channels=3), units(5, seed=1, channels=3)
    within_a, within_b = torch.cdist(a, a), torch.cdist(b, b)
    lengths = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        near = {min(others, key=lambda j: float(w[i, j])) for w in (within_a, within_b)}
        lengths.append(sum(float(within_a[i, j] - within_b[i, j]) ** 2 for j in near) ** 0.5)
    none = torch.zeros(5, 5, dtype=torch.bool)
    loss = second_order_loss(a, b, none, num_neighbours=1)
    assert float(loss) == pytest.approx(sum(lengths) / 5, abs=1e-3)
    everything = torch.ones(5, 5, dtype=torch.bool)
    assert float(second_order_loss(a, b, everything)) == pytest.approx(0, abs=1e-5)


def test_the_memory_holds_the_last_descriptors_of_both_columns():
    memory, first, second = DescriptorMemory(6), units(4), units(4, seed=1)
    places = places_of([0, 0, 1, 1], [0, 50, 0, 50])
    assert memory.negatives(places, 0.1) is None
    memory.extend(first[:2], first[2:], places[torch.tensor([0, 1])])
    assert len(memory) == 4
    memory.extend(second[:2], second[2:], places[torch.tensor([2, 3])])
    held = memory.negatives(places, 0.1)
    assert torch.equal(held.descriptors, torch.cat([first[2:], second]))
    assert not held.descriptors.requires_grad
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[[0, 1, 2, 2, 3, 3], [0, 1, 2, 4, 3, 5]] = True
    assert torch.equal(held.is_excluded, expected)
    near = places_of([0, 1], [50.5, 50.5])
    assert memory.negatives(near, 0.1).is_excluded.sum(dim=1).tolist() == [1, 2]
    assert memory.negatives(near, 0.01).is_excluded.sum() == 0


def test_a_memory_goes_on_from_its_state():
    memory, again = DescriptorMemory(5), DescriptorMemory(5)
    again.load(memory.state(), torch.device("cpu"))
    assert len(again) == 0
    places = places_of([3, 4], [1, 2])
    memory.extend(units(2), units(2, seed=1), places)
    again.load(memory.state(), torch.device("cpu"))
    for held in (memory, again):
        held.extend(units(2, seed=2), units(2, seed=3), places)
    assert memory.state().keys() == again.state().keys()
    assert all(torch.equal(memory.state()[k], again.state()[k]) for k in memory.state())


def test_the_average_forgets_the_start_and_follows_the_weights():
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    average = WeightAverage(network, decay=0.9)
    values = torch.linspace(0, 1, 300).tolist()
    for step, value in enumerate(values):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(-value)
            network[1].num_batches_tracked.fill_(step)
        average.update(network, step)
    held = average.network.state_dict()
    lag = (values[1] - values[0]) * 0.9 / 0.1  # of an average behind a value that grows evenly
    assert held["0.weight"] == pytest.approx(torch.full((1, 2), 1 - lag), abs=1e-4)
    assert float(held["1.running_mean"]) == pytest.approx(lag - 1, abs=1e-4)
    assert int(held["1.num_batches_tracked"]) == 299
    assert not average.network.training
    assert float(network[0].weight[0, 0].detach()) == pytest.approx(1)
