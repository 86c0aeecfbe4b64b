"""Pictures of keypoints and of matches.

A keypoint is a circle with a tick: the circle's radius grows with the keypoint's scale, the tick
points where its angle points, and the colour goes round the hues once as the angle goes round.
"""

import colorsys
import contextlib
import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from rekd_hloc.image_listing import list_folder
from rekd_hloc.images import ImageReadError, encode_image, read_color
from rekd_hloc.known_names import find_name, suggest
from rekd_hloc.locks import hold_folder
from rekd_hloc.ownership import PNG, MadeFiles
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Keypoints, Matches, Pair

logger = logging.getLogger(__name__)

RADIUS_PER_SCALE = 6.0
"""Radius of the circle, in pixels of the image, around a keypoint of scale 1."""
MAX_DRAWN = 400
"""Best keypoints drawn; more hide the image."""
MAX_LINES = 150
"""Matches drawn, inliers and others in their true proportion."""
MAX_NAME_BYTES = 200
"""Of a picture's file, which is longer by 9 letters of a hash and two suffixes; 255 are allowed."""
MAX_SIDE_PX = 900
"""Longer side of a drawn picture."""
GAP_PX = 8
INLIER_RGB = (64, 200, 90)
OUTLIER_RGB = (225, 70, 60)
MATCH_RGB = (70, 150, 235)
SUBPIXEL_BITS = 4

RgbImage = UInt8[np.ndarray, "height width 3"]
Picture = UInt8[np.ndarray, "rows columns 3"]
Point = tuple[float, float]


def draw_keypoints(
    image_rgb: RgbImage,
    keypoints: Keypoints,
    *,
    max_drawn: int = MAX_DRAWN,
    radius_per_scale: float = RADIUS_PER_SCALE,
    max_side_px: int = MAX_SIDE_PX,
) -> Picture:
    """Draw the best keypoints on the paled image.

    Args:
        image_rgb: the image in which the keypoints lie.
        keypoints: in its pixels.
        max_drawn: the keypoints with the largest scores are drawn, at most so many.
        radius_per_scale: see :data:`RADIUS_PER_SCALE`.
        max_side_px: the picture is made smaller to this longer side, never larger.
    """
    factor = min(1.0, max_side_px / max(image_rgb.shape[:2]))
    picture = _pale(_shrink(image_rgb, factor))
    best = keypoints.score.argsort(descending=True, stable=True)[:max_drawn]
    chosen = keypoints[best]
    xy = (chosen.xy.double().numpy() + 0.5) * factor - 0.5
    radii = np.maximum(chosen.scale.double().numpy() * radius_per_scale * factor, 2.0)
    angles = chosen.angle.tolist()
    for (x, y), radius, angle in zip(xy.tolist(), radii.tolist(), angles, strict=True):
        tip = (x + radius * math.cos(angle), y + radius * math.sin(angle))
        for color, thickness in (((0, 0, 0), 3), (_hue(angle), 1)):
            _circle(picture, (x, y), radius, color, thickness)
            _line(picture, (x, y), tip, color, thickness)
    return picture


