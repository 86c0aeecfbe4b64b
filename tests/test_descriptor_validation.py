"""The descriptor's validation: RootSIFT at given keypoints, and what the metrics tell apart."""

import math

import cv2
import torch
from torch import nn

from rekd_hloc.types import Keypoints
from tests.helpers import textured_image
from tests.training_data import TRACKS, CornerDetector, write_images
from tests.wall_scene import make_wall
from training.descriptor_real_pairs import make_real_pairs
from training.descriptor_validation import (
    ValidationSet,
    by_root_sift,
    evaluate,
    make_pairs,
    root_sift,
)
from training.scenes.scene_folders import SceneFolders


def test_root_sift_at_given_keypoints_is_opencv_s_own():
    grey = textured_image(240, 320, 5)
    points = [p for p in cv2.SIFT.create().detect(grey, None) if p.size > 5][:80]
    _, theirs = cv2.SIFT.create().compute(grey, points)
    theirs = torch.from_numpy(theirs / theirs.sum(axis=1, keepdims=True)).sqrt()
    rows = torch.tensor([(*p.pt, p.size * 6 / 64, math.radians(p.angle)) for p in points])
    keypoints = Keypoints(rows[:, :2], rows[:, 2], rows[:, 3], torch.ones(len(points)))
    ours = root_sift(grey, keypoints, patch_size_px=64.0, oriented=True)
    assert float((ours * theirs).sum(dim=1).median()) > 0.97
    upright = root_sift(grey, keypoints, patch_size_px=64.0, oriented=False)
    assert float((upright * theirs).sum(dim=1).median()) < 0.9


def test_validation_knows_good_from_bad(tmp_path):
    paths = sorted(write_images(tmp_path, 2).glob("*.png"))
    pairs = make_pairs(paths, CornerDetector(), TRACKS, upright=False, max_keypoints=80, seed=0)
    good = evaluate(pairs, by_root_sift)
    generator = torch.Generator().manual_seed(0)
    bad = evaluate(
        pairs,
        lambda side: nn.functional.normalize(
            torch.randn(len(side.keypoints), 128, generator=generator)
        ),
    )
    assert good.precision > 0.6
    assert good.average_precision > 0.6
    assert good.fpr95 < 0.3
    assert bad.precision < 0.2
    assert bad.average_precision < 0.1
    assert bad.fpr95 > 0.5


def test_pairs_of_a_scene_are_a_further_kind(tmp_path):
    folder, photos = make_wall(tmp_path)
    folders = SceneFolders((str(folder / "sparse" / "0"),), (str(photos),), max_pairs=4)
    detector = CornerDetector()
    real = make_real_pairs(folders, detector, TRACKS, max_keypoints=80, seed=0)
    assert len(real) == 4
    assert any(not pair.is_judged.all() for pair in real)
    good = evaluate(real, by_root_sift)
    blind = evaluate(
        real, lambda side: nn.functional.one_hot(side.keypoints.xy[:, 0].long(), 320).float()
    )
    assert good.precision > 0.5 > blind.precision
    assert good.average_precision > 2 * blind.average_precision
    kinds = ValidationSet({"upright": real[:1]})
    assert set(kinds.with_real(real).evaluate(by_root_sift)) == {"upright", "real"}
    assert kinds.with_real([]) is kinds
