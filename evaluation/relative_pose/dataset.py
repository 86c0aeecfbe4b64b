"""Image pairs with true relative poses: what every pose evaluation measures on.

IMC scenes, COLMAP models and lists of pairs all become a :class:`PairSet`.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from jaxtyping import Float64

from evaluation.metrics.pose import RelativePose, relative_pose
from evaluation.rotated_images import canvas_from_image, rotate_image
from rekd_hloc.geometry import rotation_about
from rekd_hloc.images import read_color, write_image
from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.types import Pair

Matrix = Float64[np.ndarray, "3 3"]
CORNER_PX = 0.5
"""COLMAP's K, and so the benchmark's, counts from the corner of the first pixel, this project from
its centre."""


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated image: ``x_camera = R X + T``, pixel = K x_camera.

    It holds the numbers of a calibration file as they are. ``pycolmap.Rigid3d`` would round R to a
    quaternion and has no intrinsics; :class:`rekd_hloc.sfm.alignment.Pose` has the camera's centre
    in place of T, which comparisons after a similarity need.

    Attributes:
        K: intrinsics in pixels whose (0, 0) is the centre of the first pixel.
        R: rotation from the world to the camera.
        T: translation from the world to the camera, in the scene's unit.
    """

    K: Float64[np.ndarray, "3 3"]
    R: Float64[np.ndarray, "3 3"]
    T: Float64[np.ndarray, " 3"]

    @property
    def pose(self) -> Pose:
        """Return rotation and camera centre."""
        return Pose(self.R, -self.R.T @ self.T)


@dataclass(frozen=True, eq=False)
class PosePair:
    """Two images, their intrinsics, and the true ``x_b = rotation @ x_a + translation``.

    Attributes:
        a: name of the first image.
        b: name of the second image.
        K_a: intrinsics of image a in pixels; (0, 0) is the centre of the first pixel.
        K_b: intrinsics of image b.
        rotation: from the frame of camera a to that of camera b.
        translation: likewise, of any length.
    """

    a: str
    b: str
    K_a: Matrix
    K_b: Matrix
    rotation: Matrix
    translation: Float64[np.ndarray, " 3"]

    @classmethod
    def from_cameras(cls, pair: Pair, cameras: Mapping[str, Camera]) -> Self:
        """Make the pair of two calibrated images."""
        a, b = (cameras[name] for name in pair)
        rotation, translation = relative_pose(a.R, a.T, b.R, b.T)
        return cls(pair[0], pair[1], a.K, b.K, rotation, translation)

    @property
    def pose(self) -> RelativePose:
        """Return the true pose."""
        return self.rotation, self.translation

    @property
    def names(self) -> Pair:
        """Return both images."""
        return self.a, self.b

    @property
    def is_for_tuning(self) -> bool:
        """Whether settings may be chosen on it; a coin tossed by the names, whatever their order.

        Metrics of chosen settings are reported on the other pairs.
        """
        text = "\n".join(sorted(self.names))
        return hashlib.sha256(text.encode()).digest()[0] % 2 == 0

    def digest(self) -> str:
        """Return a hash that changes with the names, the intrinsics and the true pose."""
        arrays = (self.K_a, self.K_b, self.rotation, self.translation)
        data = b"".join(np.round(array, 9).astype(np.float64).tobytes() for array in arrays)
        return hashlib.sha256("\n".join(self.names).encode() + data).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of one scene, and the files of their images.

    Attributes:
        key: of the scene, such as ``phototourism/reichstag``.
        images: path of each image by its name.
        pairs: to estimate the poses of.
        masks: of images that are valid in part only, 255 where they are.
    """

    key: str
    images: Mapping[str, Path]
    pairs: Sequence[PosePair]
    masks: Mapping[str, Path] = field(default_factory=dict)

    def limit(self, count: int | None) -> Self:
        """Keep so many pairs at most, the same ones for the same names; all for None."""
        if count is None or count >= len(self.pairs):
            return self
        chosen = sorted(self.pairs, key=lambda p: hashlib.sha256(repr(p.names).encode()).digest())
        return replace(self, pairs=chosen[:count])

    def used_images(self) -> dict[str, Path]:
        """Return the images of the pairs."""
        wanted = {name for pair in self.pairs for name in pair.names}
        return {name: path for name, path in self.images.items() if name in wanted}


def all_pairs(names: Iterable[str]) -> list[Pair]:
    """Return every pair of images; as officially, the name that sorts last comes first."""
    return [(b, a) for a, b in itertools.combinations(sorted(names), 2)]


def rotate_camera(camera: Camera, size: tuple[int, int], angle_deg: float) -> Camera:
    """Return the camera of an image of (width, height) that was rotated clockwise on its canvas.

    To rotate an image is to roll its camera. With A from
    :func:`evaluation.rotated_images.canvas_from_image` and Z the roll about the optical axis,
    ``R' = Z R``, ``T' = Z T`` and ``K' = A K Z^-1``, so that ``K' (R' X + T') = A K (R X + T)``.
    """
    canvas, _ = canvas_from_image(size, angle_deg)
    roll = rotation_about(float(np.radians(angle_deg)), (0.0, 0.0)).numpy()
    return Camera(canvas @ camera.K @ roll.T, roll @ camera.R, roll @ camera.T)


def rotate_image_file(path: Path, angle_deg: float, image_out: Path, mask_out: Path) -> None:
    """Write an image rotated clockwise on a canvas, and the mask of its pixels.

    Outside the image the canvas repeats the edge: black would make corners that no image has.
    """
    image = read_color(path)
    height, width = image.shape[:2]
    matrix, size = canvas_from_image((width, height), angle_deg)
    canvas = cv2.warpAffine(
        image, matrix[:2], size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    _, mask = rotate_image(image, angle_deg)
    write_image(mask_out, mask)
    write_image(image_out, np.asarray(canvas, dtype=np.uint8))
