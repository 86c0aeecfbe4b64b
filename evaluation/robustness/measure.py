"""Features of images and of their transformed copies: what survives as the transform grows.

Keypoints nearer than a margin to the image's own border are left out on both sides, so neither the
canvas nor the border is ever counted; the strongest of the rest are used.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from evaluation.command_line import PAPER_FILTER
from evaluation.extractors.extraction import digest_of, extract_by_content
from evaluation.extractors.match_refiner import MatchRefiner
from evaluation.extractors.named_extractor import REFINED, select
from evaluation.extractors.registry import NamedExtractor, limit
from evaluation.metrics.homography import accuracy_of_matches, repeatability_rekd
from evaluation.robustness.transforms import TransformKind, transform_image
from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import angle_difference, warp_angles, warp_points
from rekd_hloc.images import read_color, read_image
from rekd_hloc.matching.match import match
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Features, Matches

PRECISE_PX = 1.5
"""Keypoints of both images within this distance count as one; their angles are compared."""
SAME_POINT_PX = 0.01
"""Keypoints this much farther than the nearest share its point; SIFT has several angles there."""
ANGLE_TOLERANCE_DEG = 15.0
MARGIN_PX = 16.0
"""Half of a 32x32 patch: keypoints nearer to the image's border are left out."""
THRESHOLDS_PX = torch.tensor([1.0, 3.0, 5.0, 10.0])
ALL_THRESHOLDS_PX = torch.tensor([0.5, *THRESHOLDS_PX.tolist()])


