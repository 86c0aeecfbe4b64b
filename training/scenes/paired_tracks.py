"""Tracks of photos that no reconstruction joins: by day and by night, of two exposures, seasons.

Matches of a pair that one homography or one epipolar geometry explains say where the keypoints
near them lie in the other photo. Of photos from one tripod a list of pairs is enough: they are
aligned by their contrast. Positions are pixels of the photo that a track starts in, so that
positions of two photos cannot be compared.
"""

import hashlib
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
from training.scenes.cut_tracks import View, cut_tracks
from training.scenes.geometry import models_hash
from training.scenes.joined_keypoints import join_keypoints
from training.scenes.pair_maps import HomographyMap, PairMap, Seen, align_photos, verify_matches
from training.tracks import TrackConfig, Tracks

logger = logging.getLogger(__name__)

MATCHES = "matches.h5"
"""File that tells a folder of matches from one of a model."""


@dataclass(frozen=True, eq=False)
class PairedPhotos:
    """Photos, this project's keypoints in them, and maps between some; a carrier of keypoints.

    Attributes:
        names: of the photos.
        sizes: width and height of each, in pixels.
        keypoints: of each.
        maps: from one photo to another, by their numbers; both directions.
    """

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


def source_hash(source: str) -> str:
    """Return twelve hexadecimal digits of a model, of a folder of matches, or of a pairs file.

    Raises:
        FileNotFoundError: there is nothing of these.
    """
    path = Path(source)
    if not is_paired(path):
        return models_hash([source])
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else [path / "features.h5", path / MATCHES]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]


def read_paired(features: Path, source: Path, images: Path) -> PairedPhotos:
    """Read photos and the maps between them; see :func:`make_paired_tracks`."""
    if source.is_file():
        return read_aligned(features, source, images)
    return read_matched(features, source)


def make_paired_tracks(
    features: Path,
    source: Path,
    images: Path,
    config: TrackConfig,
    rng: np.random.Generator,
    *,
    max_tracks: int,
    placed_share: float,
) -> list[Tracks]:
    """Make tracks of the keypoints in a features file through maps between pairs of photos.

    Args:
        features: this project's features of the photos.
        source: folder with features.h5 and matches.h5 of the same photos, of any extractor; or a
            file of pairs of photos that show one view.
        images: folder of the photos.
        config: how patches are cut, and how far keypoints of a track may disagree.
        rng: draws which tracks are taken, where keypoints are placed, and factors on patch sizes.
        max_tracks: largest number of tracks.
        placed_share: share of the views of a track without a keypoint that get a placed one.

    Returns:
        The tracks that start in each photo, each in pixels of that photo.

    Raises:
        FileNotFoundError: no such file or photo.
        ValueError: no keypoint can be carried from a photo to another.
    """
    photos = read_paired(features, source, images)
    joined = join_keypoints(photos, config, rng, placed_share)
    if len(joined) == 0:
        raise ValueError(
            f"no keypoint of {features} can be carried between the pairs of {source}; leave the "
            "scene out"
        )
    chosen = joined.choose(np.sort(rng.permutation(len(joined))[:max_tracks]))
    keypoints = chosen.all_keypoints(photos)
    views = [
        View(
            path=images / name,
            size=size,
            keypoints=points,
            rotation=_about_the_axis(roll),
            centre=np.array([0.0, 0.0, -1.0]),  # so that a side is in pixels
            focal_px=1.0,
        )
        for name, size, points, roll in zip(
            photos.names, photos.sizes, keypoints, photos.rolls(), strict=True
        )
    ]
    logger.info(
        "%s: %d of %d tracks, %d patches, by %d pairs",
        source, len(chosen), len(joined), len(chosen.seen.point), len(photos.maps) // 2,
    )  # fmt: skip
    return cut_tracks(views, chosen.seen, chosen.place, config, rng)


def read_matched(features: Path, source: Path) -> PairedPhotos:
    """Read photos that matches join; pairs whose matches no geometry explains are left out.

    Args:
        features: this project's features of the photos.
        source: folder with features.h5 and matches.h5 of any extractor.

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
    return PairedPhotos(names, sizes, keypoints, maps)


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
    return PairedPhotos(names, sizes, keypoints, maps)


def _read_features(path: Path) -> tuple[list[str], list[tuple[int, int]], list[Keypoints]]:
    with FeatureStore(path) as store:
        names = list(store.names())
        features = [store.read(name) for name in names]
    return names, [f.image_size for f in features], [f.keypoints for f in features]


def _about_the_axis(roll: float) -> Float64[np.ndarray, "3 3"]:
    return np.asarray(rotation_about(roll, (0.0, 0.0)).numpy(), dtype=np.float64)
