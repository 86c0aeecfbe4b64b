"""Patches: where their pixels are, which way they turn, what happens at borders and with scale."""

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.features.descriptor.patches import PATCH_PX, cut_patches
from rekd_hloc.geometry import rotation_about, warp_points
from rekd_hloc.types import Keypoints
from tests.helpers import random_keypoints, textured_image


def make_keypoints(xy, scale=1.0, angle=0.0):
    xy = torch.tensor(xy, dtype=torch.float32).reshape(-1, 2)
    ones = torch.ones(len(xy))
    return Keypoints(xy, ones * scale, ones * angle, ones)


def cut(image, keypoints, patch_size_px=64.0, oriented=True, antialias=True):
    return cut_patches(
        image, keypoints, patch_size_px=patch_size_px, oriented=oriented, antialias=antialias
    )


def correlation(a, b):
    a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-9)


def grey(height=200, width=260, seed=0):
    return torch.from_numpy(textured_image(height, width, seed)).float() / 255


def cell_centres(xy, side, angle):
    """Image positions of all 32x32 cells, from the definition."""
    offset = (np.arange(PATCH_PX) + 0.5) / PATCH_PX - 0.5
    u, v = np.meshgrid(offset * side, offset * side)
    x = xy[0] + np.cos(angle) * u - np.sin(angle) * v
    y = xy[1] + np.sin(angle) * u + np.cos(angle) * v
    return x, y


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("scale", "angle"), [(0.5, 0.3), (1.0, 2.0), (1.4142, 4.5), (2.0, 5.9)])
def test_positions_on_ramps_are_exact(scale, angle, antialias):
    rows, columns = torch.meshgrid(torch.arange(301.0), torch.arange(407.0), indexing="ij")
    point = (200.3, 151.6)
    keypoints = make_keypoints(point, scale, angle)
    x, y = cell_centres(point, 64 * scale, angle)
    for ramp, truth in ((columns, x), (rows, y)):
        patch = cut(ramp, keypoints, antialias=antialias)[0, 0].numpy()
        assert np.abs(patch - truth).max() < 0.02  # pixels, as the ramp rises by 1 a pixel


