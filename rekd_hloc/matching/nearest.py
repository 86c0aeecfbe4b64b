"""Mutual nearest neighbours between two sets of L2-normalised descriptors.

The similarity matrix is made and read in square blocks, so memory grows with the number of
keypoints and not with its square, and a block stays in the CPU's cache while it is read.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.types import Matches

NORM_TOLERANCE = 1e-2
"""Largest accepted deviation of a descriptor's length from 1; bfloat16 storage stays below it."""
VALUES_OF_A_RUN = 32
"""Similarities that are looked at together; fastest of 16, 32, 64 on a CPU with AVX2."""
SMALLEST_SQUARED_DISTANCE = 1e-6
"""Squared distances below it count as it: float32 rounding of a 128-d dot product is 1e-7."""
ROUNDING = 5e-7
"""Cosines that differ by less are equal."""


@torch.no_grad()
def match_nearest(
    descriptors_a: Float[Tensor, "keypoint_a channel"],
    descriptors_b: Float[Tensor, "keypoint_b channel"],
    *,
    ratio: float = 1.0,
    block: int = 2048,
) -> Matches:
    """Return pairs of descriptors that are each other's nearest neighbour.

    The score is the cosine of the angle between the two descriptors; nearest by cosine is nearest
    by distance, because all lengths are 1. Matches come in ascending order of the keypoint of a,
    and no keypoint occurs twice. Among equal similarities the lowest index wins (of b for each
    keypoint of a, then of a for each keypoint of b); similarities that differ by rounding only,
    1e-7, are not always equal. Half precision is matched in float32.

    Args:
        descriptors_a: L2-normalised rows.
        descriptors_b: L2-normalised rows, on the same device.
        ratio: in (0, 1]; below 1, a match must have ``nearest < ratio * second nearest`` in
            Euclidean distance, seen from a and seen from b. Twins (two equally near neighbours)
            fail; a side with one single descriptor has no second and passes.
        block: rows and columns of the similarity matrix that exist at once; changes memory and
            speed only, but for the choice between identical descriptors of one image.

    Raises:
        ValueError: widths or devices differ, ``ratio`` or ``block`` is out of range, a descriptor
            is not finite or not of length 1.
    """
    return scan_nearest(descriptors_a, descriptors_b, block=block, seconds=ratio < 1).mutual(ratio)


@torch.no_grad()
def distance_ratios(
    matches: Matches,
    descriptors_a: Float[Tensor, "keypoint_a channel"],
    descriptors_b: Float[Tensor, "keypoint_b channel"],
    *,
    block: int = 2048,
) -> tuple[Float[Tensor, " match"], Float[Tensor, "match 2"]]:
    """Return the cosine of each match, and its distance by that of the nearest other descriptor.

    The other descriptor is one of image b, then one of image a. A ratio is 0 where there is none,
    and above 1 where the match is not of nearest neighbours.

    Args:
        matches: of any matcher.
        descriptors_a: L2-normalised rows.
        descriptors_b: L2-normalised rows, on the same device.
        block: rows and columns of the similarity matrix that exist at once.

    Raises:
        ValueError: as :func:`match_nearest`.
    """
    return scan_nearest(descriptors_a, descriptors_b, block=block).distance_ratios(matches)


