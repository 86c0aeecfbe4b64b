"""A run with memory, second-order term, average or two supports: it resumes, exports, starts."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from rekd_hloc.features.descriptor.hardnet import (
    describe,
    load_hardnet,
    read_hardnet,
    save_descriptor,
)
from rekd_hloc.features.descriptor.support_hardnet import FIRST_LAYER, supports_of
from tests.training_data import (
    TRACKS,
    CornerDetector,
    run_config,
    run_steps,
    write_images,
    write_tracks,
)
from training.common.checkpoint import load_checkpoint, save_checkpoint
from training.descriptor_config import TrainDescriptorConfig
from training.descriptor_run import DescriptorRun
from training.descriptor_start import build_hardnet, read_start
from training.descriptor_validation import ValidationSet, by_network, make_pairs

ALL = {"memory_size": 40, "second_order_weight": 1.0, "average_decay": 0.9}
TWO = replace(TRACKS, supports=(1.0, 2.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 3, (160, 220))


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    return write_tracks(tmp_path_factory.mktemp("tracks"), folder, TWO)


@pytest.fixture(scope="module")
def pairs(folder):
    paths = sorted(folder.glob("*.png"))[:1]
    return make_pairs(paths, CornerDetector(), TWO, upright=False, max_keypoints=20, seed=0)


@pytest.fixture(scope="module")
def halfway(folder, cache, pairs, tmp_path_factory):
    """The folder of a run of two supports with all options, after three of its six steps."""
    output = tmp_path_factory.mktemp("halfway")
    config = run_config(folder, cache, output, tracks=TWO, **ALL)
    run, losses = run_steps(config, cache, 3, pairs)
    return output, run, losses


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.slow
def test_a_resumed_run_with_all_options_equals_one_that_was_not_stopped(
    folder, cache, pairs, halfway, tmp_path
):
    options = {"tracks": TWO, **ALL}
    whole, losses = run_steps(run_config(folder, cache, tmp_path / "a", **options), cache, 6, pairs)
    assert losses[:3] == halfway[2]
    resumable = shutil.copytree(halfway[0], tmp_path / "b")
    resumed, rest = run_steps(run_config(folder, cache, resumable, **options), cache, 3, pairs)
    assert rest == losses[3:]
    assert_same(whole.network.state_dict(), resumed.network.state_dict())
    assert_same(whole.average.state(), resumed.average.state())
    assert_same(whole.memory.state(), resumed.memory.state())
    assert len(resumed.memory) == 40
    assert set(resumed.last_losses) == {"loss", "positive", "negative", "triplet", "second_order"}


@pytest.mark.parametrize("option", ["memory_size", "second_order_weight"])
def test_each_option_changes_the_loss_once_it_is_due(folder, cache, pairs, tmp_path, option):
    options = {"tracks": TWO, "warmup_steps": 2, "validate_every": 9}
    with_it = run_config(folder, cache, tmp_path / "a", **options, **{option: ALL[option]})
    without = run_config(folder, cache, tmp_path / "b", **options)
    losses = [run_steps(config, cache, 3, pairs)[1] for config in (with_it, without)]
    assert losses[0][2] > losses[1][2]
    is_due_at_once = option != "memory_size"  # the memory waits for the end of the warm-up
    assert (losses[0][:2] != losses[1][:2]) == is_due_at_once


def test_the_average_is_validated_exported_and_gone_on_from(
    folder, cache, pairs, halfway, tmp_path
):
    output, run, _ = halfway
    held_out = ValidationSet({"oriented": pairs})
    state = load_checkpoint(output / "best.pt")
    assert not torch.equal(state["network"][FIRST_LAYER], state["average"][FIRST_LAYER])
    assert run.quality == held_out.evaluate_network(run.average.network)
    resumed = DescriptorRun(replace(run.config, output=str(output)), {"data_hash": "x"})
    exported = read_hardnet(str(resumed.export(held_out)))
    assert_same(exported, state["average"])
    config = run_config(folder, cache, tmp_path, tracks=TWO, init=str(output / "best.pt"))
    assert_same(read_start(config), state["average"])


def test_two_supports_are_exported_as_such(halfway, pairs):
    _, run, _ = halfway
    path = run.export(ValidationSet({"oriented": pairs}))
    loaded = load_hardnet(str(path))
    assert supports_of(loaded) == (1.0, 2.0)
    patches = pairs[0].a.patches
    described = describe(run.validated_network, patches, 8)
    assert torch.allclose(describe(loaded, patches, 8), described, atol=1e-4)


def test_two_supports_start_as_a_shipped_descriptor_of_one(folder, cache, pairs, tmp_path):
    config = run_config(folder, cache, tmp_path / "a", tracks=TWO, init="hardnet-0.1")
    run = DescriptorRun(config, {}, read_start(config))
    shipped = ValidationSet({"oriented": pairs}).evaluate(by_network(load_hardnet("hardnet-0.1")))
    assert ValidationSet({"oriented": pairs}).evaluate_network(run.network) == shipped
    assert not run.network.features[0].weight[:, 1].any()
    trained = run_steps(config, cache, 1, pairs)[0]
    assert trained.network.features[0].weight[:, 1].abs().max() > 0


def test_a_narrow_network_repeats_its_teacher(folder, cache, pairs, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    save_descriptor(teacher, build_hardnet(1, supports=TWO.supports, width=8), {})
    options = {"tracks": TWO, "width": 4, "teacher": str(teacher), "teacher_weight": 4.0}
    config = run_config(folder, cache, tmp_path / "begin", steps=12, validate_every=12, **options)
    begin, _ = run_steps(config, cache, 1, pairs)
    run, _ = run_steps(replace(config, output=str(tmp_path / "run")), cache, 12, pairs)
    assert run.last_losses["teacher"] < 0.9 * begin.last_losses["teacher"]
    out = run.export(ValidationSet({"oriented": pairs}))
    narrow, full = load_hardnet(str(out)), load_hardnet(str(teacher))
    assert supports_of(narrow) == supports_of(full) == (1.0, 2.0)
    sizes = [sum(t.numel() for t in network.parameters()) for network in (narrow, full)]
    assert 0.25 < sizes[0] / sizes[1] < 0.55  # the last layer has half, the others a quarter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "hardnet-0.1"}, "teacher=hardnet-0.1 sees supports [1.0], the tracks have"),
        ({"width": 16, "init": "default"}, "its first layer has 32 channels, and width is 16"),
    ],
)
def test_a_teacher_or_start_that_does_not_fit(folder, cache, pairs, tmp_path, options, message):
    config = run_config(folder, cache, tmp_path, tracks=TWO, **options)
    with pytest.raises(ValueError, match=re.escape(message)):
        run_steps(config, cache, 1, pairs)


def test_more_supports_than_tracks_have_are_refused(folder, cache, pairs, halfway, tmp_path):
    start = halfway[0] / "best.pt"
    config = run_config(folder, cache, tmp_path, init=str(start))
    with pytest.raises(ValueError, match=r"init=.*best.pt: .*2 supports, and 1 are.*tracks.supp"):
        read_start(config)
    one = replace(pairs[0].a, patches=pairs[0].a.patches[:, :1], supports=(1.0,))
    with pytest.raises(
        ValueError, match=r"sees supports \[1.0, 2.0\].* add \[2.0\] to tracks.supp"
    ):
        by_network(halfway[1].network)(one)


def test_a_checkpoint_from_before_the_options_goes_on(folder, cache, pairs, tmp_path):
    cache = write_tracks(tmp_path / "tracks", folder)
    pairs = make_pairs(
        sorted(folder.glob("*.png"))[:1],
        CornerDetector(),
        TRACKS,
        upright=False,
        max_keypoints=9,
        seed=0,
    )
    config = run_config(folder, cache, tmp_path / "a")
    run_steps(config, cache, 3, pairs)
    state = load_checkpoint(tmp_path / "a" / "last.pt")
    assert not {"average", "memory"} & state.keys()
    for name in ALL:
        del state["identity"][name]
    del state["identity"]["tracks"]["supports"]
    for name in ("scene_share", "rows_per_image"):
        del state["identity"]["batch"][name]
    save_checkpoint(tmp_path / "a" / "last.pt", state)
    assert DescriptorRun(config, {"data_hash": "x"}).step == 3
    with pytest.raises(ValueError, match="another configuration.*memory_size: 0 then, 40 now"):
        DescriptorRun(replace(config, memory_size=40), {"data_hash": "x"})


@pytest.mark.parametrize(
    ("option", "value"),
    [("memory_size", -1), ("second_order_weight", -0.5), ("average_decay", 1.0)],
)
def test_options_that_cannot_be(option, value):
    with pytest.raises(ValueError, match=f"{option} must .*, got {value}"):
        TrainDescriptorConfig(**{option: value})
