"""The matches that two-view geometries of a COLMAP database keep, with their scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rekd_hloc.refinement.tracks import ImageMatches
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import image_ids
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.storage.features import MatchStore
from rekd_hloc.types import Pair


def read_verified(
    database_path: Path, matches: MatchStore, pairs: Sequence[Pair], numbers: Mapping[str, int]
) -> ImageMatches:
    """Return the inliers of verified pairs.

    Args:
        database_path: where :func:`rekd_hloc.sfm.verification.verify` has verified the pairs.
        matches: from which the database was made; they have the scores.
        pairs: to read; those of images without a number are left out.
        numbers: of the images, as they are to be called in the result.

    Raises:
        ValueError: the matches of a pair are damaged.
    """
    parts = []
    with compat.quiet(), pycolmap.Database.open(str(database_path)) as database:
        ids = image_ids(database)
        for a, b in pairs:
            if a not in numbers or b not in numbers:
                continue
            geometry = database.read_two_view_geometry(ids[a], ids[b])
            inliers = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
            if not len(inliers):
                continue
            stored = matches.read(a, b)
            score = np.zeros(int(inliers[:, 0].max()) + 1)
            index, similarity = stored.index[:, 0].numpy(), stored.score.double().numpy()
            is_below = index < len(score)
            score[index[is_below]] = np.clip((1 + similarity[is_below]) / 2, 0, None)
            image_a, image_b = (np.full(len(inliers), numbers[name]) for name in (a, b))
            parts.append(
                ImageMatches(image_a, inliers[:, 0], image_b, inliers[:, 1], score[inliers[:, 0]])
            )
    return ImageMatches.concatenate(parts)