def draw_matches(
    image_a: RgbImage,
    image_b: UInt8[np.ndarray, "height_b width_b 3"],
    keypoints_a: Keypoints,
    keypoints_b: Keypoints,
    matches: Matches,
    is_inlier: Bool[np.ndarray, " match"] | None = None,
    *,
    max_lines: int = MAX_LINES,
    max_side_px: int = MAX_SIDE_PX,
) -> Picture:
    """Draw two images side by side with lines between matching keypoints.

    Args:
        image_a: shown on the left.
        image_b: shown on the right.
        keypoints_a: of the left image.
        keypoints_b: of the right image.
        matches: between them.
        is_inlier: inliers are green, others red; without it all are blue.
        max_lines: drawn at most, spread evenly over the matches, inliers in their proportion.
        max_side_px: longer side of each image in the picture.
    """
    factor = min(1.0, max_side_px / max(*image_a.shape[:2], *image_b.shape[:2]))
    left, right = _pale(_shrink(image_a, factor)), _pale(_shrink(image_b, factor))
    offset = left.shape[1] + GAP_PX
    picture = np.full(
        (max(left.shape[0], right.shape[0]), offset + right.shape[1], 3), 255, np.uint8
    )
    picture[: left.shape[0], : left.shape[1]] = left
    picture[: right.shape[0], offset:] = right
    index = matches.index.numpy()
    xy_a = (keypoints_a.xy.double().numpy() + 0.5) * factor - 0.5
    xy_b = (keypoints_b.xy.double().numpy() + 0.5) * factor - 0.5 + (offset, 0)
    for row, color in _choose_lines(len(index), is_inlier, max_lines):
        start, end = tuple(xy_a[index[row, 0]].tolist()), tuple(xy_b[index[row, 1]].tolist())
        _line(picture, start, end, color, 1)
        for tip in (start, end):
            _circle(picture, tip, 2.0, color, cv2.FILLED)
    return picture


