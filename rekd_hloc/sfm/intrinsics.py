"""Known intrinsics, carried over to images that are rotated by 90 degrees or scaled.

Intrinsics belong to one size. A camera that is held upright, or a program that makes photos
smaller, gives others. With COLMAP's coordinates, (0, 0) at the corner of the first pixel, a point
(x, y) of an image of height h lies at (h - y, x) after a rotation to the right. So fx and fy
change places, and the principal point and all vectors of the distortion rotate; what is radial
stays.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rekd_hloc.names import counted, list_names
from rekd_hloc.sfm.image_headers import ImageHeader, Size
from rekd_hloc.sfm.pycolmap_compat import pycolmap

RIGHT, LEFT = 1, -1
"""Rotations by 90 degrees, clockwise and counterclockwise as one sees the image."""
STORED_FROM_SHOWN = {6: LEFT, 8: RIGHT}
"""How EXIF's orientations were rotated from the upright image that they are shown as."""
MAX_SHIFT = 0.01
"""Of the longer side: as much may the centre be off where left or right is not known."""
MAX_OFFSET = 0.1
"""Of width or height: a principal point farther off the centre is that of another size, or of
cropped images."""
ROUNDING_PX = 1.0
"""By which a side of an image that was scaled may differ."""


@dataclass(frozen=True)
class FittedIntrinsics:
    """Parameters for one image, and how they came from those that were given."""

    params: tuple[float, ...]
    change: str = ""
    """Empty, ``rotated``, ``scaled``, or ``rotated and scaled``."""
    is_approximate: bool = False
    """The direction of the rotation is not known, and the centre stands for both."""


def parameter_names(model: str) -> list[str]:
    """Return the names of a camera model's parameters, in COLMAP's order."""
    return [name.strip() for name in pycolmap.Camera({"model": model}).params_info.split(",")]


def rotate_parameters(
    model: str, params: Sequence[float], size: Size, direction: int | None
) -> tuple[float, ...]:
    """Return the parameters of an image after a rotation of its pixels by 90 degrees.

    Args:
        model: COLMAP's name of the camera model.
        params: of the image before.
        size: width and height of the image before.
        direction: ``RIGHT`` or ``LEFT``; the mean of both where it is not known.
    """
    if direction is None:
        both = (rotate_parameters(model, params, size, way) for way in (RIGHT, LEFT))
        return tuple((a + b) / 2 for a, b in zip(*both, strict=True))
    names = parameter_names(model)
    old = dict(zip(names, params, strict=True))
    new = dict(old)
    if "fx" in old:
        new["fx"], new["fy"] = old["fy"], old["fx"]
    if "cx" in old:
        width, height = size
        x, y = old["cx"] - width / 2, old["cy"] - height / 2
        new["cx"], new["cy"] = height / 2 - direction * y, width / 2 + direction * x
    for along_x, along_y in _vectors(names):
        new[along_x], new[along_y] = -direction * old[along_y], direction * old[along_x]
    return tuple(new[name] for name in names)


def scale_parameters(
    model: str, params: Sequence[float], size: Size, new_size: Size
) -> tuple[float, ...]:
    """Return the parameters of an image after scaling it from ``size`` to ``new_size``."""
    x, y = new_size[0] / size[0], new_size[1] / size[1]
    factors = {"fx": x, "cx": x, "fy": y, "cy": y, "f": (x + y) / 2, "w": x, "h": y}
    names = parameter_names(model)
    return tuple(value * factors.get(name, 1.0) for name, value in zip(names, params, strict=True))


def fit_intrinsics(
    model: str, params: Sequence[float], headers: Mapping[str, ImageHeader]
) -> dict[str, FittedIntrinsics]:
    """Return parameters for every image: as given, rotated by 90 degrees, or scaled.

    The given parameters belong to the size whose centre is nearest to the principal point, and
    among equals to the most frequent one. Whether an image was rotated to the left or to the right
    is known only where EXIF says how to show it. Otherwise the two must agree within ``MAX_SHIFT``,
    and their mean is taken.

    Raises:
        ValueError: an image is neither of that size, nor rotated, nor scaled; the direction of a
            rotation matters and is not known; or the principal point fits no size.
    """
    if not headers or "cx" not in parameter_names(model):
        return {name: FittedIntrinsics(tuple(params)) for name in headers}
    size = reference_size(model, params, [header.size for header in headers.values()])
    _require_shape(size, headers)
    known: dict[tuple[Size, int], FittedIntrinsics] = {}
    fitted = {}
    for name, header in headers.items():
        key = (header.size, header.orientation)
        if key not in known:
            known[key] = _fit_image(model, params, size, name, header)
        fitted[name] = known[key]
    return fitted


