"""Tests of oriented_constraints on scenes of planes with exact angles and scales."""

import numpy as np
import pytest
import torch
from helpers import random_features

from evaluation.oriented_ransac.oriented_constraints import (
    epipolar_rows,
    frame_rows,
    has_right_signs,
    homography_angle_rows,
    homography_rows,
    homography_vector_rows,
    oriented_residual,
    oriented_rows,
)
from evaluation.oriented_ransac.scenes import make_scene
from evaluation.relative_pose.correspondences import (
    Correspondences,
    correspondences_of,
    make_correspondences,
)
from rekd_hloc.types import Matches


def scene(scale_kind="along", seed=0, **options):
    return make_scene(np.random.default_rng(seed), 200, scale_kind=scale_kind, **options)


def unit_rows(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def mirrored(c):
    """Angles of image b with the wrong sign."""
    return Correspondences(c.xy_a, c.xy_b, c.orientation_a, c.orientation_b * [1, -1])


def on_rays(s):
    inverse = np.linalg.inv(s.K)
    return s.correspondences.moved(inverse, inverse)


def test_the_oriented_constraint_holds_for_the_true_f_and_for_no_wrong_angle_sign():
    s = scene()
    assert abs(oriented_residual(s.fundamental, s.correspondences)).max() < 1e-9
    assert np.median(abs(oriented_residual(s.fundamental, mirrored(s.correspondences)))) > 0.1


def test_rows_are_the_constraints_of_the_true_matrices():
    s = scene(seed=1)
    c = on_rays(s)
    for rows in (epipolar_rows(c), oriented_rows(c)):
        assert abs(unit_rows(rows) @ s.essential.reshape(9)).max() < 1e-12
    assert np.median(abs(unit_rows(oriented_rows(mirrored(c))) @ s.essential.reshape(9))) > 0.01


def test_frames_hold_where_the_surface_only_turns_and_scales():
    c = make_correspondences(*_similar_points())
    # the affine F of two images that differ by a similarity: lines along the motion of each point
    xy_a, xy_b = c.xy_a, c.xy_b
    rows = np.concatenate([epipolar_rows(c), oriented_rows(c), frame_rows(c)])
    homography = np.linalg.lstsq(np.c_[xy_a, np.ones(len(xy_a))], xy_b, rcond=None)[0]
    h = np.vstack([homography.T, [0, 0, 1]])
    epipole = np.array([[0, -1, 0.3], [1, 0, -0.2], [-0.3, 0.2, 0]])
    assert abs(unit_rows(rows) @ (epipole @ h).reshape(9)).max() < 1e-12


def test_area_scales_make_the_oriented_row_an_approximation_only():
    s = scene("area")
    residual = abs(oriented_residual(s.fundamental, s.correspondences))
    assert 1e-3 < np.median(residual) < 0.1


def test_angle_and_area_alone_give_no_equation_in_f():
    """For any F and any angles there is a first-order map that fulfils all; so nothing is said."""
    s = scene("area", seed=2)
    rng = np.random.default_rng(3)
    c = on_rays(s)[np.arange(20)]
    wrong = rng.normal(size=(3, 3))
    line_b = np.c_[c.xy_a, np.ones(20)] @ wrong.T[:, :2]
    line_a = np.c_[c.xy_b, np.ones(20)] @ wrong[:, :2]
    for m in range(20):
        along_a = c.orientation_a[m] / np.linalg.norm(c.orientation_a[m])
        along_b = c.orientation_b[m] / np.linalg.norm(c.orientation_b[m])
        side_a, side_b = (np.array([-d[1], d[0]]) for d in (along_a, along_b))
        area = (c.orientation_b[m] @ c.orientation_b[m]) / (c.orientation_a[m] @ c.orientation_a[m])
        stretch = -(line_a[m] @ along_a) / (line_b[m] @ along_b)
        shear = -(line_a[m] @ side_a + area / stretch * (line_b[m] @ side_b)) / (
            line_b[m] @ along_b
        )
        found = np.outer(stretch * along_b, along_a)
        found += np.outer(shear * along_b + area / stretch * side_b, side_a)
        assert np.allclose(found.T @ line_b[m] + line_a[m], 0, atol=1e-8 * abs(found).max())
        assert np.linalg.det(found) == pytest.approx(area)


@pytest.mark.parametrize("scale_kind", ["along", "area"])
def test_signs_hold_for_either_sign_of_f_whatever_the_scales(scale_kind):
    s = scene(scale_kind)
    both = np.stack([s.fundamental, -s.fundamental])
    assert has_right_signs(both, s.correspondences).all()
    rotated = Correspondences(
        s.correspondences.xy_a, s.correspondences.xy_b,
        s.correspondences.orientation_a, -s.correspondences.orientation_b,
    )  # fmt: skip
    assert not has_right_signs(both, rotated).any()
    assert 0.1 < has_right_signs(both, rotated, tolerance_deg=30).mean() < 0.9
    assert not has_right_signs(both, mirrored(s.correspondences)).all()


@pytest.mark.parametrize("scale_kind", ["along", "area"])
def test_homography_rows_hold_for_the_true_plane(scale_kind):
    s = scene(scale_kind, is_planar=True)
    h = np.linalg.inv(s.K) @ s.homography @ s.K
    flat = h.reshape(9) / np.linalg.norm(h)
    c = on_rays(s)
    assert abs(unit_rows(homography_rows(c)) @ flat).max() < 1e-12
    assert abs(unit_rows(homography_angle_rows(c)) @ flat).max() < 1e-12
    assert np.median(abs(unit_rows(homography_angle_rows(mirrored(c))) @ flat)) > 0.1
    worst = abs(unit_rows(homography_vector_rows(c)) @ flat).max()
    assert worst < 1e-12 if scale_kind == "along" else worst > 1e-3


def test_matched_keypoints_become_correspondences():
    a, b = random_features(30, seed=1), random_features(20, seed=2)
    matches = Matches(torch.tensor([[3, 5], [7, 0]]), torch.tensor([0.5, 0.6]))
    c = correspondences_of(a, b, matches)
    assert np.allclose(c.xy_a, a.keypoints.xy[[3, 7]].numpy())
    assert np.allclose(np.hypot(*c.orientation_b.T), b.keypoints.scale[[5, 0]].numpy())
    angle = np.arctan2(c.orientation_a[:, 1], c.orientation_a[:, 0]) % (2 * np.pi)
    assert np.allclose(angle, a.keypoints.angle[[3, 7]].numpy(), atol=1e-6)
    assert len(correspondences_of(a, b, Matches.empty())) == 0


def test_wrong_input_is_named():
    xy, angle = np.zeros((3, 2)), np.zeros(3)
    with pytest.raises(ValueError, match="as many angles"):
        make_correspondences(xy, xy, angle, angle[:2])
    with pytest.raises(ValueError, match="scale_b must be positive"):
        make_correspondences(xy, xy, angle, angle, np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        make_correspondences(xy * np.nan, xy, angle, angle)
    with pytest.raises(ValueError, match="share a shape"):
        Correspondences(xy, xy[:2], xy, xy)


def _similar_points():
    rng = np.random.default_rng(0)
    xy, angle, scale = rng.normal(size=(10, 2)), rng.uniform(0, 6, 10), rng.uniform(1, 4, 10)
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    return xy, xy @ turn.T + [0.5, -0.2], angle, angle + 0.4, scale, 1.7 * scale
