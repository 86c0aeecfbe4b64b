"""Tests of point_solvers and oriented_solvers: they find the exact model."""

import numpy as np
import pytest

from evaluation.oriented_ransac import oriented_solvers, point_solvers
from evaluation.oriented_ransac.scenes import make_scene
from evaluation.relative_pose.correspondences import Correspondences

NUM_SAMPLES = 60
FRAME = np.array([[1 / 300, 0, -500 / 300], [0, 1 / 300, -500 / 300], [0, 0, 1]])
"""Centres the pixels of the scenes and gives them a spread of about 1."""

HOMOGRAPHY = [
    (point_solvers.homography_from_points, 4, "area"),
    (oriented_solvers.homography_from_oriented, 2, "area"),
    (oriented_solvers.homography_from_vectors, 2, "along"),
    (oriented_solvers.homography_from_angles, 3, "area"),
]
FUNDAMENTAL = [
    (point_solvers.fundamental_from_points, 7, "area"),
    (oriented_solvers.fundamental_from_oriented, 4, "along"),
]
ESSENTIAL = [
    (point_solvers.essential_from_points, 5, "area"),
    (oriented_solvers.essential_from_oriented, 3, "along"),
]


def batch(scenes, frame_of):
    """The first correspondences of every scene, in the frame that it asks for."""
    moved = [s.correspondences.moved(frame_of(s), frame_of(s)) for s in scenes]
    names = ("xy_a", "xy_b", "orientation_a", "orientation_b")
    return Correspondences(*(np.stack([getattr(c, name) for c in moved]) for name in names))


def scenes_of(size, scale_kind, is_planar=False):
    rng = np.random.default_rng(7)
    return [
        make_scene(rng, size, scale_kind=scale_kind, is_planar=is_planar)
        for _ in range(NUM_SAMPLES)
    ]


def errors(solutions, truth):
    """Smallest difference of any model of each sample from its true one, up to length and sign."""
    true = np.stack([m / np.linalg.norm(m) for m in truth])[solutions.sample]
    difference = np.minimum(
        abs(solutions.models - true).max((1, 2)), abs(solutions.models + true).max((1, 2))
    )
    best = np.full(len(truth), np.inf)
    np.minimum.at(best, solutions.sample, difference)
    return best


@pytest.mark.parametrize(("solve", "size", "scale_kind"), HOMOGRAPHY)
def test_homographies_are_recovered(solve, size, scale_kind):
    scenes = scenes_of(size, scale_kind, is_planar=True)
    found = solve(batch(scenes, lambda s: FRAME))
    truth = [FRAME @ s.homography @ np.linalg.inv(FRAME) for s in scenes]
    assert errors(found, truth).max() < 1e-7


@pytest.mark.parametrize(("solve", "size", "scale_kind"), FUNDAMENTAL)
def test_fundamental_matrices_are_recovered(solve, size, scale_kind):
    scenes = scenes_of(size, scale_kind)
    found = solve(batch(scenes, lambda s: FRAME))
    back = np.linalg.inv(FRAME)
    found_errors = errors(found, [back.T @ s.fundamental @ back for s in scenes])
    assert np.median(found_errors) < 1e-10
    assert found_errors.max() < 1e-5
    assert abs(np.linalg.det(found.models)).max() < 1e-9


@pytest.mark.parametrize(("solve", "size", "scale_kind"), ESSENTIAL)
def test_essential_matrices_are_recovered(solve, size, scale_kind):
    scenes = scenes_of(size, scale_kind)
    found = solve(batch(scenes, lambda s: np.linalg.inv(s.K)))
    found_errors = errors(found, [s.essential for s in scenes])
    assert np.median(found_errors) < 1e-11
    assert found_errors.max() < 1e-6
    values = np.linalg.svd(found.models, compute_uv=False)
    assert np.allclose(values, [0.5**0.5, 0.5**0.5, 0], atol=1e-5)


def test_frames_recover_the_model_of_surfaces_seen_from_the_front():
    """Planes parallel to the images, and cameras that shift without turning, only scale."""
    rng = np.random.default_rng(0)
    xy_a = rng.uniform(-0.6, 0.6, (NUM_SAMPLES, 3, 2))
    depth = rng.uniform(2, 6, (NUM_SAMPLES, 3, 1))
    shift = rng.normal(size=(NUM_SAMPLES, 3))
    moved = np.concatenate([xy_a * depth, depth], axis=2) + shift[:, None]
    xy_b = moved[..., :2] / moved[..., 2:]
    orientation_a = rng.normal(size=xy_a.shape)
    c = Correspondences(xy_a, xy_b, orientation_a, orientation_a * depth / moved[..., 2:])
    x, y, z = shift.T
    o = np.zeros(NUM_SAMPLES)
    truth = list(np.moveaxis(np.array([[o, -z, y], [z, o, -x], [-y, x, o]]), -1, 0))
    pair = Correspondences(
        c.xy_a[:, :2], c.xy_b[:, :2], c.orientation_a[:, :2], c.orientation_b[:, :2]
    )
    assert errors(oriented_solvers.essential_from_frames(pair), truth).max() < 1e-6
    assert np.median(errors(oriented_solvers.fundamental_from_frames(c), truth)) < 1e-9


def test_homographies_that_reverse_a_step_are_dropped():
    scenes = scenes_of(3, "area", is_planar=True)
    c = batch(scenes, lambda s: FRAME)
    reversed_c = Correspondences(c.xy_a, c.xy_b, c.orientation_a, -c.orientation_b)
    assert len(oriented_solvers.homography_from_angles(c).models) == NUM_SAMPLES
    assert len(oriented_solvers.homography_from_angles(reversed_c).models) == 0


def test_cubic_roots_are_those_of_numpy():
    rng = np.random.default_rng(1)
    coefficients = rng.normal(size=(300, 4))
    found = point_solvers.cubic_roots(coefficients)
    for row, roots in zip(coefficients, found, strict=True):
        true = np.roots(row[::-1])
        real = np.sort(true[abs(true.imag) < 1e-9].real)
        assert np.allclose(np.sort(roots[np.isfinite(roots)]), real, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("solve", "size"), [(s, n) for s, n, _ in HOMOGRAPHY + FUNDAMENTAL + ESSENTIAL]
)
def test_a_sample_of_one_repeated_match_does_no_harm(solve, size):
    scenes = scenes_of(size, "along", is_planar=True)
    c = batch(scenes, lambda s: FRAME)
    index = np.tile(np.arange(size), (NUM_SAMPLES, 1))
    index[0] = 0
    chosen = Correspondences(
        *(
            np.take_along_axis(p, index[..., None], 1)
            for p in (c.xy_a, c.xy_b, c.orientation_a, c.orientation_b)
        )
    )
    with np.errstate(all="ignore"):
        found = solve(chosen)
    assert np.isfinite(found.models).all()
    assert np.allclose(np.linalg.norm(found.models, axis=(1, 2)), 1)
    empty = c[np.zeros(0, int)]
    assert solve(empty).models.shape == (0, 3, 3)
