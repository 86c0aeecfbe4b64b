"""The cameras and images of a COLMAP database.

COLMAP reads what it can from the files itself: size, focal length in EXIF, who shares a camera.
:mod:`rekd_hloc.sfm.focals` corrects what cannot be true. An image that COLMAP cannot read gets a
camera of the size of its features, and so does every image if the intrinsics are known.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.image_headers import ImageHeader, Size, read_headers
from rekd_hloc.sfm.intrinsics import FittedIntrinsics, describe_fit, fit_intrinsics, parameter_names
from rekd_hloc.sfm.pycolmap_compat import pycolmap

logger = logging.getLogger(__name__)

CAMERA_MODES = {
    "auto": "AUTO",
    "single": "SINGLE",
    "per_folder": "PER_FOLDER",
    "per_image": "PER_IMAGE",
}
MIN_FOCAL_RATIO, MAX_FOCAL_RATIO = 0.1, 10.0
"""Focal length over longer side; COLMAP's mapper throws away images with a focal length beyond."""


@dataclass(frozen=True)
class CameraOptions:
    """What is known of the cameras.

    Attributes:
        camera_model: COLMAP's name of it.
        camera_mode: ``auto``, ``single``, ``per_folder`` or ``per_image``.
        intrinsics: known parameters of the camera model, which are kept as they are; images of the
            same camera that are rotated by 90 degrees or scaled get theirs from them.
        focal_guess: focal length to start from, in pixels if above 10, else as a factor of the
            longer side. It goes before EXIF and is refined.
        ignore_exif: start from the default, 1.2 times the longer side, or 0.5 for fisheye models,
            whatever EXIF says.

    Raises:
        ValueError: an option that COLMAP does not know or cannot take.
    """

    camera_model: str = "SIMPLE_RADIAL"
    camera_mode: str = "auto"
    intrinsics: Sequence[float] | None = None
    focal_guess: float | None = None
    ignore_exif: bool = False

    def __post_init__(self) -> None:
        check_camera(self.camera_model, self.camera_mode, self.intrinsics)
        guess = self.focal_guess
        if guess is None:
            return
        if self.intrinsics is not None:
            raise ValueError("focal_guess and intrinsics contradict each other; give one of them")
        if not (math.isfinite(guess) and guess >= MIN_FOCAL_RATIO):
            raise ValueError(
                f"focal_guess must be pixels above {MAX_FOCAL_RATIO:g}, or a factor of the longer "
                f"side from {MIN_FOCAL_RATIO:g} to {MAX_FOCAL_RATIO:g}, got {guess}"
            )

    @property
    def cameras(self) -> "CameraOptions":
        """Return the options of cameras alone."""
        return CameraOptions(**{f.name: getattr(self, f.name) for f in fields(CameraOptions)})

    def guess_px(self, size: Size) -> float | None:
        """Return the guessed focal length in pixels of an image; None without a guess."""
        if self.focal_guess is None or self.focal_guess > MAX_FOCAL_RATIO:
            return self.focal_guess
        return self.focal_guess * max(size)


@dataclass(frozen=True)
class CameraPlan:
    """Hold what the cameras of a set of images are made from.

    Attributes:
        options: how.
        headers: of the images; without EXIF where only the features know the size.
        fitted: the intrinsics of each image; empty if they are not known.
    """

    options: CameraOptions
    headers: Mapping[str, ImageHeader]
    fitted: Mapping[str, FittedIntrinsics]

    def warnings(self) -> list[str]:
        """Return one line for each assumption that a user should know of."""
        if not self.fitted or "cx" not in parameter_names(self.options.camera_model):
            return []
        sizes = {header.size for header in self.headers.values()}
        given = list(self.options.intrinsics or ())
        return describe_fit(self.options.camera_model, given, self.fitted, sizes)


def check_camera(model: str, mode: str, intrinsics: Sequence[float] | None) -> None:
    """Refuse a camera that COLMAP would refuse later, and less clearly.

    Raises:
        ValueError: unknown model or mode, or parameters of another number than the model has, or
            that are no numbers.
    """
    known = [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]
    if model not in known:
        raise ValueError(f"no camera model {model!r}; COLMAP has {', '.join(known)}")
    if mode not in CAMERA_MODES:
        raise ValueError(f"no camera mode {mode!r}; modes are {', '.join(CAMERA_MODES)}")
    if intrinsics is not None:
        camera = compat.make_camera(model, 1, 1, list(intrinsics))
        if not intrinsics or not camera.verify_params():
            raise ValueError(
                f"camera model {model} takes ({camera.params_info}), got {list(intrinsics)}"
            )
        focals = [intrinsics[index] for index in camera.focal_length_idxs()]
        if not all(map(math.isfinite, intrinsics)) or min(focals, default=1.0) <= 0:
            raise ValueError(
                f"intrinsics must be finite, and focal lengths above 0; got {list(intrinsics)} "
                f"for ({camera.params_info})"
            )


def plan_cameras(
    options: CameraOptions,
    image_dir: Path | None,
    names: Sequence[str],
    feature_sizes: Mapping[str, Size] | None = None,
) -> CameraPlan:
    """Find out from the headers of the images whether their cameras can be as the options say.

    Args:
        options: what is known of the cameras.
        image_dir: where the images are; None if there are none.
        names: of the images. Those of unknown size are left out of the plan.
        feature_sizes: width and height of images whose file is not there or not readable.

    Raises:
        ValueError: one camera for images of several sizes, intrinsics that fit an image neither
            rotated nor scaled, or a focal length that is not possible; the message names images.
    """
    headers = read_headers(image_dir, names)
    for name, size in (feature_sizes or {}).items():
        headers.setdefault(name, ImageHeader(size))
    _require_one_size(options.camera_mode, headers)
    fitted = {}
    if options.intrinsics is not None:
        fitted = fit_intrinsics(options.camera_model, options.intrinsics, headers)
    _require_possible_focals(options, headers, fitted)
    return CameraPlan(options, headers, fitted)


