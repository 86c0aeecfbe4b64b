"""Features and matches become a COLMAP database.

Keypoints keep all they have: COLMAP stores (x, y, scale, angle), its origin is the first pixel's
corner, its angles are radians, clockwise in image coordinates. Descriptors can come along as bytes
on which COLMAP's own matchers work. Verification and mapping are in :mod:`rekd_hloc.sfm.mapping`.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pycolmap
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.files import SCRATCH_SUFFIX, beside
from rekd_hloc.locks import hold_file
from rekd_hloc.matching.pairs import unique_pairs
from rekd_hloc.progress import progress_bar
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import (
    CameraOptions,
    CameraWriter,
    check_size,
    image_ids,
    import_images,
    plan_cameras,
)
from rekd_hloc.sfm.database_record import (
    refuse_foreign_database,
    replace_database,
    write_database,
)
from rekd_hloc.sfm.focals import correct_focals
from rekd_hloc.sfm.older_colmap import add_prior_columns
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.provenance import stored_config
from rekd_hloc.types import Features, Keypoints, Pair

logger = logging.getLogger(__name__)

DEFAULT_CAMERAS = CameraOptions()
SIFT_PATCH_SIZE = 12.0
"""Side of a SIFT patch in units of COLMAP's scale: 4 cells of 3 sigma each."""
MAX_PATCH_SIZE_PX = 100_000.0
"""Beyond it, what a file states is no side of a patch."""
SIFT_CHANNELS = 128
CODE_NORM = 512.0
"""Length that COLMAP's matchers take SIFT's byte vectors to have."""
CODE_OFFSET = 0.25
"""Added to a unit descriptor's entries before they become bytes; 2.8 standard deviations."""
SPACE_BYTES = 2 << 20
SPACE_BYTES_PER_IMAGE = 4 << 10
"""Free space without which importing images is not started: pycolmap 4.2 ends the process when the
disk becomes full there."""


def colmap_keypoints(
    keypoints: Keypoints, patch_size_px: float = SIFT_PATCH_SIZE
) -> NDArray[np.float32]:
    """Return rows (x, y, scale, angle) as COLMAP defines them, shape (keypoint, 4).

    Args:
        keypoints: in pixels of the original image.
        patch_size_px: side of the patch that describes a keypoint of scale 1. COLMAP's scale is a
            sigma, and SIFT's patch has 12 of them on a side; so the factor ``patch_size_px / 12``
            makes the SIFT patch at that keypoint exactly as large as the patch that was described.
            The default leaves scales as they are: right for stores that hold sigmas already.
    """
    scale = keypoints.scale * (patch_size_px / SIFT_PATCH_SIZE)
    rows = torch.cat([keypoints.xy + 0.5, scale[:, None], keypoints.angle[:, None]], dim=1)
    return np.asarray(rows.numpy(), dtype=np.float32)


