"""Models that look like a success and are none: no depth, little depth, impossible cameras.

COLMAP gives a model with a small reprojection error to photos from one place too: it invents the
depth. This module looks at the pairs and at the model, and says in words what is wrong and what
would help (``warnings``), or what to know about a model that is sound (``notes``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.names import list_names
from rekd_hloc.sfm.mapping import RELAXED
from rekd_hloc.sfm.pair_motion import Motion
from rekd_hloc.sfm.scene_motion import (
    NO_PARALLAX,
    Motions,
    find_places,
    find_track_motions,
    lacks_parallax,
)

Array = NDArray[np.float64]

SMALL_ANGLE_DEG = 4.0
"""Median triangulation angle below which depth is uncertain; COLMAP drops points below 1.5."""
FEW_OBSERVATIONS = 15
"""Points that the median image of a model must see; COLMAP registers an image with 30."""
FOCAL_LIMITS = (0.25, 10.0)
"""Plausible focal lengths in units of the longer side: below a fisheye's, above a long lens's."""
MAX_RADIAL = 1.0
"""Larger first coefficients of radial distortion are the refinement's, not a lens's."""
PLANAR_PAIRS = 0.75
"""Share of pairs that a plane explains from which on the scene is called flat."""
SAMPLED_POINTS = 5000
LISTED = 5
RELAXED_START = (
    "The model was found only by a start with COLMAP's limits relaxed "
    f"({', '.join(f'{name} {value:g}' for name, value in RELAXED.items())}), as for a camera that "
    "moves straight ahead: depth and focal length are uncertain. "
    "Give the intrinsics, or add photos from the side."
)
ONE_CAMERA = "If one camera took all with one zoom, give --camera-mode single, or the intrinsics."


@dataclass(frozen=True)
class ModelShape:
    """How well the largest model fixes depth.

    Attributes:
        median_angle_deg: of the largest angle between two rays of a point, over the points.
        p90_angle_deg: its 90th percentile.
        baseline_per_depth: largest distance between two cameras by the median depth of points.
        median_observations: points that the median image sees.
        implausible: what is impossible about a camera, by the name of its first image.
    """

    median_angle_deg: float
    p90_angle_deg: float
    baseline_per_depth: float
    median_observations: float
    implausible: Mapping[str, str]


def describe_geometry(
    motions: Motions,
    configurations: Mapping[str, int],
    models: Sequence[Any],
    *,
    relaxed: bool = False,
) -> dict[str, Any]:
    """Return what the report says about a scene's geometry.

    Args:
        motions: of the pairs.
        configurations: pairs of each of COLMAP's two-view configurations.
        models: largest first; may be empty.
        relaxed: the model was started from a pair with little parallax.

    Returns:
        ``configurations`` and ``motions`` (pairs of each kind), figures of the largest model,
        ``warnings`` (what makes the result worthless or uncertain, with the remedy), ``notes``
        (what to know about a sound one), and ``has_parallax``.
    """
    if models and lacks_parallax(motions):
        motions = {**motions, **find_track_motions(models[0], motions)}
    shape = measure_shape(models[0]) if models else None
    counts = Counter(motion.value for motion in motions.values())
    record: dict[str, Any] = {
        "configurations": dict(configurations),
        "motions": {motion.value: counts[motion.value] for motion in Motion},
        "has_parallax": not lacks_parallax(motions),
        "median_triangulation_angle_deg": shape and shape.median_angle_deg,
        "p90_triangulation_angle_deg": shape and shape.p90_angle_deg,
        "baseline_per_depth": shape and shape.baseline_per_depth,
    }
    warnings = find_warnings(motions, shape, relaxed=relaxed)
    return {**record, "warnings": warnings, "notes": find_notes(motions)}


def find_warnings(
    motions: Motions, shape: ModelShape | None, *, relaxed: bool = False
) -> list[str]:
    """Return what makes the largest model worthless or uncertain, each with what would help.

    Args:
        motions: of the pairs.
        shape: of the largest model, None if there is none.
        relaxed: the model was started from a pair with little parallax.
    """
    if lacks_parallax(motions):
        return [_describe_one_place(motions, has_model=shape is not None)]
    if shape is None:
        return []
    warnings = []
    if relaxed:
        warnings.append(RELAXED_START)
    if shape.median_observations < FEW_OBSERVATIONS:
        warnings.append(
            f"The median image sees {shape.median_observations:.0f} points of the model, which "
            f"does not fix its pose. {ONE_CAMERA} Else add photos, or more keypoints."
        )
    elif shape.median_angle_deg < SMALL_ANGLE_DEG:
        warnings.append(
            f"The cameras are close together for the depth of the scene: rays of the median point "
            f"meet at {shape.median_angle_deg:.1f} degrees (90th percentile "
            f"{shape.p90_angle_deg:.1f}), so depth and focal length are uncertain. "
            "Add photos from farther apart."
        )
    if shape.implausible:
        warnings.append(_describe_impossible(shape.implausible))
    return warnings


def find_notes(motions: Motions) -> list[str]:
    """Return what to know about the scene, though the model has depth."""
    if lacks_parallax(motions):
        return []
    notes = []
    for place in find_places(motions):
        within = [motion for pair, motion in motions.items() if set(place).issuperset(pair)]
        what = "show the same view" if _are_copies(within) else "were taken from one place"
        notes.append(
            f"{len(place)} images {what} ({list_names(place, LISTED)}): what only they show has "
            "no depth."
        )
    planes = sum(motion == Motion.PLANE for motion in motions.values())
    if motions and planes >= PLANAR_PAIRS * len(motions):
        notes.append(
            "The scene is nearly flat, and seen from different places: it has depth. But a plane "
            "leaves focal length and distortion uncertain, and the poses with them. Give the "
            "intrinsics if you know them, or --camera-mode single if one camera took all."
        )
    return notes


def measure_shape(model: Any) -> ModelShape:
    """Return how well a ``pycolmap.Reconstruction`` fixes depth."""
    ids = model.reg_image_ids()
    images = [model.images[image_id] for image_id in ids]
    centres = {i: np.asarray(model.images[i].projection_center(), np.float64) for i in ids}
    points = [model.points3D[i] for i in sorted(model.points3D)]
    every = max(1, -(-len(points) // SAMPLED_POINTS))
    rays = [
        np.array([centres[e.image_id] for e in point.track.elements]) - point.xyz
        for point in points[::every]
    ]
    angles = np.array([_largest_angle_deg(r) for r in rays] or [0.0])
    depth = float(np.median([np.median(np.linalg.norm(r, axis=1)) for r in rays])) if rays else 0.0
    places = np.array(list(centres.values()))
    extent = max((float(np.linalg.norm(places - c, axis=1).max()) for c in places), default=0.0)
    examples: dict[int, str] = {}
    for image in sorted(images, key=lambda image: str(image.name)):
        examples.setdefault(image.camera_id, image.name)
    found = {
        name: why for key, name in examples.items() if (why := _find_impossible(model.cameras[key]))
    }
    return ModelShape(
        median_angle_deg=float(np.median(angles)),
        p90_angle_deg=float(np.percentile(angles, 90)),
        baseline_per_depth=extent / depth if depth else 0.0,
        median_observations=float(np.median([i.num_points3D for i in images] or [0])),
        implausible=dict(sorted(found.items())),
    )


def _describe_one_place(motions: Motions, *, has_model: bool) -> str:
    still = [motion for motion in motions.values() if motion in NO_PARALLAX]
    what = (
        "The photos all show the same view"
        if _are_copies(still)
        else "The photos were taken from one place, or what they show is very far away"
    )
    so = "the depth of this model is invented" if has_model else "there is no depth in them"
    return (
        f"{what}: rotation and zoom explain {len(still)} of {len(motions)} pairs; {so}. "
        "Move the camera between the photos, by a tenth of the distance to the scene or more."
    )


def _describe_impossible(implausible: Mapping[str, str]) -> str:
    listed = list_names([f"{name}: {why}" for name, why in implausible.items()], LISTED)
    what = "one camera" if len(implausible) == 1 else f"{len(implausible)} cameras"
    return (
        f"The refinement gave impossible parameters to {what} ({listed}): "
        f"the model is wrong there. {ONE_CAMERA}"
    )


def _are_copies(motions: Sequence[Motion]) -> bool:
    return all(motion == Motion.SAME_VIEW for motion in motions)


def _largest_angle_deg(rays: Array) -> float:
    unit = rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    return float(np.degrees(np.arccos(np.clip((unit @ unit.T).min(), -1.0, 1.0))))


def _find_impossible(camera: Any) -> str:
    """Return what no lens has, or nothing."""
    side, focal = max(camera.width, camera.height), float(camera.mean_focal_length())
    if not FOCAL_LIMITS[0] * side <= focal <= FOCAL_LIMITS[1] * side:
        return f"focal length {focal:.4g} px at {side} px"
    if camera.model.name in ("SIMPLE_RADIAL", "RADIAL"):
        first = float(camera.params[camera.extra_params_idxs()[0]])
        if abs(first) > MAX_RADIAL:
            return f"distortion {first:.3g}"
    return ""
