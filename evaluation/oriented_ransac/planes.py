"""Homographies from oriented samples against points, on image pairs with known homographies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evaluation.extractors.extraction import extract_images, image_key
from evaluation.extractors.registry import load_extractor
from evaluation.homography.homographies import HomographyPair, list_pairs
from evaluation.metrics.homography import corner_error
from evaluation.oriented_ransac.sample_consensus import estimate_model
from evaluation.oriented_ransac.samplers import SAMPLERS
from evaluation.oriented_ransac.trials import (
    Metrics,
    TrialLog,
    effort,
    models_within,
    pair_key,
    timed_options,
)
from evaluation.oriented_ransac.two_view_models import homography_model
from evaluation.relative_pose.correspondences import Correspondences, Matrix, correspondences_of
from evaluation.reporting.report import Cell, Table
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.storage.features import FeatureStore

THRESHOLD_PX = 3.0
"""Of inliers; the usual one for homographies of real images."""
CORRECT_PX = 5.0
"""Largest mean corner error of a right homography."""
FEW = 0.2
"""Pairs with fewer right matches are counted apart."""


@dataclass(frozen=True, eq=False)
class PlanePair:
    """Matches of two images with their true homography."""

    name: str
    c: Correspondences
    b_from_a: Matrix
    size_a: tuple[int, int]

    @cached_property
    def key(self) -> str:
        """Name of the pair with a hash of what trials depend on."""
        return pair_key(self.name, [self.c.tobytes(), self.b_from_a.tobytes()])

    @property
    def right(self) -> float:
        """Return share of matches within the threshold of the truth."""
        if len(self.c) == 0:
            return 0.0
        errors = homography_model(self.c).squared_errors(self.b_from_a[None])[0]
        return float((errors < THRESHOLD_PX**2).mean())


def load_plane_pairs(
    data: Path, method_name: str, ratio: float, num_keypoints: int, cache: Path
) -> list[PlanePair]:
    """Matched pairs of a folder or list of homographies.

    Raises:
        ValueError: the data or the method is wrong.
        FileNotFoundError: there is no such data, or the method lacks its weights.
    """
    pairs = list_pairs(data)
    images = {image_key(path): path for pair in pairs for path in (pair.path_a, pair.path_b)}
    method = load_extractor(method_name, num_keypoints)
    store = FeatureStore(extract_images(images, method, cache, label="planes").path)
    return [_match(pair, store, ratio) for pair in pairs]


def homography_trial(
    pair: PlanePair, sampling: str, seed: int, budgets: Sequence[float]
) -> Metrics:
    """Corner errors in pixels of the homographies found within each budget of seconds."""
    options, rng = timed_options(THRESHOLD_PX, budgets), np.random.default_rng(seed)
    estimate = estimate_model("homography", pair.c, rng, sampling=sampling, options=options)
    truth = torch.from_numpy(pair.b_from_a)
    errors = [
        np.inf if model is None else corner_error(torch.from_numpy(model), truth, pair.size_a)
        for model in models_within(estimate, budgets)
    ]
    return {"errors_px": errors, **effort(estimate)}


def study_planes(
    log: TrialLog,
    pairs: Sequence[PlanePair],
    label: str,
    seeds: Sequence[int],
    budgets: Sequence[float],
) -> Table:
    """Share of right homographies in per cent, of all pairs and of those with few right matches."""
    is_few = np.array([pair.right < FEW for pair in pairs])
    rows: list[list[Cell]] = []
    for sampling, sampler in tqdm(SAMPLERS["homography"].items(), label, disable=None):
        errors = np.array(
            [
                [
                    log.get(
                        f"planes|{label}|{sampling}|{pair.key}|{seed}",
                        lambda p=pair, s=sampling, n=seed: homography_trial(p, s, n, budgets),  # type: ignore[misc]
                    )["errors_px"]
                    for seed in seeds
                ]
                for pair in pairs
            ],
            dtype=np.float64,
        )
        shares: list[Cell] = []
        for part in (errors, errors[is_few]):
            values = (
                (part <= CORRECT_PX).mean(axis=(0, 1)) if len(part) else [np.nan] * len(budgets)
            )
            shares += [100 * float(value) for value in values]
        rows.append([sampling, sampler.size, *shares])
    heads = [f"{group}, {b:g} s" for group in ("all", "few right") for b in budgets]
    title = (
        f"{label}: homographies within {CORRECT_PX:g} px, % of {len(pairs)} pairs, of which "
        f"{int(is_few.sum())} have under {100 * FEW:.0f} % right matches; {len(seeds)} seeds"
    )
    return Table(title, ["sampling", "sample", *heads], rows)


def _match(pair: HomographyPair, store: FeatureStore, ratio: float) -> PlanePair:
    a, b = store.read(image_key(pair.path_a)), store.read(image_key(pair.path_b))
    matches = match_nearest(a.descriptors, b.descriptors, ratio=ratio)
    name = f"{pair.sequence}/{pair.name}"
    truth = pair.b_from_a.double().numpy()
    return PlanePair(name, correspondences_of(a, b, matches), truth, a.image_size)
