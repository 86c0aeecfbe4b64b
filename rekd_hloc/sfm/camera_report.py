"""Each camera for the report: what its focal length started from, and what became of it."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import CameraOptions, is_possible_focal
from rekd_hloc.sfm.image_headers import ImageHeader, Size, read_headers
from rekd_hloc.sfm.pycolmap_compat import pycolmap

MAX_CHANGE = 0.25
"""Share by which a refined focal length may differ from EXIF's, or a guess, without a word."""
MAX_VIEW_DEG = 100.0
"""Along the longer side; wider lenses are fisheyes more often than not."""
WIDE_MODELS = ("FISHEYE", "FOV", "EUCM", "DIVISION", "EQUIRECTANGULAR")
"""Parts of the names of camera models that are made for wide lenses."""
WIDE_CAMERAS = re.compile(
    r"gopro|\bhero ?\d|insta ?360|theta|gear 360|osmo action|virb|fisheye|samyang 8mm|360fly",
    re.IGNORECASE,
)
"""Names of cameras whose lenses are fisheyes, or of which a picture is a whole panorama."""
SOURCES = {
    "intrinsics": "from the intrinsics",
    "guess": "the guess",
    "exif": "from EXIF",
    "default": "the default",
}
"""Where focal lengths come from, in words."""


