import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.matching import nearest
from rekd_hloc.matching.nearest import match_nearest
from tests.helpers import without_shape_checks

sizes = st.integers(0, 12)


def unit_rows(count, channels=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, channels, generator=generator), dim=1)


def exact_rows(count, seed, num_kinds=4):
    """Rows of +-1/4, 16 wide: unit length, and dot products without any rounding; many twins."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 2, (num_kinds, 16), generator=generator) * 0.5 - 0.25
    return kinds[torch.randint(num_kinds, (count,), generator=generator)]


def brute_force(a, b, ratio=1.0):
    """Mutual nearest neighbours by the definition, in Python's own loops."""
    if len(a) == 0 or len(b) == 0:
        return []
    similarity = (a.double() @ b.double().T).tolist()
    columns = list(zip(*similarity, strict=True))
    best_of_a = [row.index(max(row)) for row in similarity]
    pairs = []
    for j, column in enumerate(columns):
        chosen = [i for i, best in enumerate(best_of_a) if best == j and column[i] == max(column)]
        if chosen:
            pairs.append((chosen[0], j))

    def distance(value):
        return math.sqrt(max(2 - 2 * value, 1e-6))

    def passes(values, value):
        others = sorted(values, reverse=True)[1:]
        return not others or distance(value) < ratio * distance(others[0])

    return sorted(
        (i, j)
        for i, j in pairs
        if ratio == 1
        or (passes(similarity[i], similarity[i][j]) and passes(columns[j], similarity[i][j]))
    )


def as_pairs(matches):
    return [tuple(row) for row in matches.index.tolist()]


@given(sizes, sizes, st.integers(0, 999), st.sampled_from([1.0, 0.95, 0.8]), st.integers(1, 13))
def test_equals_brute_force_in_blocks_of_any_size(num_a, num_b, seed, ratio, block):
    for a, b in (
        (unit_rows(num_a, seed=seed), unit_rows(num_b, seed=seed + 1)),
        (exact_rows(num_a, seed), exact_rows(num_b, seed)),
    ):
        matches = match_nearest(a, b, ratio=ratio, block=block)
        assert as_pairs(matches) == brute_force(a, b, ratio)
        i, j = matches.index.T
        assert torch.allclose(matches.score, (a[i] * b[j]).sum(dim=1), atol=1e-6)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_the_other_way_round_gives_the_same_pairs(num_a, num_b, seed):
    a, b = unit_rows(num_a, seed=seed), unit_rows(num_b, seed=seed + 1)
    reversed_pairs = as_pairs(match_nearest(b, a, ratio=0.95))
    assert sorted((i, j) for j, i in reversed_pairs) == as_pairs(match_nearest(a, b, ratio=0.95))


def test_a_shuffled_copy_is_found_again():
    a = unit_rows(300, 128)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    matches = match_nearest(a, a[order], ratio=0.9, block=64)
    assert len(matches) == 300
    assert torch.equal(order[matches.index[:, 1]], torch.arange(300))
    assert torch.allclose(matches.score, torch.ones(300), atol=1e-6)
    assert float(matches.score.max()) <= 1


@pytest.mark.parametrize("ratio", [1.0, 0.8])
def test_none_and_one(ratio):
    one, many = unit_rows(1), unit_rows(5, seed=3)
    for a, b in ((one[:0], many), (many, one[:0]), (one[:0], one[:0])):
        matches = match_nearest(a, b, ratio=ratio)
        assert matches.index.shape == (0, 2)
        assert matches.index.dtype == torch.int64
    assert as_pairs(match_nearest(one, one, ratio=ratio)) == [(0, 0)]
    # without a second neighbour there is nothing to compare with; b has one and must pass
    twins = torch.cat([many[:1], many[:1]])
    assert as_pairs(match_nearest(one, twins)) == [(0, 0)]
    assert as_pairs(match_nearest(one, twins, ratio=0.99)) == []
    assert as_pairs(match_nearest(twins, one, ratio=0.99)) == []


