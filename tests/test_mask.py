from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.mask import fill_ignored, patches_are_usable
from rekd_hloc.types import Keypoints
from tests.helpers import baked_network, textured_image

SIZE = (90, 120)


def keypoints_at(xy, scale=1.0, angle=0.0):
    count = len(xy)
    return Keypoints(
        xy=torch.tensor(xy, dtype=torch.float64),
        scale=torch.full((count,), scale),
        angle=torch.full((count,), angle),
        score=torch.ones(count),
    )


def random_keypoints(count, seed):
    rng = np.random.default_rng(seed)
    return Keypoints(
        xy=torch.from_numpy(rng.uniform([0, 0], [SIZE[1] - 1, SIZE[0] - 1], (count, 2))),
        scale=torch.from_numpy(rng.uniform(0.4, 3.0, count)).float(),
        angle=torch.from_numpy(rng.uniform(0, 2 * np.pi, count)).float(),
        score=torch.ones(count),
    )


def spots(seed, count=3):
    rng = np.random.default_rng(seed)
    usable = np.ones(SIZE, bool)
    for _ in range(count):
        y, x = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
        usable[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = False
    return usable


def touched(keypoints, i, usable, patch_size_px, oriented, grow_px=0.0):
    """Whether an ignored pixel, a unit square, lies in patch i: by separating axes."""
    half = float(keypoints.scale[i]) * patch_size_px / 2 + grow_px
    angle = float(keypoints.angle[i]) if oriented else 0.0
    y, x = np.nonzero(~usable)
    offset = np.stack([x, y], axis=1) - keypoints.xy[i].numpy()
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    reach = 0.5 * np.abs(axes).sum(axis=1)
    along_patch = (np.abs(offset @ axes.T) < half + reach).all(axis=1)
    along_image = (np.abs(offset) < 0.5 + half * np.abs(axes).sum(axis=0)).all(axis=1)
    return bool((along_patch & along_image).any())


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_patch_that_passes_touches_an_ignored_pixel(seed, oriented):
    usable, keypoints, patch_size_px = spots(seed), random_keypoints(300, seed), 20.0
    passed = patches_are_usable(
        keypoints, torch.from_numpy(usable), patch_size_px, oriented=oriented
    )
    assert 20 < passed.sum() < 290
    for i in range(len(keypoints)):
        if passed[i]:
            assert not touched(keypoints, i, usable, patch_size_px, oriented)
        else:  # what is refused was near: the grid's spacing, and the rounding to pixels
            margin = patch_size_px / 32 * float(keypoints.scale[i]) + 3
            assert touched(keypoints, i, usable, patch_size_px, oriented, grow_px=margin)


def test_a_patch_beyond_the_image_is_not_ignored_but_its_edge_pixels_count():
    usable = torch.ones(SIZE, dtype=torch.bool)
    corner = keypoints_at([[1.0, 1.0]], scale=2.0)
    assert patches_are_usable(corner, usable, 64.0).all()
    usable[40, 0] = False
    assert not patches_are_usable(corner, usable, 64.0).any()
    usable[40, 0], usable[80, 119] = True, False
    assert patches_are_usable(corner, usable, 64.0).all()


def test_the_square_turns_with_the_keypoint_only_where_patches_do():
    usable = torch.ones(SIZE, dtype=torch.bool)
    usable[45, 60 + 24] = False  # in the corner's direction of a square turned by 45 degrees
    turned = keypoints_at([[60.0, 45.0]], scale=1.0, angle=np.pi / 4)
    assert not patches_are_usable(turned, usable, 40.0, oriented=True).any()
    assert patches_are_usable(turned, usable, 40.0, oriented=False).all()


def test_a_support_of_zero_asks_for_the_keypoint_s_own_pixel():
    usable = torch.ones(SIZE, dtype=torch.bool)
    usable[10, 20] = False
    keypoints = keypoints_at([[20.3, 9.7], [21.0, 10.0], [-0.4, 89.4]])
    assert patches_are_usable(keypoints, usable, 0.0).tolist() == [False, True, True]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (40, 50)])
def test_a_mask_of_one_value(size, value):
    usable = torch.full(size, value)
    passed = patches_are_usable(keypoints_at([[0.0, 0.0]]), usable, 64.0)
    assert passed.tolist() == [value]
    assert patches_are_usable(Keypoints.empty(), usable, 64.0).shape == (0,)


CONFIG = DetectorConfig(levels_up=0, levels_down=2, max_keypoints=40)


@pytest.fixture(scope="module")
def image():
    """Strong structure on the left, faint structure on the right."""
    image = torch.from_numpy(textured_image(150, 300)).float() / 255
    fade = torch.ones(300)
    fade[150:] = 0.2
    return 0.5 + (image - 0.5) * fade


def test_only_patches_free_of_ignored_pixels_are_detected(image):
    usable = torch.from_numpy(cv2.circle(np.ones((150, 300), np.uint8), (90, 70), 25, 0, -1))
    detector = Detector(baked_network(), CONFIG)
    free = detector.detect(image)
    masked = detector.detect(image, usable > 0, 12.0)
    assert len(masked) > 5
    hit = [touched(free, i, (usable > 0).numpy(), 12.0, True) for i in range(len(free))]
    assert any(hit)
    assert not any(touched(masked, i, (usable > 0).numpy(), 12.0, True) for i in range(len(masked)))


def test_strong_structure_that_is_ignored_takes_no_places(image):
    usable = torch.zeros(150, 300, dtype=torch.bool)
    usable[:, 160:] = True
    detector = Detector(baked_network(), replace(CONFIG, max_keypoints=12))
    free, masked = detector.detect(image), detector.detect(image, usable, 4.0)
    assert (free.xy[:, 0] < 150).all()
    assert len(masked) == len(free) == 12
    assert masked.xy[:, 0].min() > 160


def test_everything_ignored_gives_none(image):
    usable = torch.zeros(150, 300, dtype=torch.bool)
    assert len(Detector(baked_network(), CONFIG).detect(image, usable, 8.0)) == 0


def disc_mask():
    return torch.from_numpy(cv2.circle(np.ones(SIZE, np.uint8), (70, 40), 18, 0, -1) > 0)


def test_ignored_pixels_are_filled_by_what_is_around_whatever_they_hold():
    image, mask = torch.from_numpy(textured_image(*SIZE)).float() / 255, disc_mask()
    filled = fill_ignored(image, mask)
    assert torch.equal(filled[mask], image[mask])
    other = torch.where(mask, image, torch.rand(SIZE))
    assert torch.equal(fill_ignored(other, mask), filled)
    inside = filled[~mask]
    assert inside.std() < image.std() / 2  # means, no texture
    ring = image[
        mask & ~torch.from_numpy(cv2.erode(mask.numpy().astype(np.uint8), np.ones((9, 9))) > 0)
    ]
    assert abs(float(inside.mean() - ring.mean())) < 0.05


def test_filling_turns_with_the_image_and_leaves_flat_ones_flat():
    image, mask = torch.from_numpy(textured_image(*SIZE)).float() / 255, disc_mask()
    turned = fill_ignored(image.rot90(), mask.rot90())
    torch.testing.assert_close(turned, fill_ignored(image, mask).rot90(), atol=1e-6, rtol=0)
    flat = torch.full(SIZE, 0.3)
    torch.testing.assert_close(fill_ignored(flat, mask), flat, atol=1e-6, rtol=0)
    assert torch.equal(fill_ignored(image, torch.ones_like(mask)), image)
    assert torch.equal(fill_ignored(image, torch.zeros_like(mask)), image)
