"""Smoothing by OpenCV is torch's convolution, whatever the number of channels and the size."""

import pytest
import torch
import torch.nn.functional as F

from rekd_hloc.features.detector.smoothing import smooth

TAPS = torch.tensor([0.1, 0.3, 0.5, 0.3, 0.1, 0.02, 0.01])
TAPS = (TAPS + TAPS.flip(0)) / 2


@pytest.mark.parametrize("channels", [1, 2, 8, 36])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (40, 31)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_convolution_with_zeros_outside(channels, size, layout):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, channels, *size, generator=generator).contiguous(memory_format=layout)
    kernel = torch.outer(TAPS, TAPS).expand(channels, 1, -1, -1)
    expected = F.conv2d(maps, kernel, padding=len(TAPS) // 2, groups=channels)
    torch.testing.assert_close(smooth(maps, TAPS), expected, atol=1e-5, rtol=1e-5)


def test_gradients_pass():
    maps = torch.randn(1, 2, 9, 8, requires_grad=True)
    smooth(maps, TAPS).square().sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().min() > 0


def test_a_part_is_that_of_the_whole_to_the_bit():
    maps = torch.randn(1, 8, 60, 70, generator=torch.Generator().manual_seed(1))
    whole, part = smooth(maps, TAPS), smooth(maps[:, :, 10:50, 7:66], TAPS)
    assert torch.equal(part[:, :, 3:-3, 3:-3], whole[:, :, 13:47, 10:63])
