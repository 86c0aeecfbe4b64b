"""The inliers of a robust estimator as files of matches, for a submission's stereo task.

They are those that the stereo task of :mod:`evaluation.imc` finds with the same seed.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.relative_pose.correspondences import Correspondences
from evaluation.relative_pose.estimation import (
    correspondences_between,
    pair_seed,
    settings_of,
    work_in_chunks,
)
from evaluation.relative_pose.estimators import ESTIMATORS, RansacOptions, estimate_pose
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Pair


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
    if options.estimator.startswith("essential"):  # the challenge allows no intrinsics
        allowed = [name for name in ESTIMATORS if not name.startswith("essential")]
        raise ValueError(
            f"a submission must not use intrinsics, as {options.estimator!r} does; take one of "
            f"{', '.join(allowed)}"
        )
    with FeatureStore(features_path) as features, MatchStore(matches_path) as matches:
        settings = settings_of(features, matches, options, seed)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{matches_path.stem}-{digest_of(settings)}.h5"
        provenance = {key: str(value) for key, value in settings.items()}
        with MatchStore.resume(path, provenance) as out:
            missing = [pair for pair in pairs if pair not in out]
            found = {name: features.read(name) for pair in missing for name in pair}
            read = partial(correspondences_between, features=found, matches=matches)
            work = partial(_estimate, options=options, seed=seed)
            bar = tqdm(total=len(missing), desc=f"inliers, seed {seed}", unit="pair", disable=None)
            with bar:
                for pair, inliers in work_in_chunks(missing, read, work, pool):
                    kept = matches.read(*pair)[torch.from_numpy(inliers)]
                    out.write(*pair, kept, len(found[pair[0]]))
                    bar.update()
    return path


def _estimate(
    chunk: Sequence[tuple[Pair, Correspondences]], options: RansacOptions, seed: int
) -> list[tuple[Pair, np.ndarray]]:
    """Images may lack a calibration: inliers of a fundamental matrix do not depend on it."""
    unknown = np.eye(3)
    found = []
    for pair, matched in chunk:
        steps = matched.orientation_a, matched.orientation_b
        result = estimate_pose(
            matched.xy_a,
            matched.xy_b,
            unknown,
            unknown,
            options,
            pair_seed(pair, seed),
            orientations=steps,
        )
        found.append((pair, result.inliers))
    return found
