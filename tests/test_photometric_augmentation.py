"""Tone curves, histograms, gradients and noise: what they change, and what they keep."""

import numpy as np
import pytest

from training.patch_augmentation import PatchAugmentation, augment_patches
from training.photometric_augmentation import (
    MAX_VEIL,
    add_gradients,
    add_sensor_noise,
    apply_tone_curves,
    transfer_histograms,
)


def make_values(count, supports=1, seed=0):
    shape = count, supports, 32, 32
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def ramps(count):
    ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    return np.tile(ramp, (count, 1, 1, 1))


def rng(seed=1):
    return np.random.default_rng(seed)


def test_a_tone_curve_rises_from_black_to_white():
    values = ramps(60)
    chosen = np.arange(60) < 40
    toned = apply_tone_curves(rng(), values, chosen, 0.7)
    assert np.array_equal(toned[~chosen], values[~chosen])
    flat = toned[chosen].reshape(40, -1)
    assert (np.diff(flat, axis=1) > 0).all()
    assert flat[:, 0] == pytest.approx(np.zeros(40))
    assert flat[:, -1] == pytest.approx(np.ones(40))
    assert np.abs(flat[:, 512] - 0.5).std() > 0.05  # curves differ
    assert np.abs(apply_tone_curves(rng(), values, chosen, 0.0) - values).max() < 1e-6


def test_a_histogram_moves_towards_that_of_another_patch():
    dark, bright = 0.3 * make_values(40, seed=2), 0.6 + 0.4 * make_values(40, seed=3)
    values = np.concatenate([dark, bright])
    chosen = np.arange(80) % 2 == 0
    moved = transfer_histograms(rng(), values, chosen)
    assert np.array_equal(moved[~chosen], values[~chosen])
    before, after = values.mean(axis=(1, 2, 3)), moved.mean(axis=(1, 2, 3))
    change = (after - before)[chosen]
    assert change[:20].max() > 0.3
    assert change[:20].min() > -0.1
    assert change[20:].min() < -0.3
    for patch in np.flatnonzero(chosen):
        order = np.argsort(values[patch].reshape(-1))
        assert (np.diff(moved[patch].reshape(-1)[order]) >= -1e-6).all()


def test_flat_patches_stay_finite():
    values = np.full((20, 1, 32, 32), 0.5, np.float32)
    values[10:] = 1.0
    moved = transfer_histograms(rng(), values, np.ones(20, bool))
    assert np.isfinite(moved).all()
    assert (moved >= 0).all()
    assert (moved <= 1).all()


def test_supports_of_a_patch_get_one_histogram_map():
    values = make_values(30, supports=2, seed=4)
    values[:, 1] = values[:, 0]
    moved = transfer_histograms(rng(), values, np.ones(30, bool))
    assert np.array_equal(moved[:, 0], moved[:, 1])
    toned = apply_tone_curves(rng(), values, np.ones(30, bool), 0.5)
    assert np.array_equal(toned[:, 0], toned[:, 1])


def test_gradients_are_smooth_and_as_strong_as_asked():
    values = np.full((300, 1, 32, 32), 0.2, np.float32)
    changed = add_gradients(rng(), values, np.ones(300, bool), 4.0, (1.0,)) / 0.2
    ratio = changed.max(axis=(1, 2, 3)) / changed.min(axis=(1, 2, 3))
    # from corner to corner the side is passed sqrt(2) times; a veil adds white to black
    veiled = changed.min(axis=(1, 2, 3)) >= 1
    assert 0.3 < veiled.mean() < 0.7
    assert 3 < ratio[~veiled].max() <= 4 ** np.sqrt(2)
    assert changed[veiled].max() <= 1 + MAX_VEIL * 0.8 / 0.2 + 1e-5
    steps = np.abs(np.diff(changed, axis=-1)).max(axis=(1, 2, 3))
    assert (steps < 0.2 * (1 + changed.max(axis=(1, 2, 3)))).all()


def test_gradients_of_two_supports_are_of_one_place():
    values = np.full((40, 2, 32, 32), 0.3, np.float32)
    changed = add_gradients(rng(), values, np.ones(40, bool), 2.0, (1.0, 2.0))
    inner = changed[:, 1, 8:24, 8:24]  # the second support shows twice the width
    small = changed[:, 0].reshape(40, 16, 2, 16, 2).mean(axis=(2, 4))
    assert inner == pytest.approx(small, abs=4e-3)  # the ramp of a veil has corners


def test_noise_grows_with_the_light():
    values = np.concatenate([np.full((300, 2, 32, 32), v, np.float32) for v in (0.25, 0.5)])
    noisy = add_sensor_noise(rng(), values, 0.04, 0.0, (1.0, 2.0))
    spread = noisy.std(axis=(2, 3))
    assert spread[:300, 0].max() == pytest.approx(0.04 * np.sqrt(0.25), rel=0.15)
    assert spread[300:, 0].max() == pytest.approx(0.04 * np.sqrt(0.5), rel=0.15)
    assert spread[:, 1].mean() == pytest.approx(spread[:, 0].mean() / 2, rel=0.05)
    assert add_sensor_noise(rng(), values, 0.0, 0.03, (1.0, 2.0))[:, 0].std(
        axis=(1, 2)
    ).max() == pytest.approx(0.03, rel=0.15)


def test_options_that_are_off_draw_nothing():
    patches = (make_values(20)[:, 0] * 255).astype(np.uint8)
    plain = augment_patches(rng(), patches, PatchAugmentation())
    others = {"max_gradient": 9.0, "tone_strength": 2.0}
    assert np.array_equal(plain, augment_patches(rng(), patches, PatchAugmentation(**others)))


def test_all_at_once_stays_in_range_and_depends_on_the_generator_alone():
    patches = (make_values(50, supports=2) * 255).astype(np.uint8)
    every = PatchAugmentation(
        gradient_share=0.5, shot_noise=0.05, read_noise=0.02, histogram_share=0.5, tone_share=0.5,
        shadow_share=0.3, occlusion_share=0.3,
    )  # fmt: skip
    first, again = (augment_patches(rng(), patches, every, supports=(1, 2)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == patches.shape
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert not np.array_equal(first, augment_patches(rng(2), patches, every, supports=(1, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gradient": 0.5}, "max_gradient must be at least 1"),
        ({"tone_share": 2.0}, "tone_share must be in"),
        ({"histogram_share": -1.0}, "histogram_share must be in"),
        ({"gradient_share": 1.5}, "gradient_share must be in"),
        ({"shot_noise": -0.1}, "shot_noise must not be negative"),
        ({"read_noise": float("nan")}, "read_noise must not be negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PatchAugmentation(**options)