def is_possible_focal(focal: float, size: Size) -> bool:
    """Say whether COLMAP's mapper would keep an image with a focal length in pixels."""
    return bool(MIN_FOCAL_RATIO <= focal / max(size) <= MAX_FOCAL_RATIO)


def image_ids(database: Any) -> dict[str, int]:
    """Return the id of each image name in an open database."""
    return {image.name: int(image.image_id) for image in database.read_all_images()}


def import_images(
    database_path: Path, image_dir: Path | None, names: Sequence[str], options: CameraOptions
) -> None:
    """Let COLMAP add the images it can read, with their cameras, to a database made here.

    An image it cannot read is left out; so is every image if the intrinsics are known. See
    :class:`CameraWriter` for those.
    """
    with pycolmap.Database.open(str(database_path)):
        pass
    if options.intrinsics is not None:
        return
    if image_dir is None or not image_dir.is_dir() or not names:
        return
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = options.camera_model
    how = getattr(pycolmap.CameraMode, CAMERA_MODES[options.camera_mode])
    pycolmap.import_images(str(database_path), str(image_dir), how, list(names), reader)


class CameraWriter:
    """Adds images that COLMAP did not import to an open database, with cameras as planned."""

    def __init__(self, database: Any, plan: CameraPlan) -> None:
        self._database = database
        self._plan = plan
        self._known: dict[Any, int] = {}
        for image in database.read_all_images():
            self._known.setdefault(self._key(image.name), int(image.camera_id))

    def add(self, name: str, size: Size) -> int:
        """Add an image by its size (width, height), which the plan's goes before.

        Returns:
            The image's id.
        """
        header = self._plan.headers.get(name) or ImageHeader(size)
        key = self._key(name)
        if key not in self._known:
            self._known[key] = int(self._database.write_camera(self._make_camera(name, header)))
        return compat.add_image(self._database, name, self._known[key])

    def _make_camera(self, name: str, header: ImageHeader) -> Any:
        options, size = self._plan.options, header.size
        if name in self._plan.fitted:
            params = list(self._plan.fitted[name].params)
            return compat.make_camera(options.camera_model, *size, params)
        focal = options.guess_px(size)
        camera = compat.make_camera(options.camera_model, *size, [], focal)
        from_exif = None if options.ignore_exif or header.is_cropped else header.focal_px
        if focal is None and from_exif is not None and is_possible_focal(from_exif, size):
            camera = compat.make_camera(options.camera_model, *size, [], from_exif)
            camera.has_prior_focal_length = True
        return camera

    def _key(self, name: str) -> Any:
        """Return what the images that share a camera have in common."""
        mode, header = self._plan.options.camera_mode, self._plan.headers.get(name)
        if mode == "single":
            return ()
        if mode == "per_folder":
            return Path(name).parent
        if mode == "auto" and header is not None:
            if name in self._plan.fitted:
                return header.size, self._plan.fitted[name].params
            return header.camera_key or name
        return name


def check_size(database: Any, image_id: int, size: Size) -> None:
    """Refuse features that were not made at the size (width, height) of the image's camera.

    Raises:
        ValueError: the sizes differ; the message says why that can be.
    """
    image = database.read_image(image_id)
    camera = database.read_camera(image.camera_id)
    if (camera.width, camera.height) == size:
        return
    raise ValueError(
        f"image {image.name!r} is {camera.width}x{camera.height} for COLMAP, its features were "
        f"made at {size[0]}x{size[1]}; extract it again"
    )


def _require_one_size(mode: str, headers: Mapping[str, ImageHeader]) -> None:
    if mode not in ("single", "per_folder"):
        return
    groups: dict[Any, dict[Size, str]] = defaultdict(dict)
    for name, header in headers.items():
        group = groups["" if mode == "single" else Path(name).parent]
        group.setdefault(header.size, name)
        if len(group) > 1:
            (first, a), (second, b) = group.items()
            where = "" if mode == "single" else " in a folder"
            raise ValueError(
                f"camera mode {mode!r} needs images of one size{where}, but {a!r} is "
                f"{first[0]}x{first[1]} and {b!r} {second[0]}x{second[1]}; use the camera mode "
                "auto or per_image, or put images of each size into a folder and use per_folder"
            )


def _require_possible_focals(
    options: CameraOptions,
    headers: Mapping[str, ImageHeader],
    fitted: Mapping[str, FittedIntrinsics],
) -> None:
    names = parameter_names(options.camera_model)
    for name, header in headers.items():
        focal = options.guess_px(header.size)
        if name in fitted:
            params = dict(zip(names, fitted[name].params, strict=True))
            focal = params.get("f", params.get("fx"))
        if focal is not None and not is_possible_focal(focal, header.size):
            raise ValueError(
                f"a focal length of {focal:g} px is not possible for {name!r} of "
                f"{header.size[0]}x{header.size[1]} px: it must be from {MIN_FOCAL_RATIO:g} to "
                f"{MAX_FOCAL_RATIO:g} times the longer side; change focal_guess or intrinsics"
            )
