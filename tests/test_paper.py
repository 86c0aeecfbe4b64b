"""The protocol of the paper's published code; the authors' own maps are in test_convert.py."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.config import PAPER_DETECTOR, DetectorConfig
from rekd_hloc.features.detector.detect import Detector, make_detector
from rekd_hloc.features.detector.orientation import angle_from_bin, find_peak
from rekd_hloc.features.detector.paper import PaperDetector, iterate_paper_levels, read_paper_angles
from tests.helpers import ROOT, baked_network, textured_image

# tests/golden/paper_pyramid.npz, made with scikit-image 0.26 (in its call, channels come first):
#   image = np.random.default_rng(0).uniform(size=(1, 23, 34))
#   levels = skimage.transform.pyramid_gaussian(image, max_layer=4, downscale=np.sqrt(2))
#   np.savez_compressed(path, **{f"level_{i}": x[0] for i, x in enumerate(levels)})
GOLDEN = ROOT / "tests" / "golden" / "paper_pyramid.npz"


def image_of(height, width):
    return torch.from_numpy(textured_image(height, width)).float() / 255


def levels_of(image, config=PAPER_DETECTOR):
    return dict(iterate_paper_levels(image[None, None], config))


def test_reduced_levels_are_scikit_image_s():
    golden = np.load(GOLDEN)
    levels = levels_of(torch.from_numpy(golden["level_0"]), replace(PAPER_DETECTOR, levels_down=4))
    assert list(levels) == [-2, -1, 0, 1, 2, 3, 4]
    for number in range(5):
        expected = golden[f"level_{number}"]
        assert levels[number].shape[2:] == expected.shape
        np.testing.assert_allclose(levels[number][0, 0].numpy(), expected, atol=1e-6)


def test_enlarged_levels_come_from_the_image_itself():
    image = image_of(33, 47)
    levels = levels_of(image)
    assert torch.equal(levels[0][0, 0], image)
    for number in (-2, -1):
        factor = 2 ** (-number / 2)
        expected = cv2.resize(image.numpy(), None, fx=factor, fy=factor)
        np.testing.assert_allclose(levels[number][0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (29, 40), (1, 2)])
def test_no_level_is_left_out_however_small(size):
    image = torch.rand(*size, generator=torch.Generator().manual_seed(0))
    levels = levels_of(image, replace(PAPER_DETECTOR, levels_up=0))
    assert list(levels) == [0, 1, 2, 3, 4, 5]
    assert all(torch.isfinite(level).all() for level in levels.values())


CONFIG = replace(PAPER_DETECTOR, levels_up=1, levels_down=1, max_keypoints=50, border_px=5)


def test_a_configuration_chooses_the_detector():
    network = baked_network()
    assert isinstance(make_detector(network, PAPER_DETECTOR), PaperDetector)
    assert type(make_detector(network, DetectorConfig())) is Detector


def test_positions_are_whole_pixels_of_a_level_times_its_scale():
    keypoints = PaperDetector(baked_network(), CONFIG).detect(image_of(60, 80))
    assert len(keypoints) > 20
    on_level = keypoints.xy / keypoints.scale[:, None]
    assert (on_level - on_level.round()).abs().max() < 1e-4
    assert len(keypoints.scale.unique()) == 3


def test_angles_are_read_at_the_rounded_pixel_halves_to_even():
    best = torch.nn.functional.one_hot(torch.arange(20) % 8).T.float()  # bin k in columns k, k + 8
    xy = torch.tensor([[3.4, 0.0], [3.6, 0.0], [5.5, 0.0], [6.5, 0.0]], dtype=torch.float64) + 1
    angle = read_paper_angles([best[None, :, None]], xy, (20, 1))
    expected = angle_from_bin(torch.tensor([3.0, 4.0, 6.0, 6.0]), 8)
    torch.testing.assert_close(angle, expected)


def test_angles_are_best_bins_of_the_image_s_own_size_one_pixel_off():
    image = image_of(60, 80)
    network = baked_network()
    keypoints = PaperDetector(network, CONFIG).detect(image)
    grey = (image * 255).round()
    _, logits = network((grey / grey.max())[None, None])
    x, y = (keypoints.xy.double() - 1).round().long().T
    histogram = logits[0][:, y, x].T
    expected = angle_from_bin(find_peak(histogram, sub_bin=False), histogram.shape[1])
    agree = (keypoints.angle - expected).abs() < 1e-4
    assert agree.float().mean() > 0.95  # logits are summed in another order


def test_greys_are_divided_by_the_largest():
    image = image_of(60, 80)
    steps = (image * 100).round() / 255  # whole greys, the largest of them 100
    detector = PaperDetector(baked_network(), CONFIG)
    dark, bright = detector.detect(steps), detector.detect(image_of(60, 80) * 0)
    assert len(dark) > 20
    assert len(bright) == 0
    full = detector.detect((steps * 255 / 100 * 255).round() / 255)
    assert len(full) == len(dark)
