"""Tests of sample_consensus: it finds models among wrong matches, the same each time."""

import numpy as np
import pytest

from evaluation.oriented_ransac.consensus_loop import ConsensusOptions, samples_needed
from evaluation.oriented_ransac.sample_consensus import estimate_model
from evaluation.oriented_ransac.samplers import SAMPLERS, Sampler, draw_samples
from evaluation.oriented_ransac.scenes import EXACT, Noise, make_scene
from evaluation.oriented_ransac.two_view_models import (
    common_frame,
    epipolar_model,
    homography_model,
    refine,
)

EVERY = [(kind, name) for kind, samplers in SAMPLERS.items() for name in samplers]
TRUTH = {
    "homography": lambda scene: scene.homography,
    "fundamental": lambda scene: scene.fundamental,
    "essential": lambda scene: scene.essential,
}
OPTIONS = ConsensusOptions(threshold_px=2.0, max_samples=6000)


def estimate(kind, scene, sampling, options=OPTIONS, seed=0):
    rng = np.random.default_rng(seed)
    K = (scene.K, scene.K)
    return estimate_model(
        kind, scene.correspondences, rng, intrinsics=K, sampling=sampling, options=options
    )


def scene_of(kind, share, num_matches=300, seed=0, noise=None):
    rng = np.random.default_rng(seed)
    noise = noise or Noise()
    return make_scene(rng, num_matches, share, noise=noise, is_planar=kind == "homography")


@pytest.mark.parametrize(("kind", "sampling"), EVERY)
def test_the_model_is_found_among_many_wrong_matches(kind, sampling):
    # seven points are all right in one of 4,600 samples at 30 %, too rare for a quick test
    share = 0.5 if kind == "fundamental" and sampling in ("points", "signed") else 0.3
    scene = scene_of(kind, share)
    found = estimate(kind, scene, sampling)
    assert found.inliers[scene.is_inlier].mean() > 0.9
    assert found.inliers[~scene.is_inlier].mean() < 0.1
    assert np.linalg.norm(found.model) == pytest.approx(1)
    assert found.history[-1].model is found.model


@pytest.mark.parametrize("sampling", ["oriented", "points"])
def test_models_are_in_pixels_and_right(sampling):
    for kind, truth_of in TRUTH.items():
        scene = scene_of(kind, 1.0, noise=EXACT)
        truth = truth_of(scene) / np.linalg.norm(truth_of(scene))
        found = estimate(kind, scene, sampling).model
        assert min(abs(found - truth).max(), abs(found + truth).max()) < 1e-6


@pytest.mark.parametrize("kind", list(SAMPLERS))
def test_equal_seeds_give_equal_results_and_inputs_stay(kind):
    scene = scene_of(kind, 0.5)
    before = scene.correspondences.xy_a.copy()
    first, second = (estimate(kind, scene, "oriented", seed=5) for _ in range(2))
    assert np.array_equal(first.model, second.model)
    assert first.num_samples == second.num_samples
    assert np.array_equal(first.inliers, second.inliers)
    assert np.array_equal(scene.correspondences.xy_a, before)


@pytest.mark.parametrize(("kind", "sampling"), EVERY)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_matches_give_no_model_or_a_finite_one(kind, sampling, count):
    found = estimate(kind, scene_of(kind, 1.0, count), sampling)
    assert found.inliers.shape == (count,)
    if count < 4:
        assert found.model is None
        assert found.num_samples == 0
    elif found.model is not None:
        assert np.isfinite(found.model).all()


def test_limits_end_the_sampling():
    scene = scene_of("fundamental", 0.1)
    options = ConsensusOptions(threshold_px=2.0, max_samples=100)
    assert estimate("fundamental", scene, "points", options).num_samples == 100
    options = ConsensusOptions(threshold_px=2.0, max_seconds=0.02, max_samples=10**8)
    assert estimate("fundamental", scene, "points", options).num_samples < 10**6
    clean = scene_of("essential", 1.0)
    assert estimate("essential", clean, "points").num_samples <= 16
    fixed = ConsensusOptions(threshold_px=2.0, max_samples=700, is_adaptive=False)
    assert estimate("essential", clean, "oriented", fixed).num_samples == 700


def test_samples_needed_follow_the_share_of_inliers():
    inliers = np.arange(10) < 5
    options = ConsensusOptions(confidence=0.99)
    plain = Sampler(2, lambda c: None)
    assert samples_needed(inliers, plain, options) == 17  # log(0.01) / log(1 - 0.25) = 16.01
    assert samples_needed(inliers, Sampler(2, lambda c: None, efficiency=0.5), options) == 35
    assert samples_needed(inliers & False, plain, options) == options.max_samples
    assert samples_needed(inliers | True, plain, options) == 1


def test_samples_hold_no_match_twice_and_reach_all():
    samples = draw_samples(np.random.default_rng(0), 8, 7, 500)
    assert all(len(set(row)) == 7 for row in samples.tolist())
    assert set(samples.reshape(-1).tolist()) == set(range(8))


def test_refinement_reaches_the_truth_from_nearby():
    rng = np.random.default_rng(0)
    for kind in SAMPLERS:
        scene = scene_of(kind, 1.0, noise=EXACT)
        frame_a, frame_b = common_frame(scene.correspondences)
        inside = scene.correspondences.moved(frame_a, frame_b)
        inverse = np.linalg.inv(scene.K)
        if kind == "homography":
            model, problem = scene.homography, homography_model(inside)
            start = frame_b @ model @ np.linalg.inv(frame_a)
        elif kind == "fundamental":
            problem = epipolar_model(inside)
            start = np.linalg.inv(frame_b).T @ scene.fundamental @ np.linalg.inv(frame_a)
        else:
            rays = (inverse @ np.linalg.inv(frame_a), inverse @ np.linalg.inv(frame_b))
            problem, start = epipolar_model(inside, *rays), scene.essential
        start = start / np.linalg.norm(start)
        assert problem.squared_errors(start[None])[0][scene.is_inlier].max() < 1e-16
        near = start + 1e-3 * rng.normal(size=(3, 3))
        refined, inliers = refine(problem, near, (2 * frame_a[0, 0]) ** 2)
        assert problem.squared_errors(refined[None])[0][scene.is_inlier].max() < 1e-12
        assert inliers[scene.is_inlier].all()


def test_wrong_options_are_named():
    scene = scene_of("essential", 1.0, 20)
    with pytest.raises(ValueError, match="no sampling 'three'.*there are points"):
        estimate("essential", scene, "three")
    for values in ({"threshold_px": 0}, {"confidence": 1}, {"max_samples": 0}, {"max_seconds": 0}):
        with pytest.raises(ValueError, match=next(iter(values))):
            ConsensusOptions(**values)
    with pytest.raises(ValueError, match="inlier_share"):
        make_scene(np.random.default_rng(0), 10, 1.5)


def test_an_essential_matrix_needs_the_intrinsics():
    scene = scene_of("essential", 0.5)
    with pytest.raises(ValueError, match="needs the intrinsics"):
        estimate_model("essential", scene.correspondences, np.random.default_rng(0))
