"""Shadows and occlusions on patches: where they fall, how often, and what they leave alone."""

import numpy as np
import pytest

from training.patch_augmentation import PatchAugmentation, augment_patches


def grey(count, value=128, seed=None):
    if seed is None:
        return np.full((count, 32, 32), value, np.uint8)
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32), np.uint8)


def augment(patches, seed=0, **options):
    rng = np.random.default_rng(seed)
    return augment_patches(rng, patches, PatchAugmentation(**{"max_gamma": 1.0, **options}))


def test_nothing_is_augmented_by_default_shares():
    patches = grey(20, seed=1)
    assert np.allclose(augment(patches), patches / 255, atol=1e-6)


def test_gamma_keeps_black_white_and_order():
    patches = np.tile(np.linspace(0, 255, 1024).astype(np.uint8).reshape(1, 32, 32), (50, 1, 1))
    augmented = augment(patches, max_gamma=2.0)
    assert np.allclose(augmented[:, 0, 0], 0)
    assert np.allclose(augmented[:, -1, -1], 1)
    assert (np.diff(augmented.reshape(50, -1), axis=1) >= 0).all()
    exponent = np.log(augmented[:, 16, 0]) / np.log(patches[0, 16, 0] / 255)
    assert 0.5 <= exponent.min() < 0.6
    assert 1.7 < exponent.max() <= 2.0


def test_a_shadow_darkens_one_side_of_a_straight_edge():
    augmented = augment(grey(400), shadow_share=0.5, min_shadow_factor=0.4)
    factor = augmented / (128 / 255)
    assert factor.max() == pytest.approx(1)
    assert factor.min() >= 0.4 - 1e-6
    is_shadowed = factor.min(axis=(1, 2)) < 0.99
    assert 0.35 < is_shadowed.mean() < 0.55  # a few edges only touch a corner
    for patch in factor[is_shadowed][:20]:
        dark = patch < patch.min() + 1e-4
        if dark.sum() < 20:
            continue
        # the dark part is convex: its pixels' mean is dark too
        ys, xs = np.nonzero(dark)
        assert dark[round(ys.mean()), round(xs.mean())]
        opposite = 31 - ys, 31 - xs
        assert patch[opposite].mean() > patch[dark].mean()


def test_an_occluder_is_another_place_and_spares_the_centre():
    patches = np.repeat(np.arange(100, 200, dtype=np.uint8), 1024).reshape(100, 32, 32)
    augmented = augment(patches, occlusion_share=0.6, min_occlusion_distance=0.25) * 255
    other = np.abs(augmented - patches) > 0.5
    assert 0.4 < other.any(axis=(1, 2)).mean() < 0.65
    rows, columns = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(rows, columns) < 0.25 * 32 - 2
    assert not other[:, inside].any()
    shown = augmented[other]
    assert shown.min() >= 100 - 0.01
    assert shown.max() <= 199.01


def test_draws_depend_on_the_generator_alone():
    patches = grey(30, seed=2)
    options = {"max_gamma": 1.25, "shadow_share": 0.5, "occlusion_share": 0.5}
    first, again = augment(patches, 3, **options), augment(patches, 3, **options)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, augment(patches, 4, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gamma": 0.9}, "max_gamma must be at least 1"),
        ({"shadow_share": 1.1}, "shadow_share must be in"),
        ({"occlusion_share": -0.1}, "occlusion_share must be in"),
        ({"min_occlusion_distance": 0.5}, "min_occlusion_distance must be in"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PatchAugmentation(**options)
