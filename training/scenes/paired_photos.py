"""Photos that no reconstruction joins: by day and by night, of two exposures, seasons.

Matches of a pair that one homography or one epipolar geometry explains say where the keypoints
near them lie in the other photo. Of photos from one tripod a list of pairs is enough: they are
aligned by their contrast. Positions are pixels of the photo that a track starts in, so that
positions of two photos cannot be compared.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from rekd_hloc.geometry import rotation_about
from rekd_hloc.images import read_image
from rekd_hloc.matching.pairs import read_pairs
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Keypoints
from training.scenes.cut_tracks import View
from training.scenes.pair_maps import HomographyMap, PairMap, Seen, align_photos, verify_matches

logger = logging.getLogger(__name__)

MATCHES = "matches.h5"
"""File that tells a folder of matches from one of a model."""


@dataclass(frozen=True, eq=False)
class PairedPhotos:
    """Photos, this project's keypoints in them, and maps between some; a carrier of keypoints.

    Attributes:
        images: folder of the photos.
        names: of the photos.
        sizes: width and height of each, in pixels.
        keypoints: of each.
        maps: from one photo to another, by their numbers; both directions.
    """

    images: Path
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    keypoints: Sequence[Keypoints]
    maps: Mapping[tuple[int, int], PairMap]

    def others(self, view: int) -> list[int]:
        """Return the photos that there is a map to."""
        return sorted(to for of, to in self.maps if of == view)

    def carry(self, of: int, to: int) -> tuple[Keypoints, Seen]:
        """Return the keypoints of a photo as they lie in another, and whether each is seen."""
        carried, is_seen = self.maps[of, to].carry(self.keypoints[of])
        xy, limit = carried.xy.numpy(), np.array(self.sizes[to]) - 1
        return carried, is_seen & ((xy >= 0) & (xy <= limit)).all(axis=1)

    def places(self, view: int) -> Float64[np.ndarray, "keypoint 3"]:
        """Return the keypoints' positions in their photo, and 0."""
        return np.pad(self.keypoints[view].xy.double().numpy(), ((0, 0), (0, 1)))

    def views(self, keypoints: Sequence[Keypoints]) -> list[View]:
        """Return the photos with these keypoints; distances are in pixels."""
        return [
            View(
                path=self.images / name,
                size=size,
                keypoints=points,
                rotation=_about_the_axis(roll),
                centre=np.array([0.0, 0.0, -1.0]),  # so that a side is in pixels
                focal_px=1.0,
            )
            for name, size, points, roll in zip(
                self.names, self.sizes, keypoints, self.rolls(), strict=True
            )
        ]

    def rolls(self) -> list[float]:
        """Return by how much each photo is rotated against the first that maps join it to."""
        found: dict[int, float] = {}
        for start in range(len(self.names)):
            if start in found:
                continue
            found[start] = 0.0
            waiting = deque([start])
            while waiting:
                of = waiting.popleft()
                for to in self.others(of):
                    if to not in found:
                        found[to] = found[of] + self.maps[of, to].roll()
                        waiting.append(to)
        return [found[number] for number in range(len(self.names))]


def is_paired(source: Path) -> bool:
    """Say whether a source is a folder of matches or a file of pairs, and no model."""
    return source.is_file() or (source / MATCHES).is_file()


def read_paired(features: Path, source: Path, images: Path) -> PairedPhotos:
    """Read photos and the maps between them.

    Args:
        features: this project's features of the photos.
        source: folder with features.h5 and matches.h5 of the same photos, of any extractor; or a
            file of pairs of photos that show one view.
        images: folder of the photos.

    Raises:
        FileNotFoundError: no such file or photo.
        ValueError: as :func:`read_matched`, :func:`read_aligned`.
    """
    if source.is_file():
        return read_aligned(features, source, images)
    return read_matched(features, source, images)


def read_matched(features: Path, source: Path, images: Path) -> PairedPhotos:
    """Read photos that matches join; pairs whose matches no geometry explains are left out.

    Args:
        features: this project's features of the photos.
        source: folder with features.h5 and matches.h5 of any extractor.
        images: folder of the photos.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a photo is of another size in the other file.
    """
    names, sizes, keypoints = _read_features(features)
    number = {name: i for i, name in enumerate(names)}
    maps: dict[tuple[int, int], PairMap] = {}
    with FeatureStore(source / "features.h5") as store, MatchStore(source / "matches.h5") as pairs:
        others = {name: store.read_keypoints(name) for name in store.names() if name in number}
        for name in others:
            if (size := store.image_size(name)) not in (None, sizes[number[name]]):
                raise ValueError(
                    f"{name} is {size} px in {store.path} and {sizes[number[name]]} in {features}; "
                    "make both of one folder of photos"
                )
        for a, b in pairs.pairs({name: len(k) for name, k in others.items()}):
            index = pairs.read(a, b).index
            xy_a, xy_b = (others[n].xy[index[:, k]].double().numpy() for k, n in ((0, a), (1, b)))
            i, j = number[a], number[b]
            found = verify_matches(xy_a, xy_b, max(sizes[i]), max(sizes[j]))
            if found is None:
                logger.info("%s and %s: %d matches, not verified", a, b, len(index))
            else:
                maps[i, j], maps[j, i] = found
    return PairedPhotos(images, names, sizes, keypoints, maps)


def read_aligned(features: Path, pairs: Path, images: Path) -> PairedPhotos:
    """Read pairs of photos of one view, and align them.

    Args:
        features: this project's features of the photos.
        pairs: file of the pairs.
        images: folder of the photos.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown photo in a pair.
    """
    names, sizes, keypoints = _read_features(features)
    number = {name: i for i, name in enumerate(names)}
    maps: dict[tuple[int, int], PairMap] = {}
    for a, b in read_pairs(pairs, names):
        greys = [read_image(images / name).numpy() for name in (a, b)]
        b_from_a = align_photos(*greys)
        if b_from_a is None:
            logger.warning("%s and %s cannot be aligned: left out", a, b)
            continue
        i, j = number[a], number[b]
        maps[i, j] = HomographyMap(b_from_a, np.zeros((0, 2)), 0.0)
        maps[j, i] = HomographyMap(np.linalg.inv(b_from_a), np.zeros((0, 2)), 0.0)
    return PairedPhotos(images, names, sizes, keypoints, maps)


def _read_features(path: Path) -> tuple[list[str], list[tuple[int, int]], list[Keypoints]]:
    with FeatureStore(path) as store:
        names = list(store.names())
        features = [store.read(name) for name in names]
    return names, [f.image_size for f in features], [f.keypoints for f in features]


def _about_the_axis(roll: float) -> Float64[np.ndarray, "3 3"]:
    return np.asarray(rotation_about(roll, (0.0, 0.0)).numpy(), dtype=np.float64)