def test_unaliased_pixels_agree_with_opencv():
    image = grey()
    point, side, angle = (130.4, 99.7), 40.0, 0.7
    patch = cut(image, make_keypoints(point, 1.0, angle), patch_size_px=side, antialias=False)[0, 0]
    x, y = cell_centres(point, side, angle)
    read = cv2.remap(image.numpy(), x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    assert np.abs(patch.numpy() - read).max() < 0.02  # OpenCV has 1/32 px steps


def test_upright_patch_of_its_own_size_is_a_crop():
    image = grey()
    patch = cut(image, make_keypoints((99.5, 79.5), angle=1.0), patch_size_px=32.0, oriented=False)
    assert torch.allclose(patch[0, 0], image[64:96, 84:116], atol=1e-5)


def test_turning_matters_only_when_oriented():
    image = grey()
    straight, turned = make_keypoints((120, 100)), make_keypoints((120, 100), angle=0.5)
    assert torch.equal(cut(image, straight, oriented=False), cut(image, turned, oriented=False))
    assert (cut(image, straight) - cut(image, turned)).abs().mean() > 0.02


def test_quarter_turn_of_the_angle_turns_the_patch():
    image = grey()
    straight = cut(image, make_keypoints((120.0, 100.0)))[0, 0]
    turned = cut(image, make_keypoints((120.0, 100.0), angle=torch.pi / 2))[0, 0]
    # angle 90: the patch's x axis is the image's y axis (down)
    assert torch.allclose(turned, torch.rot90(straight, 1), atol=1e-4)
    assert (turned - torch.rot90(straight, -1)).abs().mean() > 0.02


@pytest.mark.parametrize("turn_deg", [40, 135, 250])
def test_patches_at_sift_points_agree_after_a_turn(turn_deg):
    image = textured_image(300, 300, seed=3)
    b_from_a = rotation_about(np.radians(turn_deg), (149.5, 149.5))
    turned = cv2.warpAffine(image, b_from_a[:2].numpy(), (300, 300), flags=cv2.INTER_CUBIC)
    sift = cv2.SIFT.create()
    a, b = (sorted(sift.detect(im, None), key=lambda p: -p.response) for im in (image, turned))
    a = [p for p in a if np.hypot(p.pt[0] - 150, p.pt[1] - 150) + 6 * p.size < 150 and p.size > 3]
    warped = warp_points(b_from_a, torch.tensor([p.pt for p in a]))
    points_b = torch.tensor([p.pt for p in b])
    size_b, angle_b = torch.tensor([(p.size, p.angle) for p in b]).T
    pairs = []
    for i, p in enumerate(a):
        distance = (points_b - warped[i]).norm(dim=1) + 9 * ((size_b / p.size).log().abs() > 0.1)
        error = (angle_b - p.angle - turn_deg + 180) % 360 - 180
        j = int((distance + 9 * (error.abs() > 10)).argmin())
        if distance[j] < 0.7 and abs(error[j]) <= 10:
            pairs.append((p, b[j]))
    assert len(pairs) >= 20

    def patches(im, points, oriented):
        xy = torch.tensor([p.pt for p in points])
        scale = torch.tensor([p.size for p in points])
        angle = torch.tensor([p.angle for p in points]).deg2rad()
        keypoints = Keypoints(xy, scale, angle, torch.ones(len(points)))
        return cut(torch.from_numpy(im).float() / 255, keypoints, 6.0, oriented)

    first, second = [p for p, _ in pairs], [q for _, q in pairs]
    agreement = correlation(patches(image, first, True), patches(turned, second, True))
    assert agreement.median() > 0.95
    upright = correlation(patches(image, first, False), patches(turned, second, False))
    assert upright.median() < 0.6


def test_scale_is_the_side():
    image = grey(400, 400)
    small = cut(image, make_keypoints((200, 200), 0.5))
    same = cut(image, make_keypoints((200, 200), 1.0), patch_size_px=32.0)
    assert torch.allclose(small, same)
    double = torch.nn.functional.interpolate(
        image[None, None], scale_factor=2.0, mode="bilinear", align_corners=False
    )[0, 0]
    at_double = cut(double, make_keypoints((400.5, 400.5), 2.0))
    assert correlation(at_double, cut(image, make_keypoints((200, 200), 1.0))) > 0.995


def test_antialiasing_removes_fine_texture():
    checks = ((torch.arange(512)[:, None] + torch.arange(512)) % 2).float()
    keypoints = make_keypoints((255.3, 256.1), 3.3, 0.4)
    assert cut(checks, keypoints, antialias=False).std() > 0.1
    assert cut(checks, keypoints, antialias=True).std() < 0.02


def test_pyramid_steps_are_one_to_two_pixels():
    """Rounding of the scale must not change the level: neighbours in scale have equal patches."""
    image = grey(300, 300)
    below, above = (make_keypoints((150, 150), s) for s in (1 - 1e-5, 1 + 1e-5))
    assert (cut(image, below) - cut(image, above)).abs().max() < 1e-3


def test_border_pixels_are_repeated():
    image = torch.zeros(50, 60)
    image[:, 0] = 1.0
    patch = cut(image, make_keypoints((0.0, 25.0)), patch_size_px=32.0)[0, 0]
    assert (patch[:, :15] == 1).all()
    assert patch[:, 17:].max() == 0
    inside = torch.full((50, 60), 0.37)
    corners = make_keypoints([(0, 0), (59, 49), (-30, 20)], 8.0, 0.3)
    assert torch.allclose(cut(inside, corners), torch.full((3, 1, 32, 32), 0.37), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 200), (33, 17)])
def test_images_of_any_size(size):
    patches = cut(torch.rand(size), make_keypoints([(0, 0), (size[1] - 1, 0)], 4.0, 1.0))
    assert patches.shape == (2, 1, 32, 32)
    assert torch.isfinite(patches).all()


def test_no_keypoint_gives_no_patch():
    assert cut(grey(), Keypoints.empty()).shape == (0, 1, 32, 32)


def test_each_patch_depends_on_its_own_keypoint_only():
    image, keypoints = grey(480, 640), random_keypoints(300)
    all_at_once = cut(image, keypoints)
    for i in (0, 7, 299):
        assert torch.equal(cut(image, keypoints[torch.tensor([i])])[0], all_at_once[i])


def test_inputs_are_kept():
    image, keypoints = grey(), random_keypoints(20, (260, 200))
    before = image.clone(), keypoints.xy.clone(), keypoints.angle.clone()
    cut(image, keypoints)
    for old, new in zip(before, (image, keypoints.xy, keypoints.angle), strict=True):
        assert torch.equal(old, new)


def test_support_must_be_positive():
    with pytest.raises(ValueError, match="patch_size_px must be positive, got 0"):
        cut(grey(), random_keypoints(2), patch_size_px=0.0)
