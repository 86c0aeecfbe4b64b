import sys

import cv2
import numpy as np
import pytest

import evaluation.oriented_ransac.oriented_estimators  # noqa: F401  (registers its estimators)
from evaluation.metrics.pose import direction_error_deg, pose_error_deg, rotation_error_deg
from evaluation.relative_pose.estimators import (
    ESTIMATORS,
    NEED_ANGLES,
    PACKAGES,
    RansacOptions,
    estimate_pose,
    require,
    versions,
)
from evaluation.relative_pose.two_view import pose_from_fundamental

K_A = np.array([[800, 0, 500], [0, 800, 300], [0, 0, 1.0]])
K_B = np.array([[900, 7, 480], [0, 850, 310], [0, 0, 1.0]])


def make_pair(seed=0, count=300, noise_px=0.2, outliers=0.5):
    """Points of a random scene in two rather different cameras, the true pose, and vectors.

    The vectors are those of features on surfaces that face camera a; wrong matches have any.
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform([-2, -2, 4], [2, 2, 8], (count, 3))
    rotation = cv2.Rodrigues(np.array([0.05, 0.2, 0.5]))[0]
    translation = np.array([-1.0, 0.1, 0.2])
    angle = rng.uniform(0, 2 * np.pi, count)
    ends = points + 0.01 * np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)
    images, vectors = [], []
    for move in (lambda x: x @ K_A.T, lambda x: (x @ rotation.T + translation) @ K_B.T):
        start, end = (seen[:, :2] / seen[:, 2:] for seen in (move(points), move(ends)))
        images.append(start + rng.normal(0, noise_px, (count, 2)))
        vectors.append(end - start)
    bad = rng.random(count) < outliers
    images[1][bad] = rng.uniform(0, 900, (bad.sum(), 2))
    vectors[1][bad] = rng.normal(size=(bad.sum(), 2))
    return images[0], images[1], (rotation, translation), ~bad, (vectors[0], vectors[1])


def need(estimator):
    if estimator in PACKAGES:
        pytest.importorskip(PACKAGES[estimator])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_finds_the_pose(estimator):
    need(estimator)
    xy_a, xy_b, true, good, vectors = make_pair()
    options = RansacOptions(estimator, 1.0)
    found = estimate_pose(xy_a, xy_b, K_A, K_B, options, 0, orientations=vectors)
    assert pose_error_deg(found.pose, true) < 2
    assert found.pose[1] @ true[1] > 0.9, "the sign is known by cheirality"
    assert np.linalg.norm(found.pose[1]) == pytest.approx(1, abs=1e-6)
    assert found.inliers.dtype == bool
    assert (found.inliers & good).sum() > 0.9 * good.sum()
    assert (found.inliers & ~good).sum() < 0.1 * good.sum()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_seeds_give_equal_poses(estimator):
    need(estimator)
    xy_a, xy_b, _, _, vectors = make_pair(noise_px=1.0, outliers=0.3)
    options = RansacOptions(estimator, 1.0)
    first, again, other = (
        estimate_pose(xy_a, xy_b, K_A, K_B, options, seed, orientations=vectors)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.pose[0], again.pose[0])
    np.testing.assert_array_equal(first.inliers, again.inliers)
    assert first.pose[0].shape == other.pose[0].shape


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_matches_fail(estimator, count):
    xy = np.random.default_rng(0).uniform(0, 500, (count, 2))
    found = estimate_pose(xy, xy + 1, K_A, K_B, RansacOptions(estimator), 0)
    assert found.pose is None
    assert found.inliers.shape == (count,)
    assert not found.inliers.any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_degenerate_points_do_not_raise(estimator):
    need(estimator)
    line = np.stack([np.linspace(0, 500, 30), np.full(30, 100.0)], axis=1)
    for xy in (line, np.full((30, 2), 7.0)):
        options = RansacOptions(estimator, max_iterations=500)
        found = estimate_pose(xy, xy, K_A, K_B, options, 0, orientations=(xy * 0 + 1, xy * 0 + 1))
        assert found.inliers.shape == (30,)


@pytest.mark.parametrize("estimator", sorted(NEED_ANGLES))
def test_angles_are_asked_for_and_used(estimator):
    options = RansacOptions(estimator, 1.0, max_iterations=200)
    outliers = 0.6 if estimator == "fundamental-signed" else 0.85  # samples of 7, or of less
    num_right, num_wrong = 0, 0
    for seed in range(5):
        xy_a, xy_b, _, good, vectors = make_pair(seed, outliers=outliers)
        with pytest.raises(ValueError, match=f"{estimator} needs angles.*-points"):
            estimate_pose(xy_a, xy_b, K_A, K_B, options, seed)
        found = estimate_pose(xy_a, xy_b, K_A, K_B, options, seed, orientations=vectors)
        wild = vectors[0], np.random.default_rng(seed).normal(size=vectors[1].shape)
        misled = estimate_pose(xy_a, xy_b, K_A, K_B, options, seed, orientations=wild)
        num_right += (found.inliers & good).sum()
        num_wrong += (misled.inliers & good).sum()
    assert num_right > num_wrong + 10


def test_pose_of_an_exact_fundamental_matrix():
    xy_a, xy_b, (rotation, translation), *_ = make_pair(noise_px=0, outliers=0)
    cross = np.cross(np.eye(3), translation)
    np.testing.assert_allclose(cross @ [1, 2, 3], np.cross(translation, [1, 2, 3]))
    fundamental = np.linalg.inv(K_B).T @ cross @ rotation @ np.linalg.inv(K_A)
    homogeneous_a, homogeneous_b = (np.c_[xy, np.ones(len(xy))] for xy in (xy_a, xy_b))
    residual = np.einsum("ni,ij,nj->n", homogeneous_b, fundamental, homogeneous_a)
    assert np.abs(residual).max() < 1e-9, "x_b^T F x_a = 0"
    pose = pose_from_fundamental(fundamental, xy_a, xy_b, K_A, K_B)
    assert rotation_error_deg(pose[0], rotation) < 1e-5
    assert direction_error_deg(pose[1], translation) < 1e-5
    exchanged = pose_from_fundamental(fundamental, xy_a, xy_b, K_B, K_A)
    assert pose_error_deg(exchanged, (rotation, translation)) > 0.5, "K_a and K_b differ"
    assert pose_from_fundamental(fundamental, xy_a[:0], xy_b[:0], K_A, K_B) is None


def test_options_are_checked():
    for name, value, message in (
        ("estimator", "ransac", "no estimator 'ransac'; there are degensac, magsac"),
        ("threshold_px", 0.0, "threshold_px must be above 0, got 0.0"),
        ("confidence", 1.0, "confidence must be between 0 and 1, got 1.0"),
        ("max_iterations", 0, "max_iterations must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RansacOptions(**{name: value})
    xy = np.zeros((9, 2))
    with pytest.raises(ValueError, match="must match"):
        estimate_pose(xy, xy[1:], K_A, K_B, RansacOptions(), 0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        estimate_pose(xy, xy, K_A, K_B, RansacOptions(), -1)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydegensac", None)
    xy = np.random.default_rng(0).uniform(0, 500, (30, 2))
    with pytest.raises(ImportError, match="pip install pydegensac, or take --estimator magsac"):
        estimate_pose(xy, xy, K_A, K_B, RansacOptions("degensac"), 0)
    with pytest.raises(ImportError, match="pip install pydegensac"):
        require("degensac")
    require("magsac")


def test_versions_are_known():
    assert all(versions(estimator) for estimator in ESTIMATORS)
    assert versions("magsac") == {"opencv": cv2.__version__}
