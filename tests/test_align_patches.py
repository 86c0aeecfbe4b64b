"""Least-squares matching on images that are known between their pixels: sums of waves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import rekd_hloc
from rekd_hloc.images import write_image
from rekd_hloc.refinement.align_patches import Alignment, align_patches, similarity_of
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Keypoints, Matches

SIZE = (180, 150)


class Waves:
    """A smooth texture in the plane, whose value at any point is exact."""

    def __init__(self, seed=0, num_waves=60, shortest_px=7.0):
        rng = np.random.default_rng(seed)
        length = shortest_px * 2 ** rng.uniform(0, 3, num_waves)
        angle = rng.uniform(0, 2 * np.pi, num_waves)
        self.k = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])
        self.phase = rng.uniform(0, 2 * np.pi, num_waves)

    def image(self, plane_from_image=None, size=SIZE):
        """Return the grey values of an image whose pixels lie at 2 x 3 affine places."""
        matrix = np.eye(2, 3) if plane_from_image is None else np.asarray(plane_from_image)
        x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        places = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T
        values = np.cos(places @ self.k + self.phase).sum(axis=-1)
        return torch.from_numpy((0.5 + 0.02 * values).astype(np.float32))


def make_keypoints(xy, scale=1.0, angle=0.0):
    xy = torch.as_tensor(xy, dtype=torch.float32)
    every = torch.ones(len(xy))
    return Keypoints(xy, every * scale, torch.remainder(every * angle, 2 * math.pi), every)


def grid_points(margin=40, step=14):
    x, y = np.meshgrid(range(margin, SIZE[0] - margin, step), range(margin, SIZE[1] - margin, step))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(float)


def similarity(scale, angle, center):
    """Return the 2 x 3 map that rotates and scales the plane about a point."""
    linear = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return np.c_[linear, np.asarray(center) - linear @ np.asarray(center)]


def apply(matrix, xy):
    return xy @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix):
    linear = np.linalg.inv(matrix[:, :2])
    return np.c_[linear, -linear @ matrix[:, 2]]


def align(image_a, image_b, a, b, affine=None) -> Alignment:
    return align_patches(ImagePyramid.of(image_a), ImagePyramid.of(image_b), a, b, affine)


def errors(found, b, true):
    return np.linalg.norm((b.xy + found.shift).numpy() - true, axis=1)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.37, -0.81), (-1.5, 1.2), (2.4, 0.1)])
def test_known_shift_is_found(shift):
    waves, points = Waves(), grid_points()
    moved = np.c_[np.eye(2), -np.array(shift)]
    b = make_keypoints(points)
    found = align(waves.image(), waves.image(moved), make_keypoints(points), b)
    assert found.is_refined.float().mean() > 0.95
    done = found.is_refined.numpy()
    assert errors(found, b, points + shift)[done].max() < 0.02


@pytest.mark.parametrize(
    ("scale", "angle"), [(1.0, 0.5), (1.0, -2.2), (1.6, 0.3), (0.7, 1.9), (2.0, 3.1)]
)
def test_rotated_and_scaled_image_has_the_points_at_the_rotated_places(scale, angle):
    waves, points = Waves(1, shortest_px=12.0), grid_points(step=20)
    b_from_a = similarity(scale, angle, (90, 75))
    true = apply(b_from_a, points)
    size = (360, 300) if scale > 1 else SIZE
    shifted = similarity(scale, angle, (90, 75)) + ([0, 0, 60], [0, 0, 60]) if scale > 1 else None
    if shifted is not None:
        b_from_a = np.asarray(shifted)
        true = apply(b_from_a, points)
    wrong = np.random.default_rng(0).uniform(-0.8, 0.8, true.shape) * scale
    b = make_keypoints(true + wrong, scale * 1.1, angle + 0.12)
    found = align(waves.image(), waves.image(invert(b_from_a), size), make_keypoints(points), b)
    done = found.is_refined.numpy()
    assert done.mean() > 0.8
    assert errors(found, b, true)[done].max() < 0.03 * max(scale, 1)
    affine = found.affine[found.is_refined].numpy()
    assert np.abs(affine - b_from_a[:, :2]).max() < 0.05 * scale


def test_quarter_turn_of_either_image_turns_the_result():
    waves, points = Waves(2), grid_points()
    b_from_a = np.c_[[[1.1, 0.15], [-0.1, 0.95]], [0.3, -9.0]]
    image_a, image_b = waves.image(), waves.image(invert(b_from_a))
    a, b = make_keypoints(points), make_keypoints(apply(b_from_a, points) + 0.4)
    expected = align(image_a, image_b, a, b)
    assert expected.is_refined.float().mean() > 0.9
    turned_a = align(torch.rot90(image_a, -1), image_b, turn(a), b)
    torch.testing.assert_close(turned_a.shift, expected.shift, atol=1e-4, rtol=0)
    turned_b = align(image_a, torch.rot90(image_b, -1), a, turn(b))
    x, y = expected.shift.unbind(dim=1)
    torch.testing.assert_close(turned_b.shift, torch.stack([-y, x], 1), atol=1e-4, rtol=0)
    assert torch.equal(turned_b.is_refined, expected.is_refined)


def turn(keypoints):
    """Rotate keypoints with their image by 90 degrees, clockwise on the screen."""
    x, y = keypoints.xy.unbind(dim=1)
    xy = torch.stack([SIZE[1] - 1 - y, x], dim=1)
    angle = torch.remainder(keypoints.angle + math.pi / 2, 2 * math.pi)
    return replace(keypoints, xy=xy, angle=angle)


def test_affine_map_is_found_from_a_similarity():
    waves, points = Waves(3), grid_points(step=24)
    b_from_a = np.c_[[[1.25, 0.2], [0.05, 0.85]], [-25.0, 3.0]]
    true = apply(b_from_a, points)
    b = make_keypoints(true + 0.5)
    found = align(waves.image(), waves.image(invert(b_from_a)), make_keypoints(points), b)
    done = found.is_refined.numpy()
    assert done.mean() > 0.8
    assert errors(found, b, true)[done].max() < 0.03
    assert np.abs(found.affine[found.is_refined].numpy() - b_from_a[:, :2]).max() < 0.03


def test_gain_and_offset_do_not_move_it():
    waves, points = Waves(), grid_points()
    image_b = waves.image(np.c_[np.eye(2), [-0.4, 0.3]])
    a = b = make_keypoints(points)
    plain = align(waves.image(), image_b, a, b)
    darker = align(waves.image(), 0.3 * image_b + 0.25, a, b)
    torch.testing.assert_close(darker.shift, plain.shift, atol=2e-3, rtol=0)
    torch.testing.assert_close(darker.zncc, plain.zncc, atol=1e-4, rtol=0)


def test_flat_patch_is_refused_and_stays():
    flat = torch.full(SIZE[::-1], 0.4) + 1e-3 * torch.rand(SIZE[::-1])
    b = make_keypoints(grid_points())
    assert_refused(align(flat, flat.roll(1, 0), b, b))


@pytest.mark.parametrize("period_px", [5.0, 6.5, 8.0])
def test_repeated_patch_is_refused_and_stays(period_px):
    y, x = torch.meshgrid(torch.arange(150.0), torch.arange(180.0), indexing="ij")
    pattern = 0.5 + 0.2 * torch.cos(2 * math.pi * x / period_px)
    pattern = pattern + 0.2 * torch.cos(2 * math.pi * y / period_px)
    b = make_keypoints(grid_points())
    assert_refused(align(pattern, pattern, b, replace(b, xy=b.xy + 0.45 * period_px)))


def test_edge_is_refused_because_nothing_holds_it_along_itself():
    y, x = torch.meshgrid(torch.arange(150.0), torch.arange(180.0), indexing="ij")
    edge = torch.sigmoid((x + 0.3 * y - 110) / 2)
    places = torch.linspace(40, 110, 8)
    b = make_keypoints(torch.stack([110 - 0.3 * places, places], dim=1))
    assert_refused(align(edge, edge, b, replace(b, xy=b.xy + 0.6)))


def test_patch_at_the_border_of_either_image_is_refused():
    image = Waves().image()
    inside, outside = make_keypoints([[60.0, 60.0]]), make_keypoints([[5.0, 60.0]])
    assert_refused(align(image, image, outside, outside))
    assert_refused(align(image, image, inside, outside))
    assert_refused(align(image, image, inside, make_keypoints([[-500.0, 1e6]])))


def assert_refused(found):
    assert not found.is_refined.any()
    assert not found.shift.any()
    assert found.covariance.isnan().all()


def test_another_texture_is_refused():
    points = grid_points()
    found = align(Waves(4).image(), Waves(5).image(), *[make_keypoints(points)] * 2)
    assert found.is_refined.float().mean() < 0.05


def test_accepted_alignments_do_not_worsen_noisy_matches():
    rng, waves, points = np.random.default_rng(0), Waves(6), grid_points(step=9)
    b_from_a = similarity(1.05, 0.2, (90, 75))
    true = apply(b_from_a, points)
    noise = [0.02 * torch.from_numpy(rng.normal(size=SIZE[::-1])).float() for _ in range(2)]
    b = make_keypoints(true + rng.normal(0, 0.8, true.shape), 1.15, 0.1)
    image_b = waves.image(invert(b_from_a)) + noise[1]
    found = align(waves.image() + noise[0], image_b, make_keypoints(points), b)
    done = found.is_refined.numpy()
    after = errors(found, b, true)[done]
    assert done.mean() > 0.8
    assert np.median(after) < 0.07
    assert (after < np.linalg.norm(b.xy.numpy() - true, axis=1)[done]).mean() > 0.97


def test_covariance_tells_the_size_of_the_errors():
    rng, waves, points = np.random.default_rng(1), Waves(7), grid_points(step=9)
    noise = [0.03 * torch.from_numpy(rng.normal(size=SIZE[::-1])).float() for _ in range(2)]
    a = b = make_keypoints(points)
    found = align(waves.image() + noise[0], waves.image() + noise[1], a, b)
    shift = found.shift[found.is_refined]
    inverse = torch.linalg.inv(found.covariance[found.is_refined])
    squares = (shift[:, None] @ inverse @ shift[:, :, None])[:, 0, 0] / 2
    assert 0.5 < float(squares.median()) / math.log(2) < 4


def test_empty_and_unequal():
    pyramid, none = ImagePyramid.of(Waves().image()), Keypoints.empty()
    found = align_patches(pyramid, pyramid, none, none)
    assert found.shift.shape == (0, 2)
    assert found.covariance.shape == (0, 2, 2)
    with pytest.raises(ValueError, match="equally many, got 0, 1 and 0"):
        align_patches(pyramid, pyramid, none, make_keypoints([[1.0, 1.0]]), torch.zeros(0, 2, 2))


def test_start_from_a_given_map():
    waves, points = Waves(8), grid_points(step=24)
    b_from_a = similarity(1.0, 1.5, (90, 75))
    a, b = make_keypoints(points), make_keypoints(apply(b_from_a, points))
    image_b = waves.image(invert(b_from_a))
    assert align(waves.image(), image_b, a, b).is_refined.float().mean() < 0.1  # angles are wrong
    start = torch.as_tensor(b_from_a[:, :2]).float().expand(len(points), 2, 2)
    found = align(waves.image(), image_b, a, b, start)
    assert found.is_refined.float().mean() > 0.9
    assert errors(found, b, apply(b_from_a, points))[found.is_refined.numpy()].max() < 0.02


def test_similarity_of_frames_maps_one_to_the_other():
    a, b = make_keypoints([[0.0, 0.0]], 2.0, 0.3), make_keypoints([[0.0, 0.0]], 3.0, 0.3 + 1.0)
    expected = torch.as_tensor(similarity(1.5, 1.0, (0, 0))[:, :2]).float()
    torch.testing.assert_close(similarity_of(a, b)[0], expected)


@pytest.mark.parametrize("size", [(64, 48), (65, 47), (9, 200), (7, 5), (1, 1)])
def test_pyramid_reads_pixels_of_every_level_at_their_places(size):
    """A ramp is itself at every level, and so says where a level is read."""
    y, x = torch.meshgrid(torch.arange(float(size[1])), torch.arange(float(size[0])), indexing="ij")
    pyramid = ImagePyramid.of(x + 1000 * y)
    center = torch.tensor([[(size[0] - 1) / 2, (size[1] - 1) / 2]]) + 0.25 * (min(size) > 4)
    for level in range(len(pyramid.pixel)):
        value = pyramid.read(center, torch.eye(2)[None], torch.tensor([level]), (1, 1))
        expected = center[0, 0] + 1000 * center[0, 1]
        torch.testing.assert_close(value.reshape(()), expected, rtol=0, atol=20.0)


def test_pyramid_of_a_huge_image_starts_smaller(monkeypatch):
    monkeypatch.setattr("rekd_hloc.refinement.pyramid.MAX_PIXELS", 5000)
    waves, points = Waves(1, shortest_px=14.0), grid_points()
    b = make_keypoints(points, 2.0)
    image_b = waves.image(np.c_[np.eye(2), [-0.8, 0.4]])
    found = align(waves.image(), image_b, b, b)
    assert ImagePyramid.of(image_b).atlas.numel() < 4 * 7000
    done = found.is_refined.numpy()
    assert done.mean() > 0.5
    assert errors(found, b, points + [0.8, -0.4])[done].max() < 0.1


class TestRefine:
    def test_files_and_arrays_give_the_same(self, tmp_path):
        waves, points = Waves(), grid_points()
        images = [waves.image(), waves.image(np.c_[np.eye(2), [-0.6, 0.2]])]
        images = [(255 * image).round() / 255 for image in images]
        for name, image in zip("ab", images, strict=True):
            write_image(tmp_path / f"{name}.png", (255 * image).round().byte().numpy())
        index = torch.arange(len(points) - 1).flip(0)
        matches = Matches(torch.stack([index, index], dim=1), torch.ones(len(index)))
        a = make_keypoints(points)
        refined = rekd_hloc.refine(*images, a, a, matches)
        of_files = rekd_hloc.refine(tmp_path / "a.png", str(tmp_path / "b.png"), a, a, matches)
        of_arrays = rekd_hloc.refine(*[image.numpy() for image in images], a, a, matches)
        of_pyramids = rekd_hloc.refine(*[ImagePyramid.of(image) for image in images], a, a, matches)
        for other in (of_files, of_arrays, of_pyramids):
            torch.testing.assert_close(other.xy_b, refined.xy_b)
        assert len(refined) == len(points) - 1
        assert torch.equal(refined.xy_a, a.xy[index])
        true = refined.xy_a + torch.tensor([0.6, -0.2])
        assert (refined.xy_b - true)[refined.is_refined].abs().max() < 0.02
        assert refined.is_refined.float().mean() > 0.9
        assert refined.covariance[refined.is_refined].isfinite().all()

    def test_image_of_another_shape_is_refused(self):
        none = Keypoints.empty()
        with pytest.raises(ValueError, match=r"\(height, width\), got \(3, 4, 5\)"):
            rekd_hloc.refine(torch.zeros(3, 4, 5), torch.zeros(4, 5), none, none, Matches.empty())

    def test_no_match(self):
        image, none = torch.rand(50, 40), Keypoints.empty()
        assert len(rekd_hloc.refine(image, image, none, none, Matches.empty())) == 0