def plot_files(
    features_path: Path,
    image_dir: Path,
    output: Path,
    *,
    names: Iterable[str] | None = None,
    matches_path: Path | None = None,
    max_pairs: int | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Draw keypoints of images, and matches between them, into PNG files.

    Args:
        features_path: HDF5 file of this package or of hloc.
        image_dir: folder of the images. An image that is missing or unreadable is skipped.
        output: folder to write: ``keypoints/NAME.png`` and ``matches/NAME--NAME.png``.
        names: images to draw; all in the file when None.
        matches_path: HDF5 file; its pairs of two drawn images are drawn too.
        max_pairs: pairs drawn at most, those with the most matches; None draws all.
        overwrite: replace pictures of these names that this function did not draw.

    Returns:
        The files written.

    Raises:
        FileExistsError: there is such a picture; none is written then.
        ValueError: a name is not in the file, or a file is damaged.
        FileNotFoundError: a file, or the image folder, does not exist.
        OSError: a picture cannot be written.
    """
    with FeatureStore(features_path) as features:
        known = features.names()
        chosen = _find_names(features, known if names is None else names)
        images = _read_images(image_dir, chosen)
        keypoints = {name: features.read_keypoints(name) for name in images}
    with contextlib.ExitStack() as stack:
        pairs: dict[str, Pair] = {}
        if matches_path is not None:
            store = stack.enter_context(MatchStore(matches_path))
            drawn = [pair for pair in store.pairs(known) if images.keys() >= set(pair)]
            drawn = _keep_largest(store, drawn, max_pairs)
            pairs = {f"matches/{_file_name(_join(*pair))}": pair for pair in drawn}
        singles = {f"keypoints/{_file_name(name)}": name for name in images}
        made = stack.enter_context(_hold_pictures(output, (*singles, *pairs), overwrite))
        for file, name in singles.items():
            picture = draw_keypoints(images[name], keypoints[name])
            made.write(file, encode_image(picture, ".png"))
        for file, (a, b) in pairs.items():
            matches = store.read(a, b)
            picture = draw_matches(images[a], images[b], keypoints[a], keypoints[b], matches)
            made.write(file, encode_image(picture, ".png"))
    return [output / file for file in (*singles, *pairs)]


@contextlib.contextmanager
def _hold_pictures(folder: Path, names: Iterable[str], overwrite: bool) -> Iterator[MadeFiles]:
    """Hold a folder for pictures of these names, unless someone else's are there."""
    for is_held in (False, True):
        with hold_folder(folder) if is_held else contextlib.nullcontext():
            made = MadeFiles(folder)
            for name in names:
                made.refuse_foreign(name, PNG, overwrite=overwrite)
            if is_held:
                yield made


def _read_images(image_dir: Path, names: Sequence[str]) -> dict[str, RgbImage]:
    list_folder(image_dir).require_images(image_dir)
    images = {}
    for name in names:
        try:
            images[name] = read_color(image_dir / name)
        except (FileNotFoundError, ImageReadError) as error:
            logger.warning("%s is not drawn: %s", name, error)
    return images


def _find_names(features: FeatureStore, names: Iterable[str]) -> list[str]:
    known = frozenset(features.names())
    found = {name: find_name(name, known) for name in names}
    for name, meant in found.items():
        if meant is None:
            raise ValueError(f"no image {name!r} in {features.path}{suggest(name, known)}")
    return [meant for meant in found.values() if meant is not None]


def _keep_largest(store: MatchStore, pairs: list[Pair], max_pairs: int | None) -> list[Pair]:
    """Return the pairs with the most matches, in their order, and say what is left out."""
    if max_pairs is None or len(pairs) <= max_pairs:
        return pairs
    counts = {pair: len(store.read(*pair)) for pair in pairs}
    kept = set(sorted(pairs, key=lambda pair: -counts[pair])[:max_pairs])
    words = "%d of %d pairs are drawn, those with the most matches; --max-pairs 0 draws all"
    logger.warning(words, len(kept), len(pairs))
    return [pair for pair in pairs if pair in kept]


def _join(a: str, b: str) -> str:
    return "--".join(name.replace("/", "-") for name in (a, b))


def _file_name(name: str) -> str:
    """Return the name of the picture of an image or pair, shortened to what file systems take."""
    folder, slash, last = name.rpartition("/")
    if len(last.encode()) > MAX_NAME_BYTES:
        digest = hashlib.sha256(last.encode()).hexdigest()[:8]
        last = f"{last.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{digest}"
    return f"{folder}{slash}{last}.png"


def _choose_lines(
    count: int, is_inlier: Bool[np.ndarray, " match"] | None, max_lines: int
) -> list[tuple[int, tuple[int, int, int]]]:
    """Return the rows to draw with their colours; inliers come last, on top."""
    rows = _spread(np.arange(count), max_lines)
    if is_inlier is None:
        return [(row, MATCH_RGB) for row in rows]
    good, bad = np.flatnonzero(is_inlier), np.flatnonzero(~is_inlier)
    num_good = round(len(rows) * len(good) / max(count, 1))
    return [
        *((row, OUTLIER_RGB) for row in _spread(bad, len(rows) - num_good)),
        *((row, INLIER_RGB) for row in _spread(good, num_good)),
    ]


def _spread(rows: NDArray[np.int64], count: int) -> list[int]:
    """Return at most ``count`` of the rows, evenly spaced."""
    if len(rows) <= count:
        return [int(row) for row in rows]
    index = np.linspace(0, len(rows) - 1, count).round().astype(np.int64)
    return [int(row) for row in rows[index]]


def _shrink(image: RgbImage, factor: float) -> Picture:
    if factor >= 1.0:
        return image
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _pale(image: RgbImage) -> RgbImage:
    """Return the image half grey and a little darker, so that coloured marks stand out."""
    grey = image.mean(axis=2, keepdims=True)
    return np.asarray(0.8 * (0.5 * image + 0.5 * grey), dtype=np.uint8)


def _hue(angle: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((angle / (2.0 * math.pi)) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _fixed(xy: Point) -> tuple[int, int]:
    return round(xy[0] * 2**SUBPIXEL_BITS), round(xy[1] * 2**SUBPIXEL_BITS)


def _circle(
    picture: Picture,
    centre: Point,
    radius: float,
    color: tuple[int, int, int],
    thickness: int,
) -> None:
    fine = round(radius * 2**SUBPIXEL_BITS)
    cv2.circle(picture, _fixed(centre), fine, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _line(
    picture: Picture,
    start: Point,
    end: Point,
    color: tuple[int, int, int],
    thickness: int,
) -> None:
    cv2.line(picture, _fixed(start), _fixed(end), color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