@dataclass(frozen=True)
class CameraSummary:
    """Describe one camera of a database.

    Attributes:
        model: COLMAP's name of it.
        size: of its images in pixels, width and height.
        name: make and model in EXIF; empty if unknown.
        example: the first of its images.
        num_images: that share it.
        num_registered: of them in the largest model.
        source: what the focal length started from: ``intrinsics``, ``guess``, ``exif`` or
            ``default``.
        start_focal_px: that focal length in pixels; None for a model without one.
        refined_focal_px: the focal length in the largest model; None if it has no such image.
        refused_focal_px: what EXIF says and was not used, because it cannot be; None otherwise.
    """

    model: str
    size: Size
    name: str
    example: str
    num_images: int
    num_registered: int
    source: str
    start_focal_px: float | None
    refined_focal_px: float | None
    refused_focal_px: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON holds them."""
        return {**asdict(self), "size": list(self.size)}

    @property
    def is_wide(self) -> bool:
        """Say whether the camera model is made for wide lenses."""
        return _is_for_wide_lenses(self.model)

    @property
    def field_of_view_deg(self) -> float | None:
        """Return the angle that the longer side sees, before distortion, at the start."""
        if not self.start_focal_px:
            return None
        half = max(self.size) / 2 / self.start_focal_px
        angle = min(half, math.pi) if compat.is_fisheye(self.model) else math.atan(half)
        return math.degrees(2 * angle)


def describe_cameras(
    database_path: Path, image_dir: Path, options: CameraOptions, models: Sequence[Any]
) -> list[CameraSummary]:
    """Return the cameras of a database in the order of their numbers.

    Args:
        database_path: with cameras and images, as they were before the mapping.
        image_dir: of the images.
        options: that the cameras were made with.
        models: of the mapping, largest first; may be empty.
    """
    with compat.quiet(), pycolmap.Database.open(str(database_path)) as database:
        cameras = sorted(database.read_all_cameras(), key=lambda camera: camera.camera_id)
        members: dict[int, list[str]] = defaultdict(list)
        for image in sorted(database.read_all_images(), key=lambda image: image.name):
            members[image.camera_id].append(image.name)
    used = {camera.camera_id: members[camera.camera_id] for camera in cameras}
    headers = read_headers(image_dir, [names[0] for names in used.values() if names])
    refined, registered = _refined(models)
    return [
        _summarise(camera, names, headers.get(names[0]), options, refined, registered)
        for camera in cameras
        if (names := used[camera.camera_id])
    ]


def describe_focals(cameras: Sequence[CameraSummary]) -> str:
    """Return where the focal lengths started, and what to do if that is wrong; for the diagnosis of
    a run that gave no model, or a small one.
    """
    groups: dict[str, list[CameraSummary]] = defaultdict(list)
    for camera in cameras:
        if camera.start_focal_px is not None:
            groups[camera.source].append(camera)
    parts = [_describe_group(source, group) for source, group in groups.items()]
    refused = [camera for camera in cameras if camera.refused_focal_px is not None]
    if refused:
        count = sum(camera.num_images for camera in refused)
        parts.append(
            f"EXIF's focal length was not used for {count} images, such as "
            f"{refused[0].refused_focal_px:.0f} px for {refused[0].example}."
        )
    remedies = _list_remedies(cameras, groups)
    return " ".join([*parts, *remedies])


def describe_odd_focals(cameras: Sequence[Mapping[str, Any]]) -> str:
    """Return a line about refined focal lengths that are far from where they started, or that mean
    a wider lens than the camera model is made for; empty if there is none. The cameras are those
    of ``report.json``.
    """
    refined = [camera for camera in cameras if camera["refined_focal_px"]]
    changed = [camera for camera in refined if _change(camera) > MAX_CHANGE]
    notes = []
    if changed:
        worst = max(changed, key=_change)
        is_exif = worst["source"] == "exif"
        notes.append(
            f"{len(changed)} of {len(cameras)} cameras ended more than {MAX_CHANGE:.0%} from where "
            f"they started: {worst['refined_focal_px']:.0f} px for {worst['example']}, "
            f"{worst['start_focal_px']:.0f} px by {'EXIF' if is_exif else 'the guess'}; if the "
            f"model is bent, try {'--ignore-exif or --focal-guess' if is_exif else 'another guess'}"
        )
    wide = [camera for camera in refined if _is_too_wide(camera)]
    if wide:
        notes.append(
            f"{len(wide)} of {len(cameras)} cameras see more than {MAX_VIEW_DEG:.0f} degrees: if "
            f"the model is bent, --camera-model OPENCV_FISHEYE fits better than {wide[0]['model']}"
        )
    return "; ".join(notes)


def _change(camera: Mapping[str, Any]) -> float:
    """Return the share by which a focal length changed that was known before, more or less."""
    if camera["source"] not in ("exif", "guess"):
        return 0.0
    return float(abs(camera["refined_focal_px"] / camera["start_focal_px"] - 1))


def _is_too_wide(camera: Mapping[str, Any]) -> bool:
    if camera["source"] == "intrinsics" or _is_for_wide_lenses(camera["model"]):
        return False
    half = max(camera["size"]) / 2 / camera["refined_focal_px"]
    return math.degrees(2 * math.atan(half)) > MAX_VIEW_DEG


def _is_for_wide_lenses(model: str) -> bool:
    return any(part in model for part in WIDE_MODELS)


def _describe_group(source: str, cameras: Sequence[CameraSummary]) -> str:
    count = sum(camera.num_images for camera in cameras)
    focals = [camera.start_focal_px or 0.0 for camera in cameras]
    angles = [camera.field_of_view_deg or 0.0 for camera in cameras]
    return (
        f"The focal length of {count} images started at {_range(focals)} px, a field of view of "
        f"{_range(angles)} degrees, {SOURCES[source]}."
    )


def _list_remedies(cameras: Sequence[CameraSummary], sources: Collection[str]) -> list[str]:
    """Return sentences that name the options, most likely ones first."""
    remedies = []
    wide = [c for c in cameras if WIDE_CAMERAS.search(c.name) and not c.is_wide]
    if wide:
        remedies.append(
            f"EXIF names {wide[0].name}, a camera with a fisheye: use "
            "--camera-model OPENCV_FISHEYE."
        )
    if any(c.size[0] == 2 * c.size[1] for c in cameras):
        remedies.append("Images twice as wide as high look like panoramas: cut them into views.")
    if "intrinsics" in sources:
        remedies.append("If that is wrong, correct the intrinsics, or leave them out.")
        return remedies
    ignore = "--ignore-exif, " if "exif" in sources else ""
    remedies.append(
        f"If that is wrong, use {ignore}--focal-guess, or --intrinsics if they are known."
    )
    if cameras and not wide and not all(c.is_wide for c in cameras):
        remedies.append(
            f"If the lens is wide or a fisheye, {cameras[0].model} does not fit it: use "
            "--camera-model OPENCV_FISHEYE."
        )
    return remedies


def _summarise(
    camera: Any,
    names: Sequence[str],
    header: ImageHeader | None,
    options: CameraOptions,
    refined: Mapping[int, float],
    registered: Collection[str],
) -> CameraSummary:
    size = (int(camera.width), int(camera.height))
    has_focal = len(camera.focal_length_idxs()) > 0
    source = _source(camera, options)
    refused = None
    if header is not None and source == "default" and not options.ignore_exif:
        exif = header.focal_px
        unusable = exif is not None and (header.is_cropped or not is_possible_focal(exif, size))
        refused = exif if unusable else None
    return CameraSummary(
        model=camera.model.name,
        size=size,
        name=header.camera_name if header is not None else "",
        example=names[0],
        num_images=len(names),
        num_registered=sum(name in registered for name in names),
        source=source,
        start_focal_px=float(camera.mean_focal_length()) if has_focal else None,
        refined_focal_px=refined.get(camera.camera_id),
        refused_focal_px=refused,
    )


def _source(camera: Any, options: CameraOptions) -> str:
    if options.intrinsics is not None:
        return "intrinsics"
    if options.focal_guess is not None:
        return "guess"
    size = (int(camera.width), int(camera.height))
    focal = compat.default_focal(camera.model.name, size)
    is_default = len(camera.focal_length_idxs()) and camera.mean_focal_length() == focal
    return "exif" if camera.has_prior_focal_length and not is_default else "default"


def _refined(models: Sequence[Any]) -> tuple[dict[int, float], set[str]]:
    """Return the focal lengths of the largest model by camera, and the names of its images."""
    if not models:
        return {}, set()
    images = [models[0].images[image_id] for image_id in models[0].reg_image_ids()]
    cameras = {image.camera_id: models[0].cameras[image.camera_id] for image in images}
    focals = {
        camera_id: float(camera.mean_focal_length())
        for camera_id, camera in cameras.items()
        if len(camera.focal_length_idxs())
    }
    return focals, {image.name for image in images}


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"
