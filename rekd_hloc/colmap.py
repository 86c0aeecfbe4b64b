"""Features and matches become a COLMAP database.

Keypoints keep all they have: COLMAP stores (x, y, scale, angle), its origin is the first pixel's
corner, its angles are radians in the house sense. Descriptors can come along as bytes on which
COLMAP's own matchers work. Verification and mapping are in :mod:`rekd_hloc.mapping`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycolmap
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rekd_hloc import pycolmap_compat as compat
from rekd_hloc.store import FeatureStore, MatchStore
from rekd_hloc.types import Keypoints

SIFT_SUPPORT = 12.0
"""Side of a SIFT patch in units of COLMAP's scale: 4 cells of 3 sigma each."""
SIFT_CHANNELS = 128
CODE_NORM = 512.0
"""Length that COLMAP's matchers take SIFT's byte vectors to have."""
CODE_OFFSET = 0.25
"""Added to a unit descriptor's entries before they become bytes; 2.8 standard deviations."""
CAMERA_MODES = {
    "auto": "AUTO",
    "single": "SINGLE",
    "per_folder": "PER_FOLDER",
    "per_image": "PER_IMAGE",
}
Pair = tuple[str, str]


def colmap_keypoints(keypoints: Keypoints, support: float = SIFT_SUPPORT) -> NDArray[np.float32]:
    """Rows (x, y, scale, angle) as COLMAP defines them, shape (keypoint, 4).

    Args:
        keypoints: in pixels of the original image.
        support: side in pixels of the patch that describes a keypoint of scale 1. COLMAP's scale
            is a sigma, and SIFT's patch has 12 of them on a side; so the factor support / 12 makes
            the SIFT patch at that keypoint exactly as large as the patch that was described. The
            default leaves scales as they are: right for stores that hold sigmas already.
    """
    scale = keypoints.scale * (support / SIFT_SUPPORT)
    rows = torch.cat([keypoints.xy + 0.5, scale[:, None], keypoints.angle[:, None]], dim=1)
    return np.asarray(rows.numpy(), dtype=np.float32)


