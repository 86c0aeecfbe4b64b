"""Bundler's form of a model: ``bundle.out`` and the list of its photos.

Cameras look along -z with y up, the origin of an image is its centre, and radial distortion is all
that it has.
"""

from pathlib import Path
from typing import Any

import numpy as np

from rekd_hloc.exports.scene_arrays import FLIP, cam_from_world, camera_parameters, read_images
from rekd_hloc.files import write_text

BUNDLE, LIST = "bundle.out", "list.txt"
HEADER = "# Bundle file v0.3"
MODELS = frozenset(("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL"))
SAME_FOCAL = 1e-3
"""Largest difference of both focal lengths that is taken for none, as a share."""
ADVICE = "export with --to undistorted, and then the model in its folder"


def write_bundler(model: Any, folder: Path, images: Path | None) -> None:
    """Write the model and its list of photos.

    Raises:
        ValueError: a camera has more than a focal length and radial distortion.
    """
    shown = read_images(model)
    rows = {image.image_id: row for row, image in enumerate(shown)}
    ids = sorted(model.point3D_ids())
    lines = [HEADER, f"{len(shown)} {len(ids)}"]
    for image in shown:
        lines += _describe_image(image, model.cameras[image.camera_id])
    for point_id in ids:
        lines += _describe_point(model, model.points3D[point_id], rows)
    write_text(folder / BUNDLE, "\n".join(lines) + "\n")
    write_text(folder / LIST, "".join(f"{image.name}\n" for image in shown))


def _describe_image(image: Any, camera: Any) -> list[str]:
    values = camera_parameters(camera)
    if camera.model.name not in MODELS:
        raise ValueError(f"Bundler has no camera model {camera.model.name}; {ADVICE}")
    if abs(values["fx"] - values["fy"]) > SAME_FOCAL * values["fx"]:
        raise ValueError(f"Bundler has one focal length, {image.name!r} has two; {ADVICE}")
    pose = (FLIP @ cam_from_world(image))[:3]
    focal = (values["fx"] + values["fy"]) / 2
    head = (focal, values.get("k1", 0.0), values.get("k2", 0.0))
    return [_join(row) for row in (head, *pose[:, :3], pose[:, 3])]


def _describe_point(model: Any, point: Any, rows: dict[int, int]) -> list[str]:
    views = []
    for element in point.track.elements:
        image = model.images[element.image_id]
        camera = model.cameras[image.camera_id]
        x, y = image.points2D[element.point2D_idx].xy
        place = _join((x - camera.principal_point_x, camera.principal_point_y - y))
        views.append(f"{rows[element.image_id]} {element.point2D_idx} {place}")
    return [
        _join(point.xyz),
        " ".join(str(int(value)) for value in point.color),
        " ".join([str(len(views)), *views]),
    ]


def _join(values: Any) -> str:
    return " ".join(format(float(value), ".17g") for value in np.asarray(values))
