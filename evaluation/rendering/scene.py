"""The demo scene: a rendered courtyard under changing light, seen by rolled cameras of known pose.

Everything is a function of the seed. The cameras stand on an arc, neighbours about 12 degrees
apart, each turned about its optical axis by any angle; exposure, white balance, contrast, sun and
noise differ from picture to picture. Intrinsics and poses are exact and written as a COLMAP model.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.command_line import exit_status, make_parser
from evaluation.rendering.courtyard import CENTRE, build_courtyard
from evaluation.rendering.raycast import Camera, render
from evaluation.rendering.sensor import Light, draw_light, expose
from evaluation.rendering.surfaces import UP, Vector
from rekd_hloc.files import beside, replace_folder
from rekd_hloc.images import write_image
from rekd_hloc.sfm.pycolmap_compat import pycolmap

STEP_DEG = 11.5
"""Angle at the scene's centre between neighbouring cameras."""
MAX_ARC_DEG = 132.0
"""Cameras farther round would stand behind the houses' ends."""
DISTANCE_M = 9.3
FOCAL_PER_WIDTH = 0.95
CAMERA_MODEL = "PINHOLE"
DESCRIPTION = "cameras.json"


@dataclass(frozen=True, eq=False)
class View:
    """One picture to take.

    Attributes:
        name: of the image file.
        camera: where from.
        roll_deg: turn of the camera about its optical axis, 0..360; the picture's content turns the
            other way.
        light: under which conditions.
    """

    name: str
    camera: Camera
    roll_deg: float
    light: Light


def render_scene(
    out: Path,
    *,
    num_views: int = 12,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Render the scene and write its pictures and true poses.

    Args:
        out: folder to make: ``images/view_00.png`` ..., ``reference/`` (a COLMAP model without
            points), ``cameras.json``. It appears whole or not at all, in place of an older scene.
        num_views: at least 1.
        size: (width, height) of the pictures in pixels.
        seed: not negative; same seed, same files.
        progress: show a bar on stderr.

    Returns:
        ``out``.

    Raises:
        ValueError: no views, an empty size or a negative seed, or ``out`` is a folder of something
            else.
        OSError: a file cannot be written.
    """
    if num_views < 1 or min(size) < 1:
        raise ValueError(f"a scene needs at least 1 view of 1 x 1 px, got {num_views} of {size}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise ValueError(f"{out} holds something that is no rendered scene; choose another folder")
    scratch = beside(out, ".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    views = plan_views(num_views, size, seed)
    world = build_courtyard(np.random.default_rng((seed, 0)))
    for index, view in enumerate(tqdm(views, "render", disable=None if progress else True)):
        radiance = render(world, view.camera, sun=view.light.sun, ambient=view.light.ambient)
        image = expose(radiance, view.light, np.random.default_rng((seed, 2, index)))
        write_image(scratch / "images" / view.name, image)
    write_reference(views, scratch / "reference")
    (scratch / DESCRIPTION).write_text(json.dumps(_describe(views, seed), indent=1))
    replace_folder(out, scratch)
    return out


def plan_views(num_views: int, size: tuple[int, int], seed: int) -> list[View]:
    """Cameras and light of all pictures; rolls cover the circle evenly, in random order."""
    rng = np.random.default_rng((seed, 1))
    step = min(STEP_DEG, MAX_ARC_DEG / max(num_views - 1, 1))
    rolls = 360.0 * (rng.permutation(num_views) + rng.random(num_views)) / num_views
    views = []
    for k in range(num_views):
        azimuth = np.radians(step * (k - (num_views - 1) / 2) + rng.uniform(-0.05, 0.05) * step)
        distance = DISTANCE_M * rng.uniform(0.93, 1.07)
        centre = CENTRE + distance * np.array((np.sin(azimuth), -np.cos(azimuth), 0.0))
        centre[2] = rng.uniform(1.6, 3.8)
        target = CENTRE + rng.uniform(-0.5, 0.5, 3)
        camera = Camera(
            rotation=look_at(centre, target, float(rolls[k])),
            centre=centre,
            focal_px=FOCAL_PER_WIDTH * max(size),
            principal_px=(size[0] / 2, size[1] / 2),
            size=size,
        )
        views.append(View(f"view_{k:02d}.png", camera, float(rolls[k]), draw_light(rng)))
    return views


def look_at(centre: Vector, target: Vector, roll_deg: float) -> Vector:
    """cam_from_world rotation of a camera that looks at a point, rolled about its axis."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, UP)
    right /= np.linalg.norm(right)
    level = np.stack([right, np.cross(forward, right), forward])
    cos, sin = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    return np.asarray(np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ level)


def write_reference(views: list[View], folder: Path) -> None:
    """A COLMAP model in text form with the true camera and poses, and no points."""
    first = views[0].camera
    params = (first.focal_px, first.focal_px, *first.principal_px)
    lines = []
    for index, view in enumerate(views, start=1):
        rotation = view.camera.rotation
        x, y, z, w = pycolmap.Rotation3d(rotation).quat.tolist()
        pose = (w, x, y, z, *(-rotation @ view.camera.centre).tolist())
        lines += [f"{index} {' '.join(map(repr, pose))} 1 {view.name}", ""]
    folder.mkdir(parents=True, exist_ok=True)
    camera = f"1 {CAMERA_MODEL} {first.size[0]} {first.size[1]} {' '.join(map(repr, params))}"
    (folder / "cameras.txt").write_text(camera + "\n", encoding="utf-8")
    (folder / "images.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "points3D.txt").write_text("", encoding="utf-8")


def _describe(views: list[View], seed: int) -> dict[str, object]:
    first = views[0].camera
    return {
        "seed": seed,
        "camera": {
            "model": CAMERA_MODEL,
            "width": first.size[0],
            "height": first.size[1],
            "params": [first.focal_px, first.focal_px, *first.principal_px],
        },
        "views": [
            {
                "name": view.name,
                "roll_deg": view.roll_deg,
                "cam_from_world_rotation": view.camera.rotation.tolist(),
                "centre": view.camera.centre.tolist(),
                "light": asdict(view.light),
            }
            for view in views
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    parser = make_parser("evaluation.rendering.scene", __doc__)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--num-views", type=int, default=12, metavar="N")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    def work() -> None:
        render_scene(
            options.out,
            num_views=options.num_views,
            size=tuple(options.size),
            seed=options.seed,
            progress=True,
        )

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
