"""Scales that keypoints of other extractors get: from sigmas, or from the spacing of keypoints."""

import h5py
import numpy as np
import pytest
import torch

from rekd_hloc.sfm.keypoint_scales import (
    MOST_OF_SIDE,
    SIGMA_OF_LEVEL,
    SPACING_PX,
    read_frames,
    scale_from_spacing,
)
from rekd_hloc.sfm.refined_features import RefineOptions
from rekd_hloc.storage.features import FeatureStore
from tests.store_helpers import plain, write_group


def grid(step, count=20):
    line = torch.arange(count) * float(step)
    return torch.cartesian_prod(line, line)


@pytest.mark.parametrize("step", [8.0, 20.0, 40.0])
def test_the_scale_is_that_of_the_pixels_on_which_keypoints_were_found(step):
    assert scale_from_spacing(grid(step), (4000, 4000)) == pytest.approx(step / SPACING_PX)


def test_a_scale_is_at_least_that_of_the_image_itself():
    assert scale_from_spacing(grid(3.0), (4000, 4000)) == 1.0


def test_windows_do_not_swallow_the_image():
    """Few keypoints are far apart, which says nothing of their size."""
    assert scale_from_spacing(grid(300.0, 3), (840, 2000)) == pytest.approx(840 * MOST_OF_SIDE)
    assert scale_from_spacing(grid(300.0, 3), None) == pytest.approx(600 * MOST_OF_SIDE)


@pytest.mark.parametrize("xy", [torch.zeros(0, 2), torch.ones(1, 2), torch.ones(5, 2)])
def test_keypoints_at_one_place_have_no_spacing(xy):
    assert scale_from_spacing(xy, (640, 480)) == 1.0


def test_keypoints_at_one_place_count_once():
    doubled = torch.cat([grid(16.0), grid(16.0)])  # as SIFT's with two orientations
    assert scale_from_spacing(doubled, (4000, 4000)) == pytest.approx(2.0)


def test_many_keypoints_are_sampled():
    xy = 3200 * torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0))
    expected = 0.47 * np.sqrt(3200**2 / 20_000)  # median distance to the nearest, Poisson
    found = scale_from_spacing(xy, (3200, 3200)) * SPACING_PX
    assert found == pytest.approx(expected, rel=0.1)


def test_what_a_file_says_of_its_scales_counts(tmp_path):
    path = tmp_path / "f.h5"
    write_group(path, "a.jpg", **plain(scales=np.array([1.6, 3.2, 0.0])))
    with FeatureStore(path) as store:
        for scales, expected in (("auto", [1.0, 2.0]), ("sigma", [1.0, 2.0]), ("rekd", [1.6, 3.2])):
            frames = read_frames(store, "a.jpg", scales)
            assert frames.scale[:2].tolist() == pytest.approx(expected)
            assert frames.scale[2] > 0
    with h5py.File(path, "a") as file:
        file.attrs["config"] = '{"descriptor": {"patch_size_px": 96.0}}'
    with FeatureStore(path) as store:
        assert read_frames(store, "a.jpg").scale[:2].tolist() == pytest.approx([1.6, 3.2])
        sigma = read_frames(store, "a.jpg", "sigma").scale
        assert sigma[1] == pytest.approx(3.2 / SIGMA_OF_LEVEL)
    with pytest.raises(ValueError, match="scales must be one of auto, rekd, sigma, got 'px'"):
        RefineOptions(scales="px")
