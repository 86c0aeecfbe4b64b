"""COLMAP's own keypoints and matches, out of its database, as files in hloc's form."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.extractors.classical import COLMAP_HALF_PIXEL, unit_rows
from rekd_hloc.geometry import wrap_angle
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches

PROVENANCE = {"method": "colmap-sift", "version": f"pycolmap {pycolmap.__version__}"}


def export_colmap(database: Path, features: Path, matches: Path) -> None:
    """Write the keypoints and matches of a COLMAP database to files of hloc's form.

    Args:
        database: with keypoints, descriptors and matches.
        features: to write; scales are COLMAP's sigmas.
        matches: to write: of each pair that was matched all matches, verified or not.

    Raises:
        OSError: a file cannot be read or written.
    """
    with compat.open_database(database) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        counts = {}
        with FeatureStore.resume(features, PROVENANCE, overwrite=True) as store:
            for number, image in images.items():
                entry = _read_features(opened, number, image.camera_id)
                counts[number] = len(entry)
                store.write(image.name, entry)
        with MatchStore.resume(matches, PROVENANCE, overwrite=True) as store_of_matches:
            for a, b in itertools.combinations(images, 2):
                if opened.exists_matches(a, b):
                    rows = np.asarray(opened.read_matches(a, b), dtype=np.int64).reshape(-1, 2)
                    pair = Matches(torch.from_numpy(rows), torch.ones(len(rows)))
                    store_of_matches.write(images[a].name, images[b].name, pair, counts[a])


def _read_features(database: Any, number: int, camera_id: int) -> Features:
    """Return one image's features in this package's frame; the largest scales count as best."""
    rows = torch.from_numpy(np.array(database.read_keypoints(number), dtype=np.float32))
    camera = database.read_camera(camera_id)
    scale, angle = _scale_and_angle(rows[:, 2:])
    keypoints = Keypoints(rows[:, :2] - COLMAP_HALF_PIXEL, scale, wrap_angle(angle), scale)
    codes = compat.read_descriptor_codes(database, number)
    vectors = unit_rows(torch.from_numpy(codes.astype(np.float32)))
    return Features(keypoints, vectors, (int(camera.width), int(camera.height)))


def _scale_and_angle(shape: Float[Tensor, "keypoint column"]) -> tuple[Tensor, Tensor]:
    """Read columns (scale, angle), or those of an affine shape: a11, a12, a21, a22."""
    if shape.shape[1] < 4:
        return shape[:, 0], shape[:, 1]
    a11, a12, a21, a22 = shape.unbind(dim=1)
    scale = (torch.hypot(a11, a21) + torch.hypot(a12, a22)) / 2
    return scale, torch.atan2(a21, a11)