def test_ratio_compares_euclidean_distances():
    def at(degrees):
        radians = torch.deg2rad(torch.tensor(degrees))
        return torch.stack([radians.cos(), radians.sin()], dim=1)

    a, b = at([0.0]), at([20.0, 50.0])
    expected = math.sin(math.radians(10)) / math.sin(math.radians(25))  # 0.411
    assert len(match_nearest(a, b, ratio=expected + 0.01)) == 1
    assert len(match_nearest(a, b, ratio=expected - 0.01)) == 0
    assert len(match_nearest(b, a, ratio=expected - 0.01)) == 0


def test_equal_similarities_go_to_the_lowest_index():
    row = exact_rows(1, 0)
    assert as_pairs(match_nearest(row.repeat(3, 1), row.repeat(4, 1), block=2)) == [(0, 0)]


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 70), (32, 64), (33, 95), (100, 31)])
@pytest.mark.parametrize("dim", [0, 1])
def test_two_largest_and_the_lowest_index(shape, dim):
    """Few different values, so that equal ones stand in one run and in several."""
    values = torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(sum(shape))).float()
    found = nearest._two_largest(values, dim)
    for number, line in enumerate(values if dim == 1 else values.T):
        ordered = sorted(line.tolist(), reverse=True)
        best, index, second = (entry[number].item() for entry in found)
        assert (best, index) == (ordered[0], line.tolist().index(ordered[0]))
        assert second == (ordered[1] if len(ordered) > 1 else -math.inf)


def test_only_blocks_of_the_matrix_exist(monkeypatch):
    shapes = []
    plain = nearest._two_largest

    def watch(similarity, dim):
        shapes.append(tuple(similarity.shape))
        return plain(similarity, dim)

    monkeypatch.setattr(nearest, "_two_largest", watch)
    match_nearest(unit_rows(70), unit_rows(50, seed=1), ratio=0.9, block=32)
    assert max(max(shape) for shape in shapes) == 32
    assert sum(rows * columns for rows, columns in shapes) == 2 * 70 * 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    a = unit_rows(40, 128)
    b = a.flip(0)
    matches = match_nearest(a.to(dtype), b.to(dtype))
    assert as_pairs(matches) == [(i, 39 - i) for i in range(40)]
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert matches.score.dtype == expected


def test_inputs_keep_values_and_gradients_out():
    a, b = unit_rows(6).requires_grad_(), unit_rows(7, seed=2)
    before = a.detach().clone(), b.clone()
    matches = match_nearest(a, b)
    assert torch.equal(a.detach(), before[0])
    assert torch.equal(b, before[1])
    assert not matches.score.requires_grad


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        (unit_rows(3), unit_rows(3), {"ratio": 0.0}, r"ratio must be in \(0, 1\], got 0"),
        (unit_rows(3), unit_rows(3), {"ratio": 1.1}, "ratio must be .*1.1"),
        (unit_rows(3), unit_rows(3), {"block": 0}, "block must be at least 1, got 0"),
        (unit_rows(3), unit_rows(3) * 2, {}, "descriptors_b must have rows of length 1.*2; norm"),
        (unit_rows(3) * math.nan, unit_rows(3), {}, "descriptors_a.*nan or inf"),
    ],
)
def test_mistakes_are_named(a, b, options, words):
    with pytest.raises(ValueError, match=words):
        match_nearest(a, b, **options)


def test_unequal_widths_and_devices_are_named():
    with without_shape_checks(), pytest.raises(ValueError, match="one width, got 16 and 32"):
        match_nearest(unit_rows(2), unit_rows(2, 32))
    with (
        pytest.raises(ValueError, match=r"\(keypoint, channel\), got \(16,\)"),
        without_shape_checks(),
    ):
        match_nearest(unit_rows(2)[0], unit_rows(2))
    with pytest.raises(ValueError, match="on one device, got cpu and meta"):
        match_nearest(unit_rows(2), unit_rows(2).to("meta"))
