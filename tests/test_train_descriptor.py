"""The descriptor's trainer: one run in steps, and the program from images to weights."""

import json
import logging
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import rekd_hloc
from rekd_hloc.features.descriptor.hardnet import describe, load_hardnet, read_hardnet
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.descriptor.tfeat import TFeat
from rekd_hloc.weight_files import read_weights
from tests.helpers import board_events
from tests.training_data import (
    TRACKS,
    CornerDetector,
    run_config,
    run_steps,
    write_images,
    write_tracks,
)
from tests.wall_scene import make_wall
from training import train_descriptor
from training.common.checkpoint import load_checkpoint, save_checkpoint
from training.descriptor_config import TrainDescriptorConfig
from training.descriptor_run import DescriptorRun, learning_rate
from training.descriptor_start import build_hardnet, read_start
from training.descriptor_validation import make_pairs
from training.track_batches import TrackSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 5, (160, 220))


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    return write_tracks(tmp_path_factory.mktemp("tracks"), folder)


@pytest.fixture(scope="module")
def pairs(folder):
    return make_pairs(
        sorted(folder.glob("*.png"))[:1],
        CornerDetector(),
        TRACKS,
        upright=False,
        max_keypoints=30,
        seed=0,
    )


@pytest.fixture(scope="module")
def halfway(folder, cache, pairs, tmp_path_factory):
    """The folder of a run that stopped after three of its six steps, and its losses."""
    output = tmp_path_factory.mktemp("halfway")
    _, losses = run_steps(run_config(folder, cache, output), cache, 3, pairs)
    return output, losses


@pytest.fixture
def resumable(halfway, tmp_path):
    """A copy of the folder of that run, to go on in."""
    return shutil.copytree(halfway[0], tmp_path / "resumable")


def test_resumed_equals_uninterrupted_and_the_loss_falls(
    folder, cache, pairs, halfway, resumable, tmp_path
):
    whole, losses = run_steps(run_config(folder, cache, tmp_path / "a"), cache, 6, pairs)
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.03
    assert halfway[1] == losses[:3]
    torch.manual_seed(123)  # the resumed run must not depend on the program's own generator
    resumed, rest = run_steps(run_config(folder, cache, resumable), cache, 3, pairs)
    assert resumed.step == 6
    assert rest == losses[3:]
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    lines = (resumable / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]


def test_a_run_starts_from_the_weights_of_another(folder, cache, halfway, tmp_path):
    start = halfway[0] / "last.pt"
    first = load_checkpoint(start)["network"]
    config = run_config(folder, cache, tmp_path / "b", init=str(start))
    second = DescriptorRun(config, {"data_hash": "x"}, read_start(config))
    assert second.step == 0
    for name, tensor in first.items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    fresh = DescriptorRun(run_config(folder, cache, tmp_path / "c"), {"data_hash": "x"})
    weight = "features.0.weight"
    assert not torch.equal(fresh.network.state_dict()[weight], first[weight])


def test_a_run_starts_from_shipped_weights(folder, cache, pairs, tmp_path):
    config = run_config(folder, cache, tmp_path / "a", init="hardnet-0.1")
    run = DescriptorRun(config, {}, read_start(config))
    patches = pairs[0].a.patches
    found = describe(run.network.eval(), patches, 8)
    torch.testing.assert_close(
        found, describe(load_hardnet("hardnet-0.1"), patches, 8), rtol=0, atol=1e-4
    )
    for name, tensor in read_hardnet("hardnet-0.1").items():
        assert torch.equal(tensor, run.network.state_dict()[name]), name


def test_a_run_that_goes_on_needs_its_start_no_more(folder, cache, halfway):
    assert read_start(run_config(folder, cache, halfway[0], init="gone.pt")) is None


def test_a_start_that_is_no_hardnet_is_refused_before_the_long_work(arguments, tmp_path, caplog):
    torch.save(TFeat().state_dict(), tmp_path / "tfeat.pth")
    save_checkpoint(tmp_path / "detector.pt", {"step": 3, "network": {"group_order": 8}})
    for name, message in (
        ("tfeat.pth", "tfeat.pth does not hold the weights of a HardNet"),
        ("detector.pt", "detector.pt is no checkpoint of training.train_descriptor"),
        ("gone.pt", "no checkpoint"),
    ):
        out = tmp_path / "out"
        options = [f"init={tmp_path / name}", f"output={out}"]
        assert train_descriptor.main([*arguments, *options]) == 2
        assert message in caplog.text
        assert not out.exists()