def quantise(
    descriptors: Float[Tensor, "keypoint channel"],
) -> UInt8[np.ndarray, "keypoint channel"]:
    """Return bytes among which COLMAP's SIFT matchers find the neighbours that cosine finds.

    SIFT has no negative entries, and COLMAP takes its bytes to have norm 512: dot products become
    angles with it. A signed descriptor gets there by an affine map. Its mean is removed and its
    length restored, then it becomes ``s (x + 0.25)`` with s such that the norm is 512. Dot products
    of codes are then affine in the cosine, distances proportional to distances: the order of
    neighbours stays, and so do ratios of distances. Entries below -0.25 are clipped.
    """
    centred = descriptors.double() - descriptors.double().mean(dim=1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    gain = CODE_NORM / (1.0 + descriptors.shape[1] * CODE_OFFSET**2) ** 0.5
    codes = (gain * (unit + CODE_OFFSET)).round().clamp(0, 255)
    return np.asarray(codes.numpy(), dtype=np.uint8)


def stored_patch_size_px(features: FeatureStore) -> float:
    """Return the ``patch_size_px`` that :func:`colmap_keypoints` needs for a file of features.

    Files of this package state it in their configuration; others hold sigmas already.

    Raises:
        ValueError: the configuration is damaged.
    """
    config = stored_config(features.provenance)
    if not config and "config_hash" in features.provenance:
        raise ValueError(f"{features.path} has a damaged configuration; extract it again")
    descriptor = config.get("descriptor", {})
    side = descriptor.get("patch_size_px", SIFT_PATCH_SIZE) if isinstance(descriptor, dict) else 0
    if not isinstance(side, int | float) or not 0 < side < MAX_PATCH_SIZE_PX:
        raise ValueError(
            f"{features.path} has a configuration with descriptor {descriptor!r:.80}; "
            "patch_size_px must be a number above 0: extract it again"
        )
    return float(side)


def export_database(
    database_path: Path,
    image_dir: Path | None,
    features: FeatureStore,
    matches: MatchStore | None,
    pairs: Iterable[Pair],
    *,
    names: Iterable[str] | None = None,
    cameras: CameraOptions = DEFAULT_CAMERAS,
    patch_size_px: float = SIFT_PATCH_SIZE,
    quantise_descriptors: bool = False,
    owner: str = "",
    overwrite: bool = False,
    progress: bool = False,
    **changes: Any,
) -> dict[str, int]:
    """Write a new COLMAP database with cameras, images, 4-column keypoints and matches.

    The file appears whole or not at all. One that this function wrote from the same file of
    features is replaced, if nobody has verified, matched or calibrated in it since.

    Args:
        database_path: the file to write.
        image_dir: where COLMAP reads the images' focal length (EXIF); None assumes its default.
        features: of the images to export.
        matches: of the pairs; None writes none.
        pairs: (name, name); repeated and reversed ones count once.
        names: images to export; all in ``features`` when None.
        cameras: what is known of the cameras.
        patch_size_px: see :func:`colmap_keypoints`.
        quantise_descriptors: also write descriptors, by :func:`quantise`.
        owner: what the database belongs to; the file of features when empty.
        overwrite: replace a database that others made or changed, or that has another owner.
        progress: show bars on stderr.
        **changes: options of cameras by their names, in place of those in ``cameras``:
            ``camera_mode="single"``.

    Returns:
        The image id of each name.

    Raises:
        ValueError: unknown camera model or mode, parameters that do not fit it or an image, one
            camera for images of several sizes, a pair without matches, descriptors without 128
            channels.
        FileExistsError: a database that others made or changed, or a file that can be none.
        OSError: the database could not be written; the message says where and why.
    """
    owner = owner or f"the features in {features.path.resolve()}"
    refuse_foreign_database(database_path, owner=owner, overwrite=overwrite)
    names = sorted(features.names() if names is None else names)
    try:
        pairs = unique_pairs(pairs, names)
    except ValueError as error:
        raise ValueError(f"{matches.path if matches else features.path}: {error}") from error
    sizes = {name: size for name in names if (size := features.image_size(name)) is not None}
    plan = plan_cameras(replace(cameras, **changes), image_dir, names, sizes)
    for line in plan.warnings():
        logger.warning(line)
    scratch = beside(database_path, SCRATCH_SUFFIX)
    with hold_file(database_path), compat.quiet(), compat.write_errors(database_path):
        remove_database(scratch)
        scratch.touch()  # raises what is wrong with the folder; COLMAP would not say
        compat.require_space(scratch, SPACE_BYTES + SPACE_BYTES_PER_IMAGE * len(names))
        import_images(scratch, image_dir, names, plan.options)
        with pycolmap.Database.open(str(scratch)) as database:
            correct_focals(database, plan)
            ids, writer = image_ids(database), CameraWriter(database, plan)
            counts: dict[str, int] = {}
            for name in progress_bar(names, "database", unit="image", shown=progress):
                keypoints, size = features.read_keypoints(name), features.image_size(name)
                if name not in ids:
                    size = size or _refuse_unsized(features, name, image_dir)
                    ids[name] = writer.add(name, size)
                if size is not None:
                    check_size(database, ids[name], size)
                counts[name] = len(keypoints)
                database.write_keypoints(ids[name], colmap_keypoints(keypoints, patch_size_px))
                if quantise_descriptors:
                    codes = _quantise_for_colmap(name, features.read(name))
                    compat.write_descriptor_codes(database, ids[name], codes)
            if matches is not None:
                for pair in pairs:
                    index = _read_index(matches, features, pair, counts)
                    database.write_matches(ids[pair[0]], ids[pair[1]], index)
        add_prior_columns(scratch)
        with write_database(scratch, owner=owner):
            pass
        refuse_foreign_database(database_path, owner=owner, overwrite=overwrite)
        replace_database(database_path.resolve(), scratch)
    return ids


def remove_database(path: Path) -> None:
    """Delete a database and the journals beside it, if they are there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _refuse_unsized(features: FeatureStore, name: str, image_dir: Path | None) -> NoReturn:
    where = f"{image_dir} has no photo of that name that COLMAP can read"
    remedy = "give the folder of the photos (--images)" if image_dir is None else where
    raise ValueError(f"image {name!r} in {features.path} has no image_size; {remedy}")


def _read_index(
    matches: MatchStore, features: FeatureStore, pair: Pair, counts: dict[str, int]
) -> NDArray[np.uint32]:
    """Matches that surely exist: COLMAP reads what lies beyond its keypoints without asking."""
    for name, source in zip(pair, matches.sources(*pair) or (), strict=False):
        if source and source != features.source_digest(name):
            raise ValueError(
                f"{name!r} changed and was extracted again since {pair} was matched in "
                f"{matches.path}; match again"
            )
    index = matches.read(*pair).index.numpy()
    for name, column in zip(pair, index.T, strict=True):
        largest = int(column.max(initial=-1))
        if largest >= counts[name]:
            raise ValueError(
                f"the matches of {pair} in {matches.path} name keypoint {largest} of {name!r}, "
                f"which has {counts[name]}; match again"
            )
    return index.astype(np.uint32)


def _quantise_for_colmap(name: str, features: Features) -> NDArray[np.uint8]:
    channels = features.descriptors.shape[1]
    if channels != SIFT_CHANNELS:
        raise ValueError(
            f"COLMAP's matchers take {SIFT_CHANNELS} channels, the descriptors of {name!r} "
            f"have {channels}; export without descriptors"
        )
    return quantise(features.descriptors)
