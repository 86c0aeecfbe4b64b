import json
import logging
import shutil
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import rekd_hloc
import training.common.checkpoint as checkpoint
import training.common.signal_handler as stopping
import training.detector_run as detector_run
from evaluation.image_folders import is_validation
from rekd_hloc.config import NetworkConfig, load_config
from rekd_hloc.features.weights import detector_config, load_detector, resolve_weights
from rekd_hloc.weight_files import read_weights, weights_hash
from tests.helpers import ROOT, board_events, textured_image
from training.ablation import AblationConfig
from training.common.checkpoint import load_checkpoint, save_checkpoint
from training.descriptor_config import TrainDescriptorConfig
from training.detector_config import TrainDetectorConfig
from training.detector_run import (
    DetectorRun,
    build_trainable,
    learning_rate,
    load_network_state,
    network_state,
)
from training.detector_validation import ValidationResult, validate
from training.export import export_checkpoint
from training.match_network_config import TrainMatchNetworkConfig
from training.pairs import ImageSet
from training.ranking_run import TrainRankingConfig
from training.refine_group import main as refine_main
from training.refine_group import refine_group
from training.train_detector import main

SMOKE = ROOT / "configs" / "train_rekd_smoke.yaml"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Photos of which some are held out, by the rule on their names."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(24):
        grey = textured_image(150, 180, seed=number)
        assert cv2.imwrite(str(folder / f"p{number}.png"), cv2.merge([grey, grey, grey]))
    assert any(is_validation(path.name) for path in folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(images, folder) == 0
    return folder


def run(images, output, *overrides):
    arguments = ["--quiet", "--config", str(SMOKE), f"images=[{images}]", f"output={output}"]
    return main([*arguments, *overrides])


def weights(folder):
    state = load_checkpoint(folder / "last.pt")
    return {**state["backbone"], **state["head"]}


@pytest.mark.slow
def test_every_configuration_loads():
    names = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert "train_rekd.yaml" in names
    for name in names:
        kinds = {
            "hardnet": TrainDescriptorConfig,
            "ablation": AblationConfig,
            "ranking": TrainRankingConfig,
            "match_network": TrainMatchNetworkConfig,
        }
        kind = next((kinds[word] for word in kinds if word in name), TrainDetectorConfig)
        load_config(kind(), ROOT / "configs" / name)


def test_the_defaults_are_the_papers_recipe():
    config = load_config(TrainDetectorConfig(), ROOT / "configs" / "train_rekd.yaml")
    assert (config.network.group_order, config.network.fields) == (36, (2, 2, 2))
    assert (config.batch_size, config.steps, config.learning_rate) == (16, 11240, 1e-3)
    assert (config.weight_decay, config.orientation_weight) == (0.1, 100.0)
    assert (config.pairs.crop_px, config.pairs.max_angle_deg) == (192, 180.0)
    assert learning_rate(config, 5619) == 1e-3
    assert learning_rate(config, 5620) == 5e-4


def assert_same_end(folder, whole):
    expected, got = weights(whole), weights(folder)
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    lines = [
        [json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()]
        for f in (whole, folder)
    ]
    for expected_line, line in zip(*lines, strict=True):
        assert {**line, "seconds": 0} == {**expected_line, "seconds": 0}
    assert [line["step"] for line in lines[1]] == [2, 4]


def test_resumed_equals_uninterrupted(images, whole, tmp_path, monkeypatch):
    def save_and_stop(path, state):
        save_checkpoint(path, state)
        if path.name == "best.pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_and_stop)
    assert run(images, tmp_path) == 130
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2
    monkeypatch.undo()
    with (tmp_path / "log.jsonl").open("a") as log:  # as left by a kill between log and checkpoint
        log.write(json.dumps({"step": 4}) + "\n")
    assert run(images, tmp_path) == 0
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize(("kind", "stop"), [(signal.SIGINT, 2), (signal.SIGTERM, 3)])
def test_a_signal_leaves_a_checkpoint_of_its_step(
    images, whole, tmp_path, monkeypatch, caplog, kind, stop
):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    advance = DetectorRun.advance

    def advance_and_signal(self, batch):
        losses = advance(self, batch)
        if self.step == stop:
            signal.raise_signal(kind)
            signal.raise_signal(kind)  # a launcher may pass on what the terminal has sent already
        return losses

    monkeypatch.setattr(DetectorRun, "advance", advance_and_signal)
    with caplog.at_level(logging.INFO):
        assert run(images, tmp_path) == 130
    assert f"stopped at step {stop} of 4" in caplog.text
    assert "run the same command again" in caplog.text
    assert load_checkpoint(tmp_path / "last.pt")["step"] == stop
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    monkeypatch.undo()
    assert run(images, tmp_path) == 0
    assert_same_end(tmp_path, whole)
    assert curve(tmp_path, "loss/keypoint") == curve(whole, "loss/keypoint")


def test_a_later_second_signal_interrupts_at_once(monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE_S", -1.0)
    with stopping.SignalHandler() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def curve(folder, tag):
    return [(event.step, event.value) for event in board_events(folder).Scalars(tag)]


def test_tensorboard_has_curves_and_pictures(whole):
    found = board_events(whole)
    names = ("loss/keypoint", "loss/orientation", "loss/similarity", "learning_rate")
    for name in names:
        assert [event.step for event in found.Scalars(name)] == [1, 2, 3, 4]
    assert [event.value for event in found.Scalars("learning_rate")] == pytest.approx(
        [1e-3, 1e-3, 5e-4, 5e-4]
    )
    last = load_checkpoint(whole / "last.pt")
    for name, value in last["result"].items():
        points = found.Scalars(f"validation/{name}")
        assert [event.step for event in points] == [2, 4]
        assert points[-1].value == pytest.approx(value)
    for name, wide in (("score", False), ("orientation", False), ("repeated_points", True)):
        images = found.Images(f"validation/{name}")
        assert [event.step for event in images] == [2, 4]
        coded = np.frombuffer(images[-1].encoded_image_string, np.uint8)
        picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert picture.shape[0] == 96
        assert (picture.shape[1] > 2 * 96) == wide
        assert picture.std() > 1


def test_a_checkpoint_says_what_it_was_made_with(whole):
    state = load_checkpoint(whole / "last.pt")
    assert state["config"]["steps"] == 4
    assert state["config"] == json.loads((whole / "config.json").read_text())
    assert len(state["identity"]["data_hash"]) == 12
    assert state["code_version"].startswith(rekd_hloc.__version__)


def test_what_does_not_matter_may_change_and_new_options_had_their_defaults(
    images, whole, tmp_path
):
    state = load_checkpoint(whole / "last.pt")
    for name in ("peakiness_weight", "autocast", "whole_bins"):
        del state["identity"][name]
    for name in ("max_stretch", "perspective"):
        del state["identity"]["pairs"][name]
    state["identity"]["tensorboard"] = True
    save_checkpoint(tmp_path / "last.pt", state)
    free = ["tensorboard=false", "checkpoint_every=3", "load_threads=0", "device=cpu"]
    assert run(images, tmp_path, *free) == 0
    assert not (tmp_path / "tensorboard").exists()
    assert run(images, tmp_path, "peakiness_weight=1") == 2


def test_checkpoints_between_validations(images, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        checkpoint,
        "save_checkpoint",
        lambda path, state: saved.append((path.name, state["step"])),
    )
    options = ["checkpoint_every=1", "steps=3", "validate_every=3", "tensorboard=false"]
    assert run(images, tmp_path, *options) == 0
    assert [step for name, step in saved if name == "last.pt"][:3] == [1, 2, 3]
    assert [step for name, step in saved if name == "best.pt"] == [3]


def test_losses_with_bfloat16_convolutions(images, tmp_path):
    losses = []
    for number, autocast in enumerate(("false", "true")):
        overrides = [f"output={tmp_path / str(number)}", f"autocast={autocast}"]
        config = load_config(TrainDetectorConfig(), SMOKE, overrides)
        training = DetectorRun(config, "hash")
        batch = ImageSet(sorted(images.glob("*.png"))[:4], config.pairs).batch(0, 0, 2)
        losses.append([training.advance(batch) for _ in range(2)])
        assert {p.dtype for p in training.network.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in training.network.parameters()} == {torch.float32}
    for exact, rounded in zip(*losses, strict=True):
        for name in ("keypoint", "orientation"):
            assert rounded[name] != exact[name]
            assert rounded[name] == pytest.approx(exact[name], rel=0.03), name


def test_skipped_images_are_named_with_their_reasons(images, tmp_path, caplog):
    mixed = tmp_path / "mixed"
    shutil.copytree(images, mixed)
    (mixed / "broken.png").write_bytes(b"no image")
    for number in range(5):
        name = f"small{number}.png"
        assert not is_validation(name)
        assert cv2.imwrite(str(mixed / name), textured_image(60 + number, 200))
    with caplog.at_level(logging.WARNING):
        assert run(mixed, tmp_path / "r", "steps=1") == 0
    assert "not an image: broken.png" in caplog.text
    assert "skipped 5 of" in caplog.text
    assert "short side below 91 px: small0.png, small1.png, small2.png and 2 more" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        assert run(mixed, tmp_path / "none", "pairs.crop_px=150") == 2
    assert "images can be used, at least 2 are needed" in caplog.text


def test_another_configuration_is_not_resumed(images, whole, caplog):
    with caplog.at_level(logging.ERROR):
        assert run(images, whole, "learning_rate=0.5") == 2
    assert "learning_rate" in caplog.text


def test_mistakes_are_named(images, tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        assert main(["--quiet", f"output={tmp_path / 'r'}"]) == 2
        assert run(images, tmp_path / "r", "schedule=linear") == 2
        assert run(images, tmp_path / "r", "step=4") == 2
    assert "no images" in caplog.text
    assert "schedule must be halve or cosine, got 'linear'" in caplog.text
    assert "did you mean 'steps'" in caplog.text


def test_a_loss_that_is_no_number_stops_and_names_step_and_losses(images, tmp_path, monkeypatch):
    config = load_config(TrainDetectorConfig(), SMOKE, [f"output={tmp_path / 'r'}"])
    batch = ImageSet(sorted(images.glob("*.png")), config.pairs).batch(0, 0, 2)
    monkeypatch.setattr(detector_run, "keypoint_loss", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="step 0.*keypoint.*nan"):
        DetectorRun(config, "hash").advance(batch)


@pytest.mark.slow
def test_the_loss_falls(images, tmp_path):
    overrides = [f"output={tmp_path / 'r'}", "network.group_order=8", "learning_rate=0.005"]
    config = load_config(TrainDetectorConfig(), SMOKE, overrides)
    training = DetectorRun(config, "hash")
    pairs = ImageSet(sorted(images.glob("*.png")), config.pairs)
    batch = pairs.batch(0, 0, 4)
    losses = [training.advance(batch) for _ in range(30)]
    first, last = losses[0], losses[-1]
    assert last["keypoint"] < 0.8 * first["keypoint"]
    assert last["orientation"] < first["orientation"]


def test_export_runs_what_was_trained(whole, tmp_path):
    export_checkpoint(whole / "last.pt", tmp_path / "w.safetensors")
    frozen, config = load_detector(tmp_path / "w.safetensors")
    trained = build_trainable(config)
    load_network_state(trained, load_checkpoint(whole / "last.pt"))
    trained.eval()
    image = torch.from_numpy(textured_image(80, 90)).float()[None, None] / 255
    with torch.no_grad():
        for got, wanted in zip(frozen(image), trained(image), strict=True):
            assert torch.allclose(got, wanted, atol=1e-4)


def test_validation_knows_a_perfect_detector_and_leaves_the_mode_alone(images):
    config = load_config(TrainDetectorConfig(), SMOKE)
    network = build_trainable(config.network).train()
    # the same crop twice: every point and angle must be found again
    fixed = load_config(TrainDetectorConfig(), SMOKE, ["pairs.max_angle_deg=1e-6"]).pairs
    plain = {"brightness": 0, "contrast": (1, 1), "hue_deg": 0, "saturation": (1, 1)}
    held_out = ImageSet(
        sorted(images.glob("*.png")),
        type(fixed)(**{**fixed.__dict__, **plain, "crop_px": 96}),
    )
    result = validate(network, held_out, num_pairs=3, seed=0)
    assert network.training
    # colour channels are permuted at times, and these images are grey: nothing else differs
    assert result.repeatability_1px5 > 0.99
    assert result.orientation_accuracy > 0.99
    assert result.quality == pytest.approx(result.repeatability_1px5 * result.orientation_accuracy)


def test_the_best_checkpoint_is_the_one_of_best_quality(tmp_path):
    config = load_config(TrainDetectorConfig(), SMOKE, [f"output={tmp_path}"])
    training = DetectorRun(config, "hash")
    for step, share in ((1, 0.5), (2, 0.9), (3, 0.7)):
        training.step = step
        training.record(ValidationResult(share, share, 1.0, 1.0))
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 2
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 3


def test_training_starts_from_weights_as_they_ship(whole, tmp_path):
    export_checkpoint(whole / "last.pt", tmp_path / "shipped.safetensors")
    config = load_config(TrainDetectorConfig(), SMOKE, [f"output={tmp_path / 'new'}"])
    fresh = DetectorRun(config, "hash").network
    started = DetectorRun(replace(config, init=str(tmp_path / "shipped.safetensors")), "hash")
    assert started.step == 0
    exported = weights(whole)
    for network, is_same in ((started.network, True), (fresh, False)):
        state = network_state(network)
        own = {**state["backbone"], **state["head"]}
        assert set(own) == set(exported)
        assert all(torch.equal(own[name], exported[name]) for name in own) == is_same
    for name, message in (
        ("hardnet", "a detector has"),
        ("rekd-fast", "group_order 4"),
        ("none", "no checkpoint none to start from"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            DetectorRun(replace(config, init=name), "hash")


@pytest.mark.slow
def test_a_finer_group_computes_nearly_the_same(tmp_path):
    torch.manual_seed(0)
    coarse = build_trainable(NetworkConfig(group_order=8, fields=(1, 1, 1))).eval()
    fine = refine_group(coarse.backbone, 16).eval()
    image = torch.from_numpy(textured_image(60, 60)).float()[None, None] / 128 - 1
    torch.manual_seed(1)
    other = refine_group(build_trainable(NetworkConfig(8, (1, 1, 1))).eval().backbone, 16).eval()
    with torch.no_grad():
        wanted = coarse.backbone(image)
        for maps, low, high in ((fine(image), 0.9, 1.0), (other(image), -1.0, 0.7)):
            # the even bins of the fine histogram are the bins of the coarse one
            for got, coarse_map in zip((maps[0], maps[1][:, ::2]), wanted, strict=True):
                alike = torch.corrcoef(torch.stack([got.flatten(), coarse_map.flatten()]))[0, 1]
                assert low < float(alike) <= high + 1e-6
    with pytest.raises(ValueError, match="at least the trained 16, got 8"):
        refine_group(fine, 8)
    state = {**network_state(coarse), "step": 7, "network": {"group_order": 8, "fields": [1, 1, 1]}}
    save_checkpoint(tmp_path / "c8.pt", state)
    assert refine_main([str(tmp_path / "c8.pt"), str(tmp_path / "c16.pt"), "--group-order=16"]) == 0
    assert load_checkpoint(tmp_path / "c16.pt")["network"]["group_order"] == 16
    assert refine_main([str(tmp_path / "none.pt"), str(tmp_path / "x.pt")]) == 2
    assert refine_main(["rekd-fast", str(tmp_path / "shipped.pt"), "--group-order=12"]) == 0
    refined = load_checkpoint(tmp_path / "shipped.pt")
    assert refined["network"]["group_order"] == 12
    shipped = resolve_weights("rekd-fast")
    assert refined["identity"]["refined_from"] == weights_hash(shipped)
    export_checkpoint(tmp_path / "shipped.pt", tmp_path / "refined.safetensors")
    for path, count in ((shipped, 8), (tmp_path / "refined.safetensors", 12)):
        provenance = json.loads(read_weights(path)[1]["provenance"])
        assert provenance["data_hash"] == "6c0e1dd4b075"
        assert detector_config(path).group_order == count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [([], 0.02), (["autocast=true"], 0.1), (["compile=true"], 0.02)],
    ids=["plain", "autocast", "compile"],
)
def test_a_run_on_a_gpu_is_close_to_one_on_the_cpu(images, tmp_path, options, tolerance):
    for device, extra in (("cpu", []), ("cuda", options)):
        assert run(images, tmp_path / device, f"device={device}", *extra) == 0
    lines = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("cpu", "cuda")
    ]
    for cpu, gpu in zip(*lines, strict=True):
        for name in ("keypoint", "orientation"):
            assert gpu[name] == pytest.approx(cpu[name], rel=tolerance), name
