"""What all trainers share: the loop's learning rates, batches ahead, and identities of runs."""

import time

import pytest
import torch

from training.common.checkpoint import claim_folder, make_identity, with_current_names
from training.common.loop import build_optimiser, load_ahead, scheduled_rate, take_step


def rates(schedule, warmup_steps, num_steps=10):
    return [
        scheduled_rate(
            step, highest=1.0, num_steps=num_steps, warmup_steps=warmup_steps, schedule=schedule
        )
        for step in range(num_steps + 1)
    ]


def test_learning_rates_of_each_schedule():
    assert rates("halve", 0) == [1.0] * 5 + [0.5] * 6
    assert rates("halve", 4)[:4] == [0.25, 0.5, 0.75, 1.0]
    cosine = rates("cosine", 0)
    assert cosine[0] == 1
    assert cosine[5] == pytest.approx(0.5)
    assert cosine[10] == pytest.approx(0)
    assert rates("linear", 0) == pytest.approx([1 - step / 10 for step in range(11)])
    assert rates("linear", 2)[0] == 0.5


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_batches_come_in_order_from_any_number_of_threads(num_threads):
    def draw(step):
        time.sleep(0.003 * (step % 3))
        return step

    assert list(load_ahead(draw, 2, 9, num_threads)) == list(range(2, 9))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_step_lowers_the_loss_and_a_loss_that_is_no_number_is_named(name):
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimiser = build_optimiser(name, [{"params": [weight], "weight_decay": 0.0}], 0.1)
    take_step(optimiser, weight.square().sum(), {"square": 4.0}, 0)
    assert 0 < float(weight.detach()) < 2
    before = weight.detach().clone()
    with pytest.raises(FloatingPointError, match="step 7.*square.*nan"):
        take_step(optimiser, weight.square().sum(), {"square": float("nan")}, 7)
    assert torch.equal(weight, before)


def test_earlier_names_are_read_only_where_the_option_has_a_new_one():
    current = {"images": 1, "batch": {"augmentation": {"shadow_share": 0.0}}, "support": 2}
    saved = {"photos": 1, "batch": {"changes": {"shadows": 0.0}}, "other": 3}
    assert with_current_names(saved, current) == {
        "images": 1,
        "batch": {"augmentation": {"shadow_share": 0.0}},
        "other": 3,
    }


def test_a_folder_is_claimed_for_one_identity(tmp_path):
    identity = make_identity({"seed": 0, "output": "x", "sizes": (1, 2)}, ("output",), data="d")
    assert identity == {"seed": 0, "sizes": [1, 2], "data": "d"}
    claim_folder(tmp_path / "config.json", identity)
    claim_folder(tmp_path / "config.json", identity)
    with pytest.raises(ValueError, match="config.json.*seed: 0 then, 1 now"):
        claim_folder(tmp_path / "config.json", {**identity, "seed": 1})
