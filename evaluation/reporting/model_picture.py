"""A picture of a 3-D model: two of its images beside its points and its cameras.

``python -m evaluation.reporting.model_picture DEMO docs/figures/model.jpg`` draws the picture that
the README shows from the folder that ``rekd-hloc demo DEMO`` wrote. Every point has the colour that
COLMAP gave it, and every camera carries the image that it took, rolled as it was taken.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.demo import DEMO_REFERENCE
from rekd_hloc.files import write_bytes
from rekd_hloc.sfm.alignment import align_to_reference, read_reference
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

BACKGROUND = (255, 255, 255)
FRAME = (150, 92, 37)
"""Colour of the frusta, BGR."""
SUPERSAMPLING = 2
PANEL_PX = (1100, 620)
"""Width and height of the model's panel."""
IMAGE_PX = (400, 300)
GAP_PX = 20
MAX_ERROR_PX = 2.0
"""Points with a larger reprojection error are left out."""
MIN_TRACK = 3
POINT_M = 0.052
"""Radius of a drawn point."""
EYE, TARGET, UP = np.array((-4.0, -18.5, 8.6)), np.array((0.3, 0.0, 2.1)), np.array((0.0, 0.0, 1.0))
"""The viewer, in metres of the demo's reference frame, whose z axis points up."""
FOCAL_PER_WIDTH = 1.0
FRUSTUM_M = 0.95
"""Depth of a drawn frustum."""
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Viewer:
    """A pinhole camera that looks at the model."""

    rotation: Array
    centre: Array
    focal_px: float
    size: tuple[int, int]

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixels and depths of points of shape (point, 3)."""
        local = (points - self.centre) @ self.rotation.T
        depth = local[:, 2]
        return self.focal_px * local[:, :2] / depth[:, None] + np.array(self.size) / 2, depth


def draw_model(folder: Path, reference: Path = DEMO_REFERENCE) -> Picture:
    """Return the model of a demo's folder, seen in the frame of its reference.

    Args:
        folder: what ``rekd-hloc demo`` wrote: ``sparse/0`` and ``images``.
        reference: true poses, which say where up is.

    Raises:
        FileNotFoundError: there is no model or no image.
        ValueError: fewer than three cameras of the model have a true pose.
    """
    model = read_reconstruction(folder / "sparse" / "0")
    true_from_model = align_to_reference(model, read_reference(reference)).reference_from_model
    viewer = _make_viewer()
    canvas = np.full((viewer.size[1], viewer.size[0], 3), BACKGROUND, np.uint8)
    _draw_points(canvas, viewer, model, true_from_model)
    _draw_cameras(canvas, viewer, model, true_from_model, folder / "images")
    return cv2.resize(canvas, PANEL_PX, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def compose(folder: Path, names: Sequence[str]) -> Picture:
    """Return images one above the other on the left, the model on the right."""
    panel = draw_model(folder)
    column = [
        cv2.resize(_read(folder / "images" / n), IMAGE_PX, interpolation=cv2.INTER_AREA)
        for n in names
    ]
    height = max(PANEL_PX[1], len(column) * IMAGE_PX[1] + (len(column) - 1) * GAP_PX)
    picture = np.full((height, IMAGE_PX[0] + GAP_PX + PANEL_PX[0], 3), BACKGROUND, np.uint8)
    for row, image in enumerate(column):
        top = row * (IMAGE_PX[1] + GAP_PX)
        picture[top : top + IMAGE_PX[1], : IMAGE_PX[0]] = image
    picture[: PANEL_PX[1], IMAGE_PX[0] + GAP_PX :] = panel
    return picture


def _make_viewer() -> Viewer:
    forward = (TARGET - EYE) / np.linalg.norm(TARGET - EYE)
    right = np.cross(forward, UP)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    size = (PANEL_PX[0] * SUPERSAMPLING, PANEL_PX[1] * SUPERSAMPLING)
    return Viewer(rotation, EYE, FOCAL_PER_WIDTH * size[0], size)


def _draw_points(canvas: Picture, viewer: Viewer, model: Any, true_from_model: Any) -> None:
    """Far points first; near ones are larger."""
    points = [
        p
        for p in model.points3D.values()
        if p.error < MAX_ERROR_PX and p.track.length() >= MIN_TRACK
    ]
    xyz = true_from_model.apply(np.array([p.xyz for p in points]))
    colours = np.array([p.color for p in points])
    xy, depth = viewer.project(xyz)
    for k in np.argsort(-depth):
        radius = POINT_M * viewer.focal_px / depth[k]
        red, green, blue = (int(c) for c in colours[k])
        centre = (int(16 * xy[k, 0]), int(16 * xy[k, 1]))
        cv2.circle(canvas, centre, int(16 * radius), (blue, green, red), -1, cv2.LINE_AA, 4)


def _draw_cameras(
    canvas: Picture, viewer: Viewer, model: Any, true_from_model: Any, images: Path
) -> None:
    """Each frustum with its image on the far plane, the farthest camera first."""
    drawn = []
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        camera = model.cameras[image.camera_id]
        corners = _frustum(image, camera, true_from_model)
        xy, depth = viewer.project(corners)
        drawn.append((float(depth.mean()), xy, image.name))
    for _, xy, name in sorted(drawn, key=lambda item: -item[0]):
        _paste(canvas, _read(images / name), xy[1:])
        outline = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)]
        for a, b in outline:
            start, end = (tuple(int(16 * v) for v in xy[k]) for k in (a, b))
            cv2.line(canvas, start, end, FRAME, 3, cv2.LINE_AA, 4)


def _frustum(image: Any, camera: Any, true_from_model: Any) -> Array:
    """Return the centre and the four corners of the far plane, in the frame of the reference."""
    width, height = camera.width, camera.height
    focal = camera.mean_focal_length()
    half = FRUSTUM_M * np.array((width, height)) / (2 * focal)
    signs = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)))
    local = np.concatenate([np.zeros((1, 3)), np.c_[signs * half, np.full(4, FRUSTUM_M)]])
    rotation = np.asarray(image.cam_from_world().rotation.matrix())
    in_model = local / true_from_model.scale @ rotation + image.projection_center()
    moved: Array = true_from_model.apply(in_model)
    return moved


def _paste(canvas: Picture, image: Picture, corners: Array) -> None:
    """Warp an image so that its corners lie on four points of the canvas."""
    height, width = image.shape[:2]
    source = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float32)
    warp = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    size = (canvas.shape[1], canvas.shape[0])
    # the image is far larger than its quadrilateral: blur it first, or the warp would alias
    side = float(np.linalg.norm(corners[1] - corners[0]))
    soft = cv2.GaussianBlur(image, (0, 0), max(0.4 * width / max(side, 1.0), 0.3))
    warped = cv2.warpPerspective(soft, warp, size, flags=cv2.INTER_LINEAR)
    mask = cv2.fillConvexPoly(np.zeros(size[::-1], np.uint8), corners.astype(np.int32), 255)
    canvas[mask > 0] = warped[mask > 0]


def _read(path: Path) -> Picture:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"no readable image {path}")
    return np.asarray(image, np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the program; returns its exit status."""
    parser = make_parser("evaluation.reporting.model_picture", __doc__)
    parser.add_argument("demo", type=Path, help="folder that rekd-hloc demo wrote")
    parser.add_argument("out", type=Path, help="picture to write, .jpg or .png")
    parser.add_argument("--images", nargs=2, default=("view_01.jpg", "view_06.jpg"))
    options = parser.parse_args(argv)

    def work() -> None:
        picture = compose(options.demo, options.images)
        jpeg = options.out.suffix in (".jpg", ".jpeg")
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if jpeg else []
        write_bytes(options.out, cv2.imencode(options.out.suffix, picture, quality)[1].tobytes())

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
