"""Positions of matched keypoints, refined near a loose geometry, in a file of their own.

The order of work is: match and filter, estimate a loose fundamental matrix, refine the matches near
it by :func:`rekd_hloc.refinement.pairs.refine`, and estimate again at the run's own threshold. The
matches that are far from the loose geometry keep their positions. The loose estimation has a seed
and options of its own, so one file serves all seeds, thresholds and estimators of a run.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.dataset import PairSet
from evaluation.relative_pose.estimation import correspondences_between, pair_seed, work_in_chunks
from evaluation.relative_pose.estimators import (
    PACKAGES,
    RansacOptions,
    estimate_pose,
    versions,
)
from evaluation.relative_pose.refined_store import RefinedPair, RefinedStore
from evaluation.relative_pose.two_view import Matrix, Points, epipolar_distance
from rekd_hloc import refinement
from rekd_hloc.geometry import wrap_angle
from rekd_hloc.images import read_image
from rekd_hloc.refinement.pairs import refine
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Keypoints, Matches, Pair

LOOSE_THRESHOLD_PX = 1.0
LOOSE_ITERATIONS = 10_000
"""Of the estimation that says which matches are worth refining."""
NEAR_PX = 4.0
"""Largest distance from the epipolar lines of the loose geometry, in either image."""
LOOSE_SEED = 0
VERSION = 1
"""Part of every file's name: to be raised when the same inputs are to give other positions."""
NUM_CACHED_IMAGES = 24
"""Pyramids that each process keeps, of 28 MB for a megapixel; neighbours in the list of pairs share
images."""


@dataclass(frozen=True)
class Refining:
    """How matches are refined.

    Attributes:
        estimator: of the run; it says which package the loose estimation can use.
        level_scale: scale of the features at the image's own pyramid level, see
            :class:`evaluation.extractors.named_extractor.NamedExtractor`.
    """

    estimator: str
    level_scale: float

    @property
    def loose(self) -> RansacOptions:
        """Return the options of the loose estimation."""
        return loose_options(self.estimator)

    def provenance(self, features: FeatureStore, matches: MatchStore) -> dict[str, str]:
        """Return all that refined positions depend on."""
        settings = {
            **asdict(self.loose), **versions(self.loose.estimator), "near_px": NEAR_PX,
            "seed": LOOSE_SEED, "level_scale": self.level_scale, "version": VERSION,
        }  # fmt: skip
        return {
            "settings": json.dumps(settings, sort_keys=True),
            "matches": digest_of(dict(matches.provenance)),
            "features": digest_of(dict(features.provenance)),
            "refinement": code_digest(),
        }


def refine_pairs(
    pairs: PairSet, features_path: Path, matches_path: Path, options: Refining, folder: Path, *,
    pool: Executor | None = None, label: str = "refine",
) -> Path:  # fmt: skip
    """Refine the matches of the pairs that are not in the file of these matches yet.

    Args:
        pairs: with their images.
        features_path: file of features of all images.
        matches_path: file of the matches of all pairs.
        options: how.
        folder: for the file; its name holds a hash of features, matches and options.
        pool: processes; None works here.
        label: of the progress bar.

    Returns:
        The file, to be read by :class:`RefinedStore`.

    Raises:
        ValueError: a pair without matches or an image without features.
        ImportError: the estimator's package is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FeatureStore(features_path) as store, MatchStore(matches_path) as matches:
        provenance = options.provenance(store, matches)
        path = folder / f"{matches_path.stem}-{digest_of(provenance)}.h5"
        with RefinedStore.resume(path, provenance) as done:
            missing = [pair.names for pair in pairs.pairs if pair.names not in done]
            features = {name: store.read(name) for names in missing for name in names}
            tasks = [(names, (pairs.images[names[0]], pairs.images[names[1]])) for names in missing]

            def read(task: "_Task") -> Correspondences:
                return correspondences_between(task[0], features, matches)

            work = partial(_refine_chunk, options=options)
            results = work_in_chunks(tasks, read, work, pool)
            bar = tqdm(results, label, len(tasks), unit="pair", disable=None, leave=False)
            for names, refined in bar:
                done.write(*names, refined)
    return path


def refine_matched(
    matched: Correspondences, images: tuple[Path, Path], names: Pair, options: Refining
) -> RefinedPair:
    """Refine the matches of one pair that are near a loose geometry of its own.

    Args:
        matched: in pixels of the images.
        images: files of both.
        names: of both, on which the samples depend.
        options: how.
    """
    is_near = _is_near(matched, names, options.loose)
    frames_a = _frames(matched.xy_a, matched.orientation_a, options.level_scale)
    frames_b = _frames(matched.xy_b, matched.orientation_b, options.level_scale)
    chosen = torch.from_numpy(np.flatnonzero(is_near))
    index = torch.stack([chosen, chosen], dim=1)
    given = Matches(index, torch.ones(len(index)))
    found = refine(_read_pyramid(images[0]), _read_pyramid(images[1]), frames_a, frames_b, given)
    xy_b, is_refined = matched.xy_b.copy(), np.zeros(len(matched), dtype=bool)
    is_refined[is_near] = found.is_refined.numpy()
    xy_b[is_refined] = found.xy_b[found.is_refined].double().numpy()
    shift_px = np.linalg.norm(xy_b - matched.xy_b, axis=1)
    return RefinedPair(xy_b, frames_b.scale.double().numpy(), shift_px, is_near, is_refined)


def loose_options(estimator: str) -> RansacOptions:
    """Return the options of the loose estimation, the same for most estimators of a run."""
    name = "degensac" if estimator in PACKAGES else "magsac"
    return RansacOptions(name, LOOSE_THRESHOLD_PX, max_iterations=LOOSE_ITERATIONS)


def code_digest() -> str:
    """Return a hash of the code that refines a pair: positions of other code are made anew."""
    folder = Path(refinement.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("track"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_Task = tuple[Pair, tuple[Path, Path]]


def _refine_chunk(
    chunk: Sequence[tuple[_Task, Correspondences]], options: Refining
) -> list[tuple[Pair, RefinedPair]]:
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # there is a process for each core
    return list(_refine_each(chunk, options))


def _refine_each(
    chunk: Sequence[tuple[_Task, Correspondences]], options: Refining
) -> Iterator[tuple[Pair, RefinedPair]]:
    for (names, images), matched in chunk:
        yield names, refine_matched(matched, images, names, options)


def _is_near(
    matched: Correspondences, names: Pair, options: RansacOptions
) -> Bool[np.ndarray, " match"]:
    """Say which matches the loose geometry agrees with; none where there is no geometry."""
    eye: Matrix = np.eye(3)
    seed = pair_seed(names, LOOSE_SEED)
    found = estimate_pose(matched.xy_a, matched.xy_b, eye, eye, options, seed)
    if found.fundamental is None:
        return found.inliers
    distance = epipolar_distance(found.fundamental, matched.xy_a, matched.xy_b)
    return np.asarray(distance <= NEAR_PX)


def _frames(xy: Points, orientation: Points, level_scale: float) -> Keypoints:
    """Return matched keypoints with the scales that refinement counts in."""
    vectors = torch.from_numpy(orientation)
    angle = wrap_angle(torch.atan2(vectors[:, 1], vectors[:, 0]))
    scale = vectors.norm(dim=1) / level_scale
    return Keypoints(
        torch.from_numpy(xy).float(), scale.float(), angle.float(), torch.ones(len(xy))
    )


@lru_cache(maxsize=NUM_CACHED_IMAGES)
def _read_pyramid(path: Path) -> ImagePyramid:
    return ImagePyramid.of(read_image(path))