def reference_size(model: str, params: Sequence[float], sizes: Sequence[Size]) -> Size:
    """Return the image size that the parameters were most likely given for.

    Raises:
        ValueError: the principal point is far from the centre of every size, and there are several
            sizes, or it lies outside or on the border.
    """
    counts = Counter(sizes)
    stored = min(counts, key=lambda size: (_offset(model, params, size), -counts[size], size))
    if _offset(model, params, stored) <= MAX_OFFSET:
        return stored
    shown = min((size[::-1] for size in counts), key=lambda size: _offset(model, params, size))
    if _offset(model, params, shown) <= MAX_OFFSET:  # for the photos as they are shown
        return shown
    if len(counts) == 1 and _offset(model, params, stored) < 0.5:  # at a corner: of another size
        return stored
    some = list_names([f"{w}x{h}" for (w, h), _ in counts.most_common()])
    x, y = _principal_point(model, params)
    raise ValueError(
        f"the principal point ({x:g}, {y:g}) of the intrinsics is far from the centre of the "
        f"images ({some} px): give the intrinsics for that size"
    )


def describe_fit(
    model: str, params: Sequence[float], fitted: Mapping[str, FittedIntrinsics], sizes: set[Size]
) -> list[str]:
    """Return one line for each thing about the fit that a user should know."""
    lines = []
    x, y = _principal_point(model, params)
    if len(sizes) == 1 and not any(fit.change for fit in fitted.values()):
        (size,) = sizes
        if _offset(model, params, size) > MAX_OFFSET:
            lines.append(
                f"the principal point ({x:g}, {y:g}) of the intrinsics is far from the centre of "
                f"the images ({size[0]}x{size[1]} px), as of cropped ones; is it for another size?"
            )
    for change in ("rotated", "scaled", "rotated and scaled"):
        names = [name for name, fit in fitted.items() if fit.change == change]
        if names:
            unknown = any(fitted[name].is_approximate for name in names)
            lines.append(
                f"the intrinsics are {change} for {counted(len(names), 'image')} "
                f"({list_names(names)})"
                + ("; left or right is not known, so their centre is taken" if unknown else "")
            )
    return lines


def _require_shape(size: Size, headers: Mapping[str, ImageHeader]) -> None:
    """Refuse images that are neither ``size``, nor rotated, nor scaled."""
    others = [
        f"{name!r} {header.size[0]}x{header.size[1]}"
        for name, header in headers.items()
        if not (is_scaled(size, header.size) or is_scaled(size[::-1], header.size))
    ]
    if others:
        raise ValueError(
            f"the intrinsics are for {size[0]}x{size[1]} px, which neither rotated nor scaled "
            f"gives {list_names(others)}; leave these images out, or give no "
            "intrinsics"
        )


def _fit_image(
    model: str, params: Sequence[float], size: Size, name: str, header: ImageHeader
) -> FittedIntrinsics:
    if is_scaled(size, header.size):
        changes = ["scaled"] * (header.size != size)
        return FittedIntrinsics(
            scale_parameters(model, params, size, header.size), " and ".join(changes)
        )
    direction = STORED_FROM_SHOWN.get(header.orientation)
    shift = 0.0 if direction else direction_shift_px(model, params, size) / max(size)
    if shift > MAX_SHIFT:
        raise ValueError(
            f"the intrinsics are for {size[0]}x{size[1]} px, and {name!r} is "
            f"{header.size[0]}x{header.size[1]}: where the principal point and the distortion are "
            "in it depends on whether it was rotated left or right, which EXIF does not say; "
            "rotate such images back, or give no intrinsics"
        )
    rotated = rotate_parameters(model, params, size, direction)
    changes = ["rotated"] + ["scaled"] * (header.size != size[::-1])
    return FittedIntrinsics(
        scale_parameters(model, rotated, size[::-1], header.size),
        " and ".join(changes),
        is_approximate=shift > 0,
    )


def is_scaled(size: Size, other: Size) -> bool:
    """Say whether ``other`` has the aspect ratio of ``size``, up to the rounding of its sides."""
    (width, height), (w, h) = size, other
    slack = ROUNDING_PX * max(1.0, w / width, h / height)
    return abs(w - width * h / height) <= slack or abs(h - height * w / width) <= slack


def direction_shift_px(model: str, params: Sequence[float], size: Size) -> float:
    """Bound how far a rotation to the unknown side moves a point from the mean of both sides."""
    names = parameter_names(model)
    named = dict(zip(names, params, strict=True))
    centre = math.hypot(named["cx"] - size[0] / 2, named["cy"] - size[1] / 2)
    focal = named.get("f", named.get("fx", 0.0))
    radius = math.hypot(*size) / 2 / focal
    vectors = sum(math.hypot(named[x], named[y]) for x, y in _vectors(names))
    return centre + 3 * radius**2 * vectors * focal  # |r^2 t + 2 (t u) u| <= 3 r^2 |t|


def _principal_point(model: str, params: Sequence[float]) -> tuple[float, float]:
    named = dict(zip(parameter_names(model), params, strict=True))
    return named["cx"], named["cy"]


def _offset(model: str, params: Sequence[float], size: Size) -> float:
    """Return how far the principal point is off the centre, of width or height."""
    x, y = _principal_point(model, params)
    return max(abs(x / size[0] - 0.5), abs(y / size[1] - 0.5))


def _vectors(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of parameters that are the x and y of a vector in the distortion."""
    pairs = (("p2", "p1"), ("p0", "p1"), ("sx1", "sy1"), ("s0", "s2"), ("s1", "s3"))
    known = [pair for pair in pairs if set(pair) <= set(names)]
    return [pair for pair in known if pair != ("p0", "p1") or "p2" not in names]