@dataclass(frozen=True)
class RobustnessResult:
    """Metrics at one value of the transform, means over images; shares in [0, 1]."""

    value: float
    repeatability: float
    """REKD's, 3 px, over keypoints off the border."""
    mma: list[float]
    """Share of mutual nearest neighbours within 1, 3, 5 and 10 px."""
    num_matches: float
    precise_repeatability: float
    """The same within 1.5 px."""
    angle_accuracy: float | None
    """Share of the keypoints repeated within 1.5 px whose angle is right within 15 degrees."""
    angle_median_deg: float | None
    mma_filtered: list[float] | None
    """After the filter: the paper's orientation filter, or another that was asked for."""
    num_matches_filtered: float | None
    num_keypoints: float
    mma_half_px: float | None = None
    """Share of mutual nearest neighbours within half a pixel."""
    mma_half_px_filtered: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Metrics of one image and its transformed copy."""

    repeatability: float
    mma: list[float]
    num_matches: int
    precise_repeatability: float
    angle_errors_deg: Float[Tensor, " keypoint"]
    mma_filtered: list[float]
    num_matches_filtered: int
    num_keypoints: int
    mma_half_px: float
    mma_half_px_filtered: float


def compare(
    upright: Features,
    transformed: Features,
    transformed_from_image: Float[Tensor, "3 3"],
    count: int,
    refiner: MatchRefiner | None = None,
    config: MatchConfig = PAPER_FILTER,
) -> Comparison:
    """Compare the strongest ``count`` keypoints off the border of an image and its copy.

    Args:
        upright: features of the image.
        transformed: of its copy.
        transformed_from_image: where points go.
        count: keypoints that are used of each.
        refiner: what refines positions of matches before they are measured; None leaves them.
        config: filter of the second set of matches.
    """
    size = upright.image_size
    identity = torch.eye(3, dtype=torch.float64)
    a = limit(_off_border(upright, identity, size), count)
    b = limit(_off_border(transformed, torch.linalg.inv(transformed_from_image), size), count)
    matches = match_nearest(a.descriptors, b.descriptors)
    filtered = match(a, b, config)
    errors = angle_errors(a, b, transformed_from_image)

    def accuracy(chosen: Matches) -> list[float]:
        matched = refiner(a, b, chosen) if refiner else (a, b, chosen)
        return accuracy_of_matches(*matched, transformed_from_image, ALL_THRESHOLDS_PX)

    (half, *mma), (half_filtered, *mma_filtered) = accuracy(matches), accuracy(filtered)
    return Comparison(
        repeatability=repeatability_rekd(a.keypoints.xy, b.keypoints.xy, transformed_from_image),
        mma=mma,
        num_matches=len(matches),
        precise_repeatability=len(errors) / max(len(a), 1),
        angle_errors_deg=errors,
        mma_filtered=mma_filtered,
        num_matches_filtered=len(filtered),
        num_keypoints=len(a),
        mma_half_px=half,
        mma_half_px_filtered=half_filtered,
    )


def angle_errors(
    a: Features, b: Features, b_from_a: Float[Tensor, "3 3"]
) -> Float[Tensor, " keypoint"]:
    """Return the angle's error in degrees of each keypoint of a with one of b within 1.5 px.

    Where b has several keypoints at the nearest point, the one whose angle fits best counts.
    """
    if len(a) == 0 or len(b) == 0:
        return torch.zeros(0)
    warped = warp_points(b_from_a, a.keypoints.xy)
    distance = torch.cdist(warped.double(), b.keypoints.xy.double())
    nearest = distance.amin(dim=1)
    expected = warp_angles(b_from_a, a.keypoints.xy, a.keypoints.angle)
    error = angle_difference(b.keypoints.angle[None, :], expected[:, None]).abs()
    error = error.where(distance <= nearest[:, None] + SAME_POINT_PX, torch.tensor(math.inf))
    return error.amin(dim=1)[nearest <= PRECISE_PX].rad2deg()


def summarise(
    value: float, comparisons: Sequence[Comparison], *, has_orientation: bool
) -> RobustnessResult:
    """Average over images; angle errors are pooled."""

    def mean(pick: Callable[[Comparison], float | list[float]]) -> list[float]:
        values = torch.tensor([pick(c) for c in comparisons], dtype=torch.float64)
        return values.reshape(len(comparisons), -1).mean(dim=0).tolist()

    errors = torch.cat([c.angle_errors_deg for c in comparisons])
    within = float((errors <= ANGLE_TOLERANCE_DEG).float().mean()) if len(errors) else 0.0
    median = float(errors.median()) if len(errors) else 180.0
    return RobustnessResult(
        value=value,
        repeatability=mean(lambda c: c.repeatability)[0],
        mma=mean(lambda c: c.mma),
        num_matches=mean(lambda c: c.num_matches)[0],
        precise_repeatability=mean(lambda c: c.precise_repeatability)[0],
        angle_accuracy=within if has_orientation else None,
        angle_median_deg=median if has_orientation else None,
        mma_filtered=mean(lambda c: c.mma_filtered) if has_orientation else None,
        num_matches_filtered=(
            mean(lambda c: c.num_matches_filtered)[0] if has_orientation else None
        ),
        num_keypoints=mean(lambda c: c.num_keypoints)[0],
        mma_half_px=mean(lambda c: c.mma_half_px)[0],
        mma_half_px_filtered=mean(lambda c: c.mma_half_px_filtered)[0] if has_orientation else None,
    )


@dataclass(frozen=True)
class RobustnessTest:
    """What all methods of a run share."""

    kind: TransformKind
    values: Sequence[float]
    paths: Sequence[Path]
    num_keypoints: int
    cache_dir: Path
    half_pixel: bool = True
    num_threads: int = 1
    filter: MatchConfig = PAPER_FILTER


def run_robustness(
    test: RobustnessTest, method: NamedExtractor, *, refine: bool = False
) -> list[RobustnessResult]:
    """Run one method over all images and values.

    Args:
        test: what to measure.
        method: whose features.
        refine: whether matches are refined before they are measured.

    Raises:
        ValueError: the method has stored features, which know nothing of transformed images.
    """
    if method.is_stored:
        raise ValueError(f"{method.name}: stored features cannot be had of transformed images")
    count = len(test.paths) * len(test.values)
    label = method.name + (REFINED if refine else "")
    with (
        ThreadPoolExecutor(test.num_threads) as pool,
        tqdm(total=count, desc=label, unit="image", disable=None) as bar,
    ):

        def run_image(path: Path) -> list[Comparison]:
            return _run_image(test, method, path, bar, refine)

        by_image = list(pool.map(run_image, test.paths))
    return [
        summarise(value, [row[number] for row in by_image], has_orientation=method.has_orientation)
        for number, value in enumerate(test.values)
    ]


def _run_image(
    test: RobustnessTest, method: NamedExtractor, path: Path, bar: "tqdm[Any]", refine: bool
) -> list[Comparison]:
    """Return one image and its transformed copies, whose features are one file of the cache."""
    image, comparisons = read_color(path), []
    pyramid = ImagePyramid.of(read_image(path)) if refine else None
    with tempfile.TemporaryDirectory() as scratch:
        images, maps = {"original": path}, []
        for value in test.values:
            transformed = transform_image(image, test.kind, value, half_pixel=test.half_pixel)
            images[f"{value:.6g}"] = copy = Path(scratch) / f"{len(images)}.png"
            cv2.imwrite(str(copy), np.ascontiguousarray(transformed.image[..., ::-1]))
            maps.append(transformed.transformed_from_image)
        label = f"{test.kind}-{path.stem}-{digest_of({'path': str(path.resolve())})}"
        features = extract_by_content(images, method, test.cache_dir, label=label)
        for value, transformed_from_image in zip(test.values, maps, strict=True):
            name = f"{value:.6g}"
            refiner = None
            if pyramid is not None:
                copied = ImagePyramid.of(read_image(images[name]))
                refiner = MatchRefiner(pyramid, copied, method)
            given = features["original"], features[name], transformed_from_image
            comparisons.append(compare(*given, test.num_keypoints, refiner, test.filter))
            bar.update()
    return comparisons


def _off_border(
    features: Features, image_from_features: Float[Tensor, "3 3"], size: tuple[int, int]
) -> Features:
    """Select features whose position in the original image is a margin off its border."""
    xy = warp_points(image_from_features, features.keypoints.xy.double())
    limit_xy = xy.new_tensor(size) - 1 - MARGIN_PX
    inside = ((xy >= MARGIN_PX) & (xy <= limit_xy)).all(dim=1)
    return select(features, inside)