def quantise(
    descriptors: Float[Tensor, "keypoint channel"],
) -> UInt8[np.ndarray, "keypoint channel"]:
    """Bytes among which COLMAP's SIFT matchers find the neighbours that cosine finds.

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


def unique_pairs(pairs: Iterable[Pair], names: Iterable[str]) -> list[Pair]:
    """The pairs in their order, each once in whichever direction came first.

    Raises:
        ValueError: an image paired with itself, or a name that is not among ``names``.
    """
    known = set(names)
    seen: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        for name in pair:
            if name not in known:
                raise ValueError(f"pair {pair} names the image {name!r}, which is not there")
        if pair[0] == pair[1]:
            raise ValueError(f"image {pair[0]!r} is paired with itself; remove that pair")
        seen.setdefault(frozenset(pair), pair)
    return list(seen.values())


def export_database(
    database_path: Path,
    image_dir: Path | None,
    features: FeatureStore,
    matches: MatchStore | None,
    pairs: Iterable[Pair],
    *,
    names: Iterable[str] | None = None,
    camera_model: str = "SIMPLE_RADIAL",
    camera_mode: str = "auto",
    intrinsics: Sequence[float] | None = None,
    support: float = SIFT_SUPPORT,
    quantise_descriptors: bool = False,
    progress: bool = False,
) -> dict[str, int]:
    """Write a new COLMAP database with cameras, images, 4-column keypoints and matches.

    The file appears whole or not at all; one that was there is replaced.

    Args:
        database_path: the file to write.
        image_dir: where COLMAP reads the images' focal length (EXIF); None assumes its default.
        features: of the images to export.
        matches: of the pairs; None writes none.
        pairs: (name, name); repeated and reversed ones count once.
        names: images to export; all in ``features`` when None.
        camera_model: COLMAP's name of it.
        camera_mode: who shares a camera: ``auto`` (COLMAP's choice), ``single``, ``per_folder``
            or ``per_image``.
        intrinsics: known parameters of the camera model, for every image.
        support: see :func:`colmap_keypoints`.
        quantise_descriptors: also write descriptors, by :func:`quantise`.
        progress: show bars on stderr.

    Returns:
        The image id of each name.

    Raises:
        ValueError: unknown camera model or mode, parameters that do not fit it, one camera for
            images of several sizes, a pair without matches, descriptors without 128 channels.
    """
    names = sorted(features.names() if names is None else names)
    pairs = unique_pairs(pairs, names)
    check_camera(camera_model, camera_mode, intrinsics)
    rows = {
        name: _read_rows(features, name, support, quantise_descriptors)
        for name in tqdm(names, "keypoints", disable=None if progress else True)
    }
    scratch = database_path.with_name(database_path.name + ".tmp")
    remove_database(scratch)
    with compat.quiet():
        sizes = {name: row.size for name, row in rows.items()}
        ids = _write_images(scratch, image_dir, sizes, camera_model, camera_mode, intrinsics)
        with pycolmap.Database.open(str(scratch)) as database:
            with pycolmap.DatabaseTransaction(database):
                for name, row in rows.items():
                    database.write_keypoints(ids[name], row.keypoints)
                    if row.codes is not None:
                        compat.write_descriptor_codes(database, ids[name], row.codes)
                for a, b in pairs if matches is not None else []:
                    index = matches.read(a, b).index.numpy().astype(np.uint32)
                    database.write_matches(ids[a], ids[b], index)
    remove_database(database_path)
    scratch.replace(database_path)
    return ids


def check_camera(model: str, mode: str, intrinsics: Sequence[float] | None) -> None:
    """Refuse a camera that COLMAP would refuse later, and less clearly.

    Raises:
        ValueError: unknown model or mode, or parameters of another number than the model has.
    """
    known = [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]
    if model not in known:
        raise ValueError(f"no camera model {model!r}; COLMAP has {', '.join(known)}")
    if mode not in CAMERA_MODES:
        raise ValueError(f"no camera mode {mode!r}; modes are {', '.join(CAMERA_MODES)}")
    if intrinsics is not None:
        camera = compat.make_camera(model, 1, 1, list(intrinsics))
        if not intrinsics or not camera.verify_params():
            raise ValueError(f"camera model {model} takes ({camera.params_info}), got {intrinsics}")


def remove_database(path: Path) -> None:
    """Delete a database and the journals beside it, if they are there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def image_ids(database: Any) -> dict[str, int]:
    """The id of each image name in an open database."""
    return {image.name: int(image.image_id) for image in database.read_all_images()}


class _Rows(NamedTuple):
    keypoints: NDArray[np.float32]
    codes: NDArray[np.uint8] | None
    size: tuple[int, int]


def _read_rows(store: FeatureStore, name: str, support: float, with_codes: bool) -> _Rows:
    features = store.read(name)
    codes = None
    if with_codes:
        channels = features.descriptors.shape[1]
        if channels != SIFT_CHANNELS:
            raise ValueError(
                f"COLMAP's matchers take {SIFT_CHANNELS} channels, the descriptors of {name!r} "
                f"have {channels}; export without descriptors"
            )
        codes = quantise(features.descriptors)
    return _Rows(colmap_keypoints(features.keypoints, support), codes, features.image_size)


def _write_images(
    path: Path,
    image_dir: Path | None,
    sizes: dict[str, tuple[int, int]],
    model: str,
    mode: str,
    intrinsics: Sequence[float] | None,
) -> dict[str, int]:
    """Cameras and images: by COLMAP where it can read the file, by the features' size elsewhere."""
    if mode == "single" and len(set(sizes.values())) > 1:
        raise ValueError(
            f"camera mode 'single' needs images of one size, got {sorted(set(sizes.values()))}"
        )
    params = list(intrinsics or ())
    with pycolmap.Database.open(str(path)):
        pass
    if image_dir is not None and image_dir.is_dir() and sizes:
        options = {"camera_model": model, "camera_params": ",".join(map(repr, params))}
        how = getattr(pycolmap.CameraMode, CAMERA_MODES[mode])
        pycolmap.import_images(str(path), str(image_dir), how, list(sizes), options)
    with pycolmap.Database.open(str(path)) as database:
        ids = image_ids(database)
        for name in sizes:
            if name not in ids:
                camera = compat.make_camera(model, *sizes[name], params)
                shared = _shared_camera(database, name, mode)
                ids[name] = compat.add_image(
                    database, name, shared or database.write_camera(camera)
                )
        for name, size in sizes.items():
            camera = database.read_camera(database.read_image(ids[name]).camera_id)
            if (camera.width, camera.height) != size:
                raise ValueError(
                    f"image {name!r} is {camera.width}x{camera.height} for COLMAP, its features "
                    f"were made at {size[0]}x{size[1]}; extract it again"
                )
    return ids


def _shared_camera(database: Any, name: str, mode: str) -> int | None:
    """The camera that an image COLMAP did not import shares with one that is there."""
    for image in database.read_all_images():
        same_folder = Path(image.name).parent == Path(name).parent
        if mode == "single" or (mode == "per_folder" and same_folder):
            return int(image.camera_id)
    return None
