"""The pairs of a reconstruction: before extraction as far as they are known, and after it."""

from collections.abc import Sequence
from pathlib import Path

from rekd_hloc.matching.pairs import make_pairs, make_selector, needs_features
from rekd_hloc.retrieval.codebook import load_codebook
from rekd_hloc.sfm.finished_run import is_read_only
from rekd_hloc.sfm.reconstruct_options import ReconstructOptions
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.names import names_by_key
from rekd_hloc.types import Pair


def choose_early(
    options: ReconstructOptions, image_dir: Path, names: Sequence[str], features: Path
) -> list[Pair]:
    """Choose pairs before extraction, to meet mistakes; those that need features as far as known.

    Raises:
        ValueError, FileNotFoundError: as :func:`make_pairs`.
    """
    if not needs_features(options.pairs):
        return choose_pairs(options, image_dir, names, None)
    names_by_key(names)
    make_selector(options.pairs)
    load_codebook(options.codebook)
    if not is_read_only(features.parent) or not features.is_file():
        return []
    with FeatureStore(features) as store:
        known = set(store.names())
    return choose_pairs(options, image_dir, [n for n in names if n in known], features)


def choose_pairs(
    options: ReconstructOptions,
    image_dir: Path,
    names: Sequence[str],
    features: Path | None,
    *,
    progress: bool = False,
) -> list[Pair]:
    """Choose the pairs that options ask for, of images whose features are in a file.

    Raises:
        ValueError, FileNotFoundError: as :func:`make_pairs`.
    """
    return make_pairs(
        names, options.pairs, overlap=options.overlap, image_dir=image_dir,
        features=features, codebook=options.codebook, progress=progress,
    )  # fmt: skip
