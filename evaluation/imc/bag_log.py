"""Finished bags, kept as JSON lines under a hash of all that they depend on."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from evaluation.imc.bag import CAMERA_MODE, CAMERA_MODEL, BagResult
from evaluation.relative_pose.estimation import ResultLog
from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.sfm.database import colmap_keypoints, stored_support
from rekd_hloc.storage.features import FeatureStore, MatchStore

VERSION = 3
"""Part of every key: to be raised when the same inputs are to give other results."""


class Digests:
    """Keys of bags, from the keypoints and matches themselves; each is read once."""

    def __init__(self, features: FeatureStore, matches: MatchStore) -> None:
        self._features, self._matches = features, matches
        self._support = stored_support(features)
        self._known: dict[tuple[str, ...], str] = {}

    def key(self, names: Sequence[str], poses: Mapping[str, Pose], seed: int) -> str:
        """Hash of what the result of a bag depends on.

        Args:
            names: of the bag's images.
            poses: true ones of the whole scene.
            seed: of verification and mapping.

        Raises:
            ValueError: an image or a pair is not in the stores.
        """
        digest = hashlib.sha256()
        settings = (VERSION, pycolmap.__version__, CAMERA_MODEL, CAMERA_MODE, seed, names)
        digest.update(json.dumps(settings).encode())
        for name in names:
            digest.update(self._image(name).encode())
        for pair in itertools.combinations(names, 2):
            digest.update(self._pair(*pair).encode())
        for name, pose in sorted(poses.items()):
            digest.update(name.encode() + pose.rotation.tobytes() + pose.centre.tobytes())
        return digest.hexdigest()[:24]

    def _image(self, name: str) -> str:
        if (name,) not in self._known:
            entry = self._features.read(name)
            rows = colmap_keypoints(entry.keypoints, self._support)
            text = f"{entry.image_size} {rows.shape}".encode()
            self._known[name,] = hashlib.sha256(text + rows.tobytes()).hexdigest()
        return self._known[name,]

    def _pair(self, a: str, b: str) -> str:
        if (a, b) not in self._known:
            index = self._matches.read(a, b).index.numpy()
            rows = np.ascontiguousarray(index, dtype=np.int64)
            self._known[a, b] = hashlib.sha256(rows.tobytes()).hexdigest()
        return self._known[a, b]


def open_bag_log(path: Path) -> ResultLog[BagResult]:
    """Finished bags of a file."""
    return ResultLog(path, BagResult.from_record)
