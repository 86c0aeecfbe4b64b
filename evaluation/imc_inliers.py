"""The inliers of a robust estimator as files of matches, for a submission's stereo task.

They are those that the stereo task of :mod:`evaluation.imc` finds with the same seed.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evaluation.imc_layout import Pair
from evaluation.oriented_constraints import Correspondences, correspondences_of
from evaluation.pose_estimation import PAIRS_A_TASK, VERSION, pair_seed
from evaluation.pose_features import digest_of
from evaluation.two_view import ESTIMATORS, RansacOptions, estimate_pose, versions
from rekd_hloc.store import FeatureStore, MatchStore
from rekd_hloc.types import Features

FUNDAMENTAL = tuple(name for name in ESTIMATORS if not name.startswith("essential"))
"""Estimators that know no intrinsics: the challenge allows no others."""


@dataclass(frozen=True, eq=False)
class _Task:
    pair: Pair
    matched: Correspondences


def keep_inliers(
    features_path: Path,
    matches_path: Path,
    pairs: Sequence[Pair],
    options: RansacOptions,
    seed: int,
    folder: Path,
    *,
    pool: Executor | None = None,
) -> Path:
    """Write the inliers of all pairs; those that are there already are kept.

    Args:
        features_path: file of features of all images.
        matches_path: file of the matches of all pairs.
        pairs: image names.
        options: of the robust estimator.
        seed: not negative.
        folder: for the file; its name holds a hash of all that it depends on.
        pool: processes; None works here.

    Returns:
        A file of matches.

    Raises:
        ValueError: an estimator that knows the intrinsics, or a pair without matches.
        ImportError: the estimator's package is missing.
    """
    if options.estimator not in FUNDAMENTAL:
        raise ValueError(
            f"a submission must not use intrinsics, as {options.estimator!r} does; take one of "
            f"{', '.join(FUNDAMENTAL)}"
        )
    with FeatureStore(features_path) as features, MatchStore(matches_path) as matches:
        settings = {
            **asdict(options), **versions(options.estimator), "seed": seed, "version": VERSION,
            "matches": digest_of({**matches.provenance, "features": dict(features.provenance)}),
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{matches_path.stem}-{digest_of(settings)}.h5"
        provenance = {key: str(value) for key, value in settings.items()}
        with MatchStore.resume(path, provenance) as out:
            missing = [pair for pair in pairs if pair not in out]
            read = {name: features.read(name) for pair in missing for name in pair}
            bar = tqdm(total=len(missing), desc=f"inliers, seed {seed}", unit="pair", disable=None)
            with bar:
                for pair, inliers in _run(missing, read, matches, options, seed, pool):
                    found = matches.read(*pair)[torch.from_numpy(inliers)]
                    out.write(*pair, found, len(read[pair[0]]))
                    bar.update()
    return path


def _run(
    pairs: Sequence[Pair],
    features: dict[str, Features],
    matches: MatchStore,
    options: RansacOptions,
    seed: int,
    pool: Executor | None,
) -> Iterator[tuple[Pair, np.ndarray]]:
    """Inlier masks as they come."""
    chunks = [pairs[start : start + PAIRS_A_TASK] for start in range(0, len(pairs), PAIRS_A_TASK)]
    if pool is None:
        for chunk in chunks:
            yield from _estimate([_make_task(p, features, matches) for p in chunk], options, seed)
        return
    futures = [
        pool.submit(_estimate, [_make_task(p, features, matches) for p in chunk], options, seed)
        for chunk in chunks
    ]
    for future in as_completed(futures):
        yield from future.result()


def _make_task(pair: Pair, features: dict[str, Features], matches: MatchStore) -> _Task:
    found = matches.read(*pair)
    return _Task(pair, correspondences_of(features[pair[0]], features[pair[1]], found))


def _estimate(
    tasks: Sequence[_Task], options: RansacOptions, seed: int
) -> list[tuple[Pair, np.ndarray]]:
    """Images may lack a calibration: inliers of a fundamental matrix do not depend on it."""
    unknown = np.eye(3)
    found = []
    for task in tasks:
        own_seed = pair_seed(task.pair, seed)
        matched = task.matched
        steps = matched.step_a, matched.step_b
        result = estimate_pose(
            matched.xy_a, matched.xy_b, unknown, unknown, options, own_seed, steps=steps
        )
        found.append((task.pair, result.inliers))
    return found
