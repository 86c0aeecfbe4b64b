import json
import logging

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.types import Features, Keypoints
from tests.helpers import textured_image
from training.preset_sweep import evaluate_variant, main
from training.warps import View


def test_the_figures_of_a_hand_worked_pair():
    descriptors = torch.nn.functional.normalize(torch.eye(4, 128) + 0.01, dim=1)
    places = torch.tensor([[10.0, 10], [30, 10], [50, 10], [70, 10]])
    moved = places + torch.tensor([[5.0, 0], [5.5, 0], [5, 2], [25, 0]])  # off by 0, .5, 2, 20 px
    sets = iter(
        Features(Keypoints(xy, torch.ones(4), torch.zeros(4), torch.ones(4)), descriptors, (99, 99))
        for xy in (places, moved)
    )
    shift = np.eye(3)
    shift[0, 2] = 5
    grey = np.zeros((99, 99), np.uint8)
    pair = (View(grey, np.eye(3), True), View(grey, shift, True))
    result = evaluate_variant("v", lambda _: next(sets), [pair])
    assert (result.num_keypoints, result.num_matches, result.num_correct) == (4, 4, 3)
    assert result.precision == 0.75
    assert result.error_px == 0.5


@pytest.mark.slow
def test_the_program_compares_variants_on_held_out_images(tmp_path, capsys, caplog):
    for number in range(12):
        grey = textured_image(120, 150, seed=number)
        assert cv2.imwrite(str(tmp_path / f"p{number}.png"), cv2.merge([grey] * 3))
    arguments = ["--images", str(tmp_path), "--num-images", "1", "--out", str(tmp_path / "out")]
    variant = "detector.max_keypoints=20 detector.levels_up=0"
    assert main([*arguments, "--variant", variant]) == 0
    assert f"| {variant} | " in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["variants"]
    assert rows[1]["num_keypoints"] <= 20 < rows[0]["num_keypoints"]
    with caplog.at_level(logging.ERROR):
        assert main([*arguments, "--variant", "detector.max_keypoint=1"]) == 2
    assert "max_keypoints" in caplog.text