@dataclass(frozen=True, eq=False)
class NearestScan:
    """What comparing all descriptors of two images has found; matches and ratios are read from it.

    Attributes:
        a: L2-normalised rows.
        b: likewise, of the same dtype and device.
        nearest: for each row of a the row of b that is most similar to it.
        best_a: their similarity.
        best_b: for each row of b the similarity of the most similar row of a.
        second_a: for each row of a the second largest similarity; -inf where there is none.
        second_b: likewise for each row of b; -inf everywhere if it was not asked for.
    """

    a: Float[Tensor, "keypoint_a channel"]
    b: Float[Tensor, "keypoint_b channel"]
    nearest: Int64[Tensor, " keypoint_a"]
    best_a: Float[Tensor, " keypoint_a"]
    best_b: Float[Tensor, " keypoint_b"]
    second_a: Float[Tensor, " keypoint_a"]
    second_b: Float[Tensor, " keypoint_b"]

    def mutual(self, ratio: float = 1.0) -> Matches:
        """Return the mutual nearest neighbours; see :func:`match_nearest`.

        Raises:
            ValueError: ``ratio`` is out of range.
        """
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {ratio}")
        if len(self.a) == 0 or len(self.b) == 0:
            return Matches.empty(self.a.device)
        is_mutual = self.best_a == self.best_b[self.nearest]
        is_mutual &= _is_first(self.nearest, among=is_mutual)
        if ratio < 1:
            distance = _distance(self.best_a)
            is_mutual &= distance < ratio * _distance(self.second_a)
            is_mutual &= distance < ratio * _distance(self.second_b)[self.nearest]
        index_a = torch.nonzero(is_mutual)[:, 0]
        index = torch.stack([index_a, self.nearest[index_a]], dim=1)
        return Matches(index=index, score=self.best_a[index_a].clamp(-1, 1))

    def distance_ratios(
        self, matches: Matches
    ) -> tuple[Float[Tensor, " match"], Float[Tensor, "match 2"]]:
        """Return the cosine of each match, and its ratios; see :func:`distance_ratios`."""
        if len(matches) == 0:
            return self.a.new_zeros(0), self.a.new_zeros(0, 2)
        of_a, of_b = matches.index.to(self.a.device).unbind(dim=1)
        cosine = (self.a[of_a] * self.b[of_b]).sum(dim=1)
        is_nearest = self.nearest[of_a] == of_b
        cosine = torch.where(is_nearest, self.best_a[of_a], cosine)
        other_a = torch.where(is_nearest, self.second_a[of_a], self.best_a[of_a])
        is_best = cosine >= self.best_b[of_b] - ROUNDING
        other_b = torch.where(is_best, self.second_b[of_b], self.best_b[of_b])
        distance = _distance(cosine)
        ratios = torch.stack([distance / _distance(other) for other in (other_a, other_b)], dim=1)
        return cosine.clamp(-1, 1), ratios


@torch.no_grad()
def scan_nearest(
    descriptors_a: Float[Tensor, "keypoint_a channel"],
    descriptors_b: Float[Tensor, "keypoint_b channel"],
    *,
    block: int = 2048,
    seconds: bool = True,
) -> NearestScan:
    """Compare all descriptors of two images, once.

    Args:
        descriptors_a: L2-normalised rows.
        descriptors_b: L2-normalised rows, on the same device.
        block: as for :func:`match_nearest`.
        seconds: find the second most similar rows of a too, which costs time.

    Raises:
        ValueError: as :func:`match_nearest`.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    a, b = comparable(descriptors_a, descriptors_b)
    return NearestScan(a, b, *_scan(a, b, block, seconds=seconds))


def comparable(descriptors_a: Tensor, descriptors_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets checked and in one dtype that a CPU multiplies fast.

    Raises:
        ValueError: widths or devices differ, a descriptor is not finite or not of length 1.
    """
    if descriptors_a.device != descriptors_b.device:
        raise ValueError(
            f"descriptors must be on one device, got {descriptors_a.device} and "
            f"{descriptors_b.device}; move one with .to()"
        )
    dtype = torch.promote_types(descriptors_a.dtype, descriptors_b.dtype)
    if dtype != torch.float64:
        dtype = torch.float32
    a = _checked("descriptors_a", descriptors_a, dtype)
    b = _checked("descriptors_b", descriptors_b, dtype)
    if len(a) and len(b) and a.shape[1] != b.shape[1]:
        raise ValueError(
            f"descriptors of the two images must have one width, got {a.shape[1]} and {b.shape[1]}"
        )
    return a, b


def _checked(name: str, descriptors: Tensor, dtype: torch.dtype) -> Tensor:
    if descriptors.ndim != 2:
        raise ValueError(
            f"{name} must have shape (keypoint, channel), got {tuple(descriptors.shape)}"
        )
    converted = descriptors.detach().to(dtype)
    length = torch.linalg.vector_norm(converted, dim=1)
    wrong = torch.nonzero(~((length - 1).abs() <= NORM_TOLERANCE))[:, 0]
    if len(wrong):
        row, value = int(wrong[0]), float(length[wrong[0]])
        remedy = "normalise the rows" if math.isfinite(value) else "it holds nan or inf"
        raise ValueError(f"{name} must have rows of length 1, row {row} has {value:.4g}; {remedy}")
    return converted