def test_a_line_that_a_kill_left_is_written_again(folder, cache, pairs, resumable):
    with (resumable / "log.jsonl").open("a") as log:
        log.write('{"step": 6}\n')
    run_steps(run_config(folder, cache, resumable), cache, 3, pairs)
    lines = [json.loads(line) for line in (resumable / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[1]["seconds"] >= lines[0]["seconds"] > 0
    assert "loss" in lines[1]


def test_another_configuration_does_not_resume(folder, cache, halfway):
    with pytest.raises(ValueError, match="another configuration.*margin: 1.0 then, 0.5 now"):
        DescriptorRun(run_config(folder, cache, halfway[0], margin=0.5), {"data_hash": "x"})


def test_a_checkpoint_with_the_earlier_names_of_options_goes_on(folder, cache, resumable):
    state = load_checkpoint(resumable / "last.pt")
    identity = state["identity"]
    identity["max_photos"] = identity.pop("max_images")
    identity["validation_photos"] = identity.pop("validation_images")
    identity["batch"]["photos"] = identity["batch"].pop("images")
    augmentation = identity["batch"].pop("augmentation")
    identity["batch"]["changes"] = {
        "max_gamma": augmentation["max_gamma"],
        "shadows": augmentation["shadow_share"],
        "darkest": augmentation["min_shadow_factor"],
        "occlusions": augmentation["occlusion_share"],
        "nearest": augmentation["min_occlusion_distance"],
    }
    identity["tracks"]["support"] = identity["tracks"].pop("patch_size_px")
    identity["tracks"]["finer"] = identity["tracks"].pop("size_factors")
    save_checkpoint(resumable / "last.pt", state)
    config = run_config(folder, cache, resumable)
    assert DescriptorRun(config, {"data_hash": "x"}).step == 3
    other = replace(config, batch=replace(config.batch, images=2))
    with pytest.raises(ValueError, match="another configuration.*'images': 3.*'images': 2"):
        DescriptorRun(other, {"data_hash": "x"})


def test_nan_stops_with_the_step(folder, cache, tmp_path):
    config = run_config(folder, cache, tmp_path)
    run = DescriptorRun(config, {})
    with torch.no_grad():
        run.network.features[0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        run.advance(TrackSet(cache).batch(np.random.default_rng(0), config.batch))


def test_learning_rate_rises_then_falls_to_zero():
    config = TrainDescriptorConfig(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == 0


def test_the_start_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = build_hardnet(1).state_dict()
    second, third = build_hardnet(1).state_dict(), build_hardnet(2).state_dict()
    name = "features.15.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], third[name])


def without_weights(patch, folder):
    """Let the program split the images by number, and need no detector weights; its arguments."""
    paths = sorted(folder.glob("*.png"))
    patch.setattr(train_descriptor, "resolve_weights", lambda name: paths[0])
    patch.setattr(train_descriptor, "load_detector", lambda path: (nn.Identity(), None))
    patch.setattr(train_descriptor, "Detector", lambda network, config: CornerDetector())
    patch.setattr(train_descriptor, "list_image_paths", lambda folders: (paths[:4], paths[4:]))
    return [
        "--quiet", f"images=[{folder}]", "steps=2", "batch.batch_size=8",
        "validation_keypoints=20", "tracks.num_views=1", "tracks.min_tracks=4",
    ]  # fmt: skip


@pytest.fixture
def arguments(folder, tmp_path, monkeypatch):
    return [*without_weights(monkeypatch, folder), f"output={tmp_path}"]


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The output folder of the program, validated after each of two steps."""
    output = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        arguments = [*without_weights(patch, folder), f"output={output}", "validate_every=1"]
        assert train_descriptor.main(arguments) == 0
    return output


def test_the_program_ends_in_weights_that_load(trained, arguments):
    path = trained / "hardnet.safetensors"
    described = describe(load_hardnet(str(path)), torch.rand(5, 1, 32, 32), 5)
    assert torch.allclose(described.norm(dim=1), torch.ones(5), atol=1e-5)
    provenance = json.loads(read_weights(path)[1]["provenance"])
    assert provenance["step"] in (1, 2)  # that of the best validation
    assert provenance["step"] == load_checkpoint(trained / "best.pt")["step"]
    assert provenance["identity"]["data_hash"]
    assert set(provenance["peers"]) == {"RootSIFT"}
    assert set(provenance["quality"]) == {"oriented", "upright"}
    state = load_checkpoint(trained / "last.pt")
    assert state["step"] == 2
    assert state["code_version"].startswith(rekd_hloc.__version__)
    assert state["config"] == json.loads((trained / "config.json").read_text())
    assert state["config"]["batch"]["batch_size"] == 8
    before = (trained / "last.pt").read_bytes()
    again = [*arguments, f"output={trained}", "validate_every=1"]
    assert train_descriptor.main(again) == 0  # nothing left to do
    assert (trained / "last.pt").read_bytes() == before
    assert not list(trained.rglob("*.tmp"))


@pytest.mark.slow
def test_two_supports_from_the_command_line(arguments, tmp_path):
    options = ["tracks.supports=[1,2]", "init=default", "peers=[default]", "memory_size=64"]
    options += ["second_order_weight=1", "average_decay=0.9", "batch.scene_share=0.5"]
    options += ["batch.rows_per_image=4", "tensorboard=false"]
    assert train_descriptor.main([*arguments, *options]) == 0
    path = tmp_path / "hardnet.safetensors"
    assert supports_of(load_hardnet(str(path))) == (1.0, 2.0)
    peers = json.loads(read_weights(path)[1]["provenance"])["peers"]
    assert set(peers) == {"RootSIFT", "default"}


def test_tensorboard_has_curves(trained):
    found = board_events(trained)
    for name in ("loss/loss", "loss/positive", "learning_rate", "validation/upright/precision"):
        assert [event.step for event in found.Scalars(name)] == [1, 2], name
    last = load_checkpoint(trained / "last.pt")["quality"]["oriented"]["average_precision"]
    assert found.Scalars("validation/oriented/average_precision")[-1].value == pytest.approx(last)


def test_a_signal_leaves_a_checkpoint_of_its_step(
    trained, arguments, tmp_path, monkeypatch, caplog
):
    advance = DescriptorRun.advance

    def advance_and_signal(self, batch):
        values = advance(self, batch)
        if self.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return values

    options = [f"cache={trained / 'tracks'}"]
    stopped = [*arguments, *options, "validate_every=1", "tensorboard=false"]
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(DescriptorRun, "advance", advance_and_signal)
        assert train_descriptor.main(stopped) == 130
    assert "stopped at step 1 of 2" in caplog.text
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert not (tmp_path / "hardnet.safetensors").exists()
    assert train_descriptor.main(stopped) == 0
    states = [load_checkpoint(folder / "last.pt") for folder in (trained, tmp_path)]
    for name, tensor in states[0]["network"].items():
        assert torch.equal(tensor, states[1]["network"][name]), name
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (trained, tmp_path)
    ]
    for expected, got in zip(*logs, strict=True):  # the first was validated after the signal
        assert {**got, "seconds": 0} == {**expected, "seconds": 0}
    assert not (tmp_path / "tensorboard").exists()


def test_checkpoints_between_validations(arguments, trained, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(DescriptorRun, "save", lambda self: saved.append(self.step))
    monkeypatch.setattr(DescriptorRun, "export", lambda self, held_out: None)
    options = [f"cache={trained / 'tracks'}", "tensorboard=false"]
    assert train_descriptor.main([*arguments, *options, "checkpoint_every=1"]) == 0
    assert saved == [1, 2]


@pytest.mark.slow
def test_a_reconstruction_gives_tracks_too(arguments, tmp_path, caplog):
    out, images = make_wall(tmp_path / "wall")
    scenes = [f"scenes.folders=[{out}]", f"scenes.images=[{images}]"]
    with caplog.at_level(logging.INFO):
        assert train_descriptor.main([*arguments, *scenes]) == 0
    assert f"{out}: 60 scene points in 5 images" in caplog.text
    (out / "features.h5").unlink()
    fresh = tmp_path / "fresh"
    assert train_descriptor.main([*arguments, *scenes, f"output={fresh}"]) == 2
    assert "rekd-hloc reconstruct IMAGES" in caplog.text
    assert not fresh.exists()  # before any work on the photos


def test_an_unknown_device_is_an_error(arguments, caplog):
    assert train_descriptor.main([*arguments, "device=tpu9"]) == 2
    assert "no device 'tpu9'" in caplog.text


@pytest.mark.slow
def test_convolutions_in_bfloat16_are_close_and_no_weights_are(folder, cache, pairs, tmp_path):
    runs = [
        run_steps(
            run_config(folder, cache, tmp_path / str(autocast), autocast=autocast), cache, 3, pairs
        )
        for autocast in (False, True)
    ]
    losses = [losses for _, losses in runs]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    weights = runs[1][0].network.state_dict()
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_run_on_a_gpu_is_close_to_one_on_the_cpu(folder, cache, pairs, tmp_path):
    losses = [
        run_steps(run_config(folder, cache, tmp_path / name, device=name), cache, 3, pairs)[1]
        for name in ("cpu", "cuda")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images"),
        (["images=[/nowhere]"], "/nowhere"),
        (["optimiser=rmsprop"], "adam or sgd"),
        (["tracks.num_views=0"], "num_views"),
        (["checkpoint_every=-1"], "checkpoint_every must not be negative"),
        (["batch.batch_size=1"], "batch_size must be at least 2"),
        (["photos=[/nowhere]"], "unknown key 'photos'; it is 'images' now"),
        (["scenes.photos=[/nowhere]"], "it is 'scenes.images' now"),
        (["batch.changes.shadows=1"], "it is 'batch.augmentation' now"),
        (["batch.augmentation.shadows=1"], "it is 'batch.augmentation.shadow_share' now"),
        (["tracks.support=64"], "it is 'tracks.patch_size_px' now"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, caplog):
    assert train_descriptor.main(["--quiet", *arguments]) == 2
    assert message in caplog.text
