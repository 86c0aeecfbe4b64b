import json
import logging

import cv2
import pytest
import torch

import training.detector_run as detector_run
from evaluation.photos import is_validation
from rekd_hloc.config import NetworkConfig, load_config
from rekd_hloc.weights import load_detector
from tests.helpers import ROOT, textured_image
from training.checkpoint import load_checkpoint, save_checkpoint
from training.descriptor_run import TrainDescriptorConfig
from training.detector_run import (
    DetectorRun,
    TrainDetectorConfig,
    build_trainable,
    learning_rate,
    load_network_state,
    network_state,
)
from training.export import export_checkpoint
from training.pairs import PhotoSet
from training.refine_group import main as refine_main
from training.refine_group import refine_group
from training.train_detector import main
from training.validation import ValidationResult, validate

SMOKE = ROOT / "configs" / "train_rekd_smoke.yaml"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of which some are held out, by the rule on their names."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(24):
        grey = textured_image(150, 180, seed=number)
        assert cv2.imwrite(str(folder / f"p{number}.png"), cv2.merge([grey, grey, grey]))
    assert any(is_validation(path.name) for path in folder.iterdir())
    return folder


def run(photos, output, *overrides):
    arguments = ["--quiet", "--config", str(SMOKE), f"photos=[{photos}]", f"output={output}"]
    return main([*arguments, *overrides])


def weights(folder):
    state = load_checkpoint(folder / "last.pt")
    return {**state["backbone"], **state["head"]}


def test_every_configuration_loads():
    names = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert "train_rekd.yaml" in names
    for name in names:
        kind = TrainDescriptorConfig if "hardnet" in name else TrainDetectorConfig
        load_config(kind(), ROOT / "configs" / name)


def test_the_defaults_are_the_papers_recipe():
    config = load_config(TrainDetectorConfig(), ROOT / "configs" / "train_rekd.yaml")
    assert (config.network.group_order, config.network.fields) == (36, (2, 2, 2))
    assert (config.batch_size, config.steps, config.learning_rate) == (16, 11240, 1e-3)
    assert (config.weight_decay, config.orientation_weight) == (0.1, 100.0)
    assert (config.pairs.crop_px, config.pairs.max_angle_deg) == (192, 180.0)
    assert learning_rate(config, 5619) == 1e-3
    assert learning_rate(config, 5620) == 5e-4


def test_resumed_equals_uninterrupted(photos, tmp_path, monkeypatch):
    assert run(photos, tmp_path / "whole") == 0

    def save_and_stop(path, state):
        save_checkpoint(path, state)
        if path.name == "best.pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(detector_run, "save_checkpoint", save_and_stop)
    assert run(photos, tmp_path / "parts") == 130
    assert load_checkpoint(tmp_path / "parts" / "last.pt")["step"] == 2
    monkeypatch.undo()
    assert run(photos, tmp_path / "parts") == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_another_configuration_is_not_resumed(photos, tmp_path, caplog):
    assert run(photos, tmp_path / "r") == 0
    with caplog.at_level(logging.ERROR):
        assert run(photos, tmp_path / "r", "learning_rate=0.5") == 2
    assert "learning_rate" in caplog.text


def test_mistakes_are_named(photos, tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        assert main(["--quiet", f"output={tmp_path / 'r'}"]) == 2
        assert run(photos, tmp_path / "r", "schedule=linear") == 2
        assert run(photos, tmp_path / "r", "step=4") == 2
    assert "no photos" in caplog.text
    assert "schedule must be halve or cosine, got 'linear'" in caplog.text
    assert "did you mean 'steps'" in caplog.text


def test_a_loss_that_is_no_number_stops_and_names_step_and_losses(photos, tmp_path, monkeypatch):
    config = load_config(TrainDetectorConfig(), SMOKE, [f"output={tmp_path / 'r'}"])
    batch = PhotoSet(sorted(photos.glob("*.png")), config.pairs).batch(0, 0, 2)
    monkeypatch.setattr(detector_run, "keypoint_loss", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="step 0.*keypoint.*nan"):
        DetectorRun(config, "hash").advance(batch)


def test_the_loss_falls(photos, tmp_path):
    overrides = [f"output={tmp_path / 'r'}", "network.group_order=8", "learning_rate=0.005"]
    config = load_config(TrainDetectorConfig(), SMOKE, overrides)
    training = DetectorRun(config, "hash")
    pairs = PhotoSet(sorted(photos.glob("*.png")), config.pairs)
    batch = pairs.batch(0, 0, 4)
    losses = [training.advance(batch) for _ in range(30)]
    first, last = losses[0], losses[-1]
    assert last["keypoint"] < 0.8 * first["keypoint"]
    assert last["orientation"] < first["orientation"]


def test_export_runs_what_was_trained(photos, tmp_path):
    assert run(photos, tmp_path / "r") == 0
    export_checkpoint(tmp_path / "r" / "last.pt", tmp_path / "w.safetensors")
    frozen, config = load_detector(tmp_path / "w.safetensors")
    trained = build_trainable(config)
    load_network_state(trained, load_checkpoint(tmp_path / "r" / "last.pt"))
    trained.eval()
    image = torch.from_numpy(textured_image(80, 90)).float()[None, None] / 255
    with torch.no_grad():
        for got, wanted in zip(frozen(image), trained(image), strict=True):
            assert torch.allclose(got, wanted, atol=1e-4)


def test_validation_knows_a_perfect_detector_and_leaves_the_mode_alone(photos):
    config = load_config(TrainDetectorConfig(), SMOKE)
    network = build_trainable(config.network).train()
    # the same crop twice: every point and angle must be found again
    fixed = load_config(TrainDetectorConfig(), SMOKE, ["pairs.max_angle_deg=1e-6"]).pairs
    plain = {"brightness": 0, "contrast": (1, 1), "hue_deg": 0, "saturation": (1, 1)}
    held_out = PhotoSet(
        sorted(photos.glob("*.png")),
        type(fixed)(**{**fixed.__dict__, **plain, "crop_px": 96}),
    )
    result = validate(network, held_out, num_pairs=3, seed=0)
    assert network.training
    # colour channels are permuted at times, and these photos are grey: nothing else differs
    assert result.repeatability_1px5 > 0.99
    assert result.orientation_accuracy > 0.99
    assert result.quality == pytest.approx(result.repeatability_1px5 * result.orientation_accuracy)


def test_the_best_checkpoint_is_the_one_of_best_quality(tmp_path):
    config = load_config(TrainDetectorConfig(), SMOKE, [f"output={tmp_path}"])
    training = DetectorRun(config, "hash")
    for step, share in ((1, 0.5), (2, 0.9), (3, 0.7)):
        training.step = step
        training.record({}, ValidationResult(share, share, 1.0, 1.0))
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 2
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 3


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
