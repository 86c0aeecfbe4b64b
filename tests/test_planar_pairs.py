"""Pairs of crops from two photos of a wall."""

import math

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.geometry import homography_jacobian
from tests.wall_scene import make_wall
from training.detector_config import TrainDetectorConfig
from training.pair_config import PairConfig
from training.pairs import ImageSet
from training.scenes.geometry import models_hash
from training.scenes.planar_pairs import PlanarPairs

CROPS = PairConfig(crop_px=64, zoom_range=(0.6, 0.9), scale_range=(0.8, 1.25))


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    folder, photos = make_wall(tmp_path_factory.mktemp("wall"))
    return str(folder / "sparse" / "0"), str(photos)


@pytest.fixture(scope="module")
def pairs(wall):
    return PlanarPairs.read([wall[0]], [wall[1]], CROPS)


def draw(pairs, seed):
    drawn = pairs.draw(np.random.default_rng(seed))
    assert drawn is not None
    return drawn


@pytest.mark.parametrize("seed", range(6))
def test_both_crops_show_one_place(pairs, seed):
    a, b, b_from_a, _ = draw(pairs, seed)
    side = CROPS.crop_px
    assert a.shape == b.shape == (side, side)
    warped = cv2.warpPerspective(a, b_from_a, (side, side))
    seen = cv2.warpPerspective(np.full_like(a, 255), b_from_a, (side, side)) == 255
    assert seen.mean() > 0.3
    assert np.corrcoef(warped[seen].astype(float), b[seen].astype(float))[0, 1] > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_the_angle_and_the_zoom_are_those_of_the_map(pairs, seed):
    _, _, b_from_a, angle = draw(pairs, seed)
    middle = torch.full((1, 2), (CROPS.crop_px - 1) / 2, dtype=torch.float64)
    jacobian = homography_jacobian(torch.from_numpy(b_from_a), middle)[0].numpy()
    found = math.atan2(jacobian[1, 0], jacobian[0, 0])
    assert math.remainder(found - angle, 2 * math.pi) == pytest.approx(0, abs=0.01)
    zoom = math.sqrt(np.linalg.det(jacobian))
    assert 0.79 < zoom < 1.26


def test_a_pair_depends_on_the_draw_alone(pairs, wall):
    again = PlanarPairs.read([wall[0]], [wall[1]], CROPS)
    for first, second in zip(draw(pairs, 3), draw(again, 3), strict=True):
        assert np.array_equal(first, second)


def test_points_that_fit_no_plane_give_no_pair(wall):
    deep = PlanarPairs.read([wall[0]], [wall[1]], CROPS)
    rng = np.random.default_rng(0)
    for common in deep.pairs[0]:
        common.xy_b[:] += rng.normal(size=common.xy_b.shape) * 8
    assert deep.draw(np.random.default_rng(0)) is None


def test_scenes_without_common_points_are_refused(tmp_path):
    hidden = {(photo, i) for photo in range(5) for i in range(60) if i % 5 != photo}
    hidden |= {(photo, i) for photo in range(1, 5) for i in range(60)}
    folder, photos = make_wall(tmp_path, hidden=hidden)
    with pytest.raises(ValueError, match="share 40 scene points"):
        PlanarPairs.read([str(folder / "sparse" / "0")], [str(photos)], CROPS)


def test_a_share_of_the_pairs_comes_from_the_scenes(tmp_path):
    class Marked:
        def draw(self, rng):
            grey = np.full((64, 64), 7, np.uint8)
            return grey, grey, np.eye(3), 0.5

    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (200, 200, 3), dtype=np.uint8))
    images = ImageSet(sorted(tmp_path.glob("*.png")), PairConfig(crop_px=64))
    images.photo_pairs, images.photo_share = Marked(), 0.25
    angles = np.array([images.pair(0, index)[3] for index in range(200)])
    assert 0.15 < (angles == 0.5).mean() < 0.35
    images.photo_share = 0.0
    assert images.pair(0, 1)[3] != 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene_models": ("a",)}, "as many, got 1 and 0"),
        ({"scene_share": 0.5}, "only with scene_models"),
        ({"scene_share": 1.5, "scene_models": ("a",), "scene_images": ("b",)}, "in \\[0, 1\\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainDetectorConfig(**options)


def test_the_hash_is_that_of_the_models_files(wall, tmp_path):
    assert models_hash([wall[0]]) == models_hash([wall[0]])
    assert models_hash([wall[0], wall[0]]) != models_hash([wall[0]])
    with pytest.raises(FileNotFoundError, match="no COLMAP model"):
        models_hash([str(tmp_path)])
