import json
import logging
from dataclasses import replace

import cv2
import pytest
import torch

import training.train_detector as train_detector
from rekd_hloc.config import load_config
from tests.helpers import textured_image
from training.ablation import AblationConfig, main, make_variants
from training.common.checkpoint import load_checkpoint
from training.detector_run import DetectorRun
from training.detector_validation import ValidationResult

BASE = """
base:
  network: {group_order: 4, fields: [1, 1, 1]}
  pairs: {crop_px: 64}
  steps: 2
  batch_size: 1
  validate_every: 1
  num_validation_pairs: 1
  validation_crop_px: 96
  tensorboard: false
variants:
  plain: ""
  Other seed: seed=1
  no turn: pairs.max_angle_deg=0.001 learning_rate=0.01
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        grey = textured_image(150, 180, seed=number)
        assert cv2.imwrite(str(folder / f"p{number}.png"), cv2.merge([grey, grey, grey]))
    return folder


def run(images, folder, *overrides):
    (folder / "a.yaml").write_text(BASE)
    places = [f"base.images=[{images}]", f"output={folder / 'out'}"]
    return main(["--quiet", "--config", str(folder / "a.yaml"), *places, *overrides])


@pytest.mark.slow
def test_variants_are_trained_from_one_start_and_compared(images, tmp_path, caplog):
    out = tmp_path / "out"
    assert run(images, tmp_path, "only=[plain]") == 0
    start = (out / "start.json").read_bytes()
    first = json.loads((out / "results.json").read_text())
    assert list(first["variants"]) == ["plain"]
    plain = (out / "plain" / "last.pt").read_bytes()
    assert run(images, tmp_path) == 0
    assert (out / "plain" / "last.pt").read_bytes() == plain  # finished ones stay as they are
    assert (out / "start.json").read_bytes() == start
    record = json.loads((out / "results.json").read_text())
    assert list(record["variants"]) == ["plain", "Other seed", "no turn"]
    for entry in record["variants"].values():
        assert [line["step"] for line in entry["log"]] == [1, 2]
    assert record["variants"]["no turn"]["overrides"] == [
        "pairs.max_angle_deg=0.001",
        "learning_rate=0.01",
    ]
    table = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[4:]] == [
        "start",
        "plain",
        "Other seed",
        "no turn",
    ]
    share = 100 * record["variants"]["no turn"]["log"][-1]["repeatability_3px"]
    assert table[-1].split("|")[3].strip() == f"{share:.1f}"
    assert cv2.imread(str(out / "curves.png")).std() > 1
    with caplog.at_level(logging.ERROR):
        assert run(images, tmp_path, "base.learning_rate=0.5") == 2
    assert "learning_rate" in caplog.text


@pytest.mark.slow
def test_all_variants_start_alike_and_are_validated_on_the_pairs_of_the_base(
    images, tmp_path, monkeypatch
):
    (tmp_path / "a.yaml").write_text(BASE)
    base = load_config(AblationConfig(), tmp_path / "a.yaml").base
    origin = DetectorRun(replace(base, output=str(tmp_path / "origin"), seed=5), "")
    origin.save()
    validated = []

    def record_validation(network, images, *, num_pairs, seed):
        validated.append((images.config, num_pairs, seed))
        return ValidationResult(0.5, 0.5, 0.5, 1.0)

    monkeypatch.setattr(train_detector, "validate", record_validation)
    still = [f"base.init={tmp_path / 'origin' / 'last.pt'}", "base.learning_rate=1e-12"]
    assert run(images, tmp_path, *still, "only=[plain,Other seed]") == 0
    assert len(validated) == 4
    assert all(seen == (replace(base.pairs, crop_px=96), 1, 0) for seen in validated)
    for name in ("plain", "other-seed"):
        state = load_checkpoint(tmp_path / "out" / name / "last.pt")
        weight = state["backbone"]["convolutions.0"]
        assert torch.allclose(weight, origin.network.backbone.convolutions[0].weights, atol=1e-6)


def test_no_variants_are_a_mistake(tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        assert main(["--quiet", f"output={tmp_path}"]) == 2
    assert "no variants" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["only=[nothing]"], "are no variants; there are plain"),
        (["variants={a: steps=3}"], "must not change images"),
        (["variants={a b: seed=1, a-b: seed=2}"], "need names that differ"),
        (["variants={a: step=3}"], "unknown key 'step'"),
        (["base.init=none.pt"], "no checkpoint none.pt"),
    ],
)
def test_mistakes_are_named(images, tmp_path, caplog, options, message):
    with caplog.at_level(logging.ERROR):
        assert run(images, tmp_path, *options) == 2
    assert message in caplog.text


def test_a_variant_changes_what_it_says_and_no_more(tmp_path):
    (tmp_path / "a.yaml").write_text(BASE)
    config = load_config(AblationConfig(), tmp_path / "a.yaml")
    variants = make_variants(config)
    assert variants["Other seed"].seed == 1
    assert variants["Other seed"].pairs == config.base.pairs
    assert len({training.output for training in variants.values()}) == 3