def _scan(
    a: Tensor, b: Tensor, block: int, *, seconds: bool
) -> tuple[Int64[Tensor, " keypoint_a"], Tensor, Tensor, Tensor, Tensor]:
    """Nearest b of each a, its similarity, the best similarity of each b; the second-best ones.

    Second-best similarities are -inf where there is none, and those of b where ``seconds`` is
    false.
    """
    nearest = torch.zeros(len(a), dtype=torch.int64, device=a.device)
    best_a, second_a = a.new_full((2, len(a)), -math.inf)
    best_b, second_b = b.new_full((2, len(b)), -math.inf)
    for top in range(0, len(a), block):
        rows = slice(top, top + block)
        for left in range(0, len(b), block):
            columns = slice(left, left + block)
            similarity = a[rows] @ b[columns].T
            best, where, second = _two_largest(similarity, 1)
            nearest[rows] = torch.where(best > best_a[rows], where + left, nearest[rows])
            best_a[rows], second_a[rows] = _merge(best_a[rows], second_a[rows], best, second)
            if seconds:
                best, _, second = _two_largest(similarity, 0)
                best_b[columns], second_b[columns] = _merge(
                    best_b[columns], second_b[columns], best, second
                )
            else:
                best = similarity.amax(dim=0)
                best_b[columns] = torch.maximum(best_b[columns], best)
    return nearest, best_a, best_b, second_a, second_b


def _merge(
    best: Tensor, second: Tensor, new_best: Tensor, new_second: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the two largest of two such pairs."""
    lower = torch.minimum(best, new_best)
    seconds = torch.maximum(second, new_second)
    return torch.maximum(best, new_best), torch.maximum(seconds, lower)


def _two_largest(
    similarity: Float[Tensor, "row column"], dim: int
) -> tuple[Tensor, Int64[Tensor, " line"], Tensor]:
    """Largest value along ``dim``, the lowest index of it, and the second largest; -inf for none.

    In two steps, because ``amax`` is several times as fast as ``topk`` or an argmax: the largest
    of each run of values, then all values of the run that has the largest.
    """
    length, run = similarity.shape[dim], VALUES_OF_A_RUN
    whole = length - length % run
    rows, columns = similarity.shape
    split = (whole // run, run, columns) if dim == 0 else (rows, whole // run, run)
    runs = similarity.narrow(dim, 0, whole).view(split).amax(dim + 1)
    if whole < length:
        rest = similarity.narrow(dim, whole, length - whole).amax(dim, keepdim=True)
        runs = torch.cat([runs, rest], dim)
    best, chosen = runs.max(dim, keepdim=True)
    beside = runs.scatter(dim, chosen, -math.inf).amax(dim)
    shape = (-1, 1) if dim == 0 else (1, -1)
    index = chosen * run + torch.arange(run, device=similarity.device).view(shape)
    inside = similarity.gather(dim, index.clamp(max=length - 1))
    inside = inside.masked_fill_(index >= length, -math.inf)
    where = inside.max(dim, keepdim=True).indices
    within = inside.scatter_(dim, where, -math.inf).amax(dim)
    index = chosen * run + where
    return best.squeeze(dim), index.squeeze(dim), torch.maximum(beside, within)


def _is_first(nearest: Int64[Tensor, " keypoint_a"], among: Tensor) -> Tensor:
    """Say whether a keypoint of a is the lowest of those in ``among`` that chose the same b."""
    order = torch.arange(len(nearest), device=nearest.device)
    first = torch.full((int(nearest.max()) + 1,), len(nearest), device=nearest.device)
    first.scatter_reduce_(0, nearest[among], order[among], reduce="amin")
    return order == first[nearest]


def _distance(similarity: Tensor) -> Tensor:
    """Euclidean distance of unit vectors from their cosine; infinite where there is none."""
    return (2 - 2 * similarity).clamp(min=SMALLEST_SQUARED_DISTANCE).sqrt()
