"""All that the interactive part of a page shows of a run, as one record for its scripts.

A page stays below 6 MB: points, keypoints, matches and pictures have a budget each. What is over it
is thinned evenly, by a fixed random order, and the page says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Keypoints
from rekd_hloc.viz.explorer.frame import PageFrame
from rekd_hloc.viz.explorer.keypoint_choice import (
    ALL_KEYPOINTS,
    MAX_ERROR_PX,
    ChosenKeypoints,
    order_points,
    pack_keypoints,
)
from rekd_hloc.viz.explorer.observations import Observations, count_tracks, read_observations
from rekd_hloc.viz.explorer.packing import contract, pack, pack_share
from rekd_hloc.viz.explorer.pair_matches import describe_pairs
from rekd_hloc.viz.explorer.photos import shrink_photos
from rekd_hloc.viz.run_files import RunFiles, SparseModel, read_model

MAX_POINTS = 100_000
"""3-D points on the page."""

Sizes = dict[str, tuple[int, int]]


def describe_scene(
    run: RunFiles, reference: Mapping[str, Pose] | None, *, progress: bool = False
) -> dict[str, Any] | None:
    """Return the record of a run; None for one of which neither pairs nor a model are there.

    Args:
        run: whose files are read; images, features, database and model may be missing.
        reference: true poses, in whose frame the model is shown.
        progress: show a bar on stderr.
    """
    model = read_model(run.output, reference)
    observed = read_observations(model.model) if model else {}
    names = sorted({*run.names, *observed})
    if not names:
        return None
    photos = shrink_photos(run.image_dir, names)
    keypoints, sizes = _read_features(run, names, observed)
    sizes = {name: size for name, (_, size) in photos.items()} | sizes | _camera_sizes(model)
    keypoints = {name: points for name, points in keypoints.items() if name in sizes}
    num_points = len(model.points) if model else 0
    order, observed, num_tracked = order_points(num_points, observed, MAX_POINTS)
    chosen = _choose_keypoints(names, keypoints, sizes, observed, num_tracked)
    frame = PageFrame.choose(model.points if model else np.zeros((0, 3)), _poses(model))
    images = [
        {
            "name": name,
            "photo": photos[name][0] if name in photos else None,
            "size": sizes.get(name),
            "keypoints": len(keypoints[name]) if name in keypoints else 0,
            "shown": len(chosen[name].row) if name in chosen else 0,
            **_describe_pose(model, frame, name),
            **_describe_observations(observed.get(name)),
        }
        for name in names
    ]
    pairs = describe_pairs(run, names, sizes, keypoints, progress=progress)
    return {
        "images": images,
        "points": _describe_points(model, frame, order, num_tracked),
        "keypoints": pack_keypoints(list(chosen.values())),
        "pairs": pairs,
        "truth": _describe_truth(frame, model, reference),
        "tracks": count_tracks(model.model) if model else [],
        "filter": _describe_filter(run.report, pairs),
    }


def _poses(model: SparseModel | None) -> dict[str, Pose]:
    return model.poses if model else {}


def _read_features(
    run: RunFiles, names: Sequence[str], observed: Mapping[str, Observations]
) -> tuple[dict[str, Keypoints], Sizes]:
    """Return keypoints and sizes, from the features or else from the model."""
    keypoints: dict[str, Keypoints] = {}
    sizes: Sizes = {}
    path = run.find_store("features")
    if path is not None:
        with FeatureStore(path) as store:
            for name in names:
                if name in store:
                    keypoints[name] = store.read_keypoints(name)
                    if (size := store.image_size(name)) is not None:
                        sizes[name] = size
    for name, seen in observed.items():
        if name not in keypoints or len(keypoints[name]) != len(seen.xy):
            ones = torch.ones(len(seen.xy))
            keypoints[name] = Keypoints(torch.from_numpy(seen.xy).float(), ones, 0 * ones, ones)
    return keypoints, sizes


def _camera_sizes(model: SparseModel | None) -> Sizes:
    if model is None:
        return {}
    images = [model.model.images[k] for k in model.model.reg_image_ids()]
    cameras = model.model.cameras
    return {i.name: (cameras[i.camera_id].width, cameras[i.camera_id].height) for i in images}


def _choose_keypoints(
    names: Sequence[str],
    keypoints: Mapping[str, Keypoints],
    sizes: Sizes,
    observed: Mapping[str, Observations],
    num_tracked: int,
) -> dict[str, ChosenKeypoints]:
    used = sum(int((seen.point < num_tracked).sum()) for seen in observed.values())
    quota = max(ALL_KEYPOINTS - used, 0) // len(names)
    return {
        name: ChosenKeypoints.choose(
            keypoints[name], sizes[name], observed.get(name), num_tracked, quota
        )
        for name in names
        if name in keypoints
    }


def _describe_pose(model: SparseModel | None, frame: PageFrame, name: str) -> dict[str, Any]:
    """Return where a camera is, and how it is rolled and wrong; nothing for an unregistered one."""
    if model is None or name not in model.poses:
        return {"registered": False}
    pose = model.poses[name]
    image = model.model.find_image_with_name(name)
    camera = model.model.cameras[image.camera_id]
    focal = max(float(camera.mean_focal_length()), 1e-6)
    record: dict[str, Any] = {
        "registered": True,
        "centre": _rounded(frame.apply(pose.centre[None])[0]),
        "axes": _rounded(frame.axes(pose).ravel()),
        "spread": _rounded(np.array([camera.width, camera.height]) / (2 * focal)),
        "roll": round(frame.roll_deg(pose), 2),
    }
    if model.errors is not None and name in model.errors.names:
        row = model.errors.names.index(name)
        record["rotationError"] = round(float(model.errors.rotation_deg[row]), 4)
        record["centreError"] = round(100 * float(model.errors.center_rel[row]), 4)
    return record


def _describe_observations(seen: Observations | None) -> dict[str, Any]:
    if seen is None:
        return {}
    error = seen.mean_error_px()
    return {
        "observations": len(seen.point),
        "error": None if error is None else round(error, 4),
    }


def _describe_points(
    model: SparseModel | None, frame: PageFrame, order: np.ndarray, num_tracked: int
) -> dict[str, Any] | None:
    if model is None or not len(order):
        return None
    shown = order[:MAX_POINTS]
    points = list(model.model.points3D.values())
    chosen = [points[k] for k in shown]
    return {
        "total": len(order),
        "tracked": num_tracked,
        "xyz": pack_share(contract(frame.apply(model.points[shown])), "u2"),
        "rgb": pack(np.array([point.color for point in chosen]), "u1"),
        "error": pack_share(np.array([point.error for point in chosen]) / MAX_ERROR_PX, "u1"),
        "length": pack(np.array([point.track.length() for point in chosen]), "u1"),
    }


def _describe_truth(
    frame: PageFrame, model: SparseModel | None, reference: Mapping[str, Pose] | None
) -> list[list[float]]:
    """Return the true centres of the cameras, where the model could be moved onto them."""
    if model is None or model.errors is None or not reference:
        return []
    return [_rounded(frame.apply(pose.centre[None])[0]) for pose in reference.values()]


def _describe_filter(report: Mapping[str, Any], pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filter's name and tolerance, and whether it is known what it dropped."""
    configuration = report.get("configuration", {})
    matching = configuration.get("matching") if isinstance(configuration, Mapping) else None
    matching = matching if isinstance(matching, Mapping) else {}
    tolerance = matching.get("tolerance_deg")
    if not isinstance(tolerance, int | float) or not 0 < tolerance <= 180:
        tolerance = None
    name = str(matching.get("filter", ""))
    return {"name": name, "tolerance": tolerance, "drops": pairs["knowsDropped"]}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in np.nan_to_num(values)]
