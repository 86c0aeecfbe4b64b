import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.features.detector.normalise import _box_mean, _box_mean_by_opencv, normalise_contrast


def mirror(index, size):
    """The pixel that an index beyond the edge means, one reflection at a time."""
    if size == 1:
        return 0
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def by_brute_force(image, window):
    height, width = image.shape
    radius = window // 2
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            rows = [mirror(y + d, height) for d in range(-radius, radius + 1)]
            columns = [mirror(x + d, width) for d in range(-radius, radius + 1)]
            box = image[np.ix_(rows, columns)]
            result[y, x] = (image[y, x] - box.mean()) / (1 + box.std())
    return result


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5, 9]), st.integers(0, 99))
def test_equals_the_definition_at_any_size(height, width, window, seed):
    image = np.random.default_rng(seed).uniform(0, 255, (height, width))
    got = normalise_contrast(torch.from_numpy(image)[None, None], window)
    np.testing.assert_allclose(got[0, 0].numpy(), by_brute_force(image, window), atol=1e-6)


@pytest.mark.parametrize("window", [1, 3, 65])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 7), (64, 65), (33, 150)])
def test_a_gpu_and_a_processor_have_the_same_boxes(size, window):
    values = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).double() * 255
    expected = _box_mean(values, window)
    torch.testing.assert_close(_box_mean_by_opencv(values, window), expected, rtol=1e-12, atol=1e-9)


def test_equals_torch_s_reflection_where_that_is_defined():
    image = torch.rand(2, 1, 40, 37, generator=torch.Generator().manual_seed(0)) * 255
    padded = torch.nn.functional.pad(image.double(), (32, 32, 32, 32), mode="reflect")
    boxes = padded.unfold(2, 65, 1).unfold(3, 65, 1).flatten(4)
    expected = (image - boxes.mean(-1)) / (1 + boxes.std(-1, correction=0))
    got = normalise_contrast(image, 65)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.37, 255.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 2000), (70, 70)])
def test_a_constant_image_gives_zeros(value, size):
    got = normalise_contrast(torch.full((1, 1, *size), value), 65)
    assert torch.isfinite(got).all()
    assert got.abs().max() < 1e-6


def test_commutes_with_a_quarter_turn():
    image = torch.rand(1, 1, 20, 31, generator=torch.Generator().manual_seed(1))
    turned = normalise_contrast(torch.rot90(image, 1, (2, 3)), 9)
    torch.testing.assert_close(turned, torch.rot90(normalise_contrast(image, 9), 1, (2, 3)))
