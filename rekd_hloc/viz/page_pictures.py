"""The pictures and charts of a report page, each with its caption."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rekd_hloc.images import ImageReadError, encode_image, read_color
from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.storage.names import check_name
from rekd_hloc.types import Keypoints, Pair
from rekd_hloc.viz import charts, draw
from rekd_hloc.viz.run_files import (
    RunFiles,
    SparseModel,
    count_matrix,
    read_keypoints,
    read_pair,
)
from rekd_hloc.viz.templates import Picture

NUM_IMAGES = 3
"""Images whose keypoints are shown: the one with most inliers, the middle one, the last."""
PICTURE_SIDE_PX = 640
MAX_MATRIX_IMAGES = 400


def draw_stages(report: Mapping[str, Any]) -> Picture | None:
    """Draw the seconds of each stage as bars; None if the report has none."""
    seconds = {k: v for k, v in report.get("seconds", {}).items() if k != "total" and v is not None}
    if not seconds:
        return None
    stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    chart = charts.draw_bars(seconds, x_label="seconds")
    return _from_chart(chart, f"Wall-clock seconds of each stage: {stages}.")


def draw_keypoints(run: RunFiles) -> list[Picture]:
    """Draw the keypoints of a few images, from many inliers to few."""
    features = run.find_store("features")
    if features is None or not run.names:
        return []
    inliers = count_matrix(run.names, run.counts).sum(1)
    order = [run.names[k] for k in np.argsort(-inliers, kind="stable")]
    ranks = sorted({0, len(order) // 2, len(order) - 1})[:NUM_IMAGES]
    pictures = []
    for name, keypoints in read_keypoints(features, [order[k] for k in ranks]).items():
        image = _read_image(run.image_dir, name)
        if image is None:
            continue
        drawing = draw.draw_keypoints(image, keypoints, max_side_px=PICTURE_SIDE_PX)
        total = int(inliers[run.names.index(name)])
        caption = f"{name}: {len(keypoints):,} keypoints, {total:,} inliers in all its pairs."
        pictures.append(_from_drawing(drawing, caption))
    return pictures


def draw_pairs(run: RunFiles) -> list[Picture]:
    """Draw matches of the strongest pair, the weakest verified one, and one that failed."""
    features = run.find_store("features")
    ranked = sorted(run.counts, key=lambda pair: (run.counts[pair][1], pair))
    verified = [pair for pair in ranked if run.counts[pair][1] > 0]
    if features is None or not verified:
        return []
    kinds = {verified[-1]: "Strongest pair"}
    kinds.setdefault(verified[0], "Weakest verified pair")
    failed = [pair for pair in ranked if run.counts[pair] > (0, 0) and pair not in verified]
    if failed:
        kinds.setdefault(max(failed, key=lambda pair: run.counts[pair][0]), "A pair that failed")
    keypoints = read_keypoints(features, sorted({name for pair in kinds for name in pair}))
    drawn = [_draw_pair(run, pair, kind, keypoints) for pair, kind in kinds.items()]
    return [picture for picture in drawn if picture is not None]


def _draw_pair(
    run: RunFiles, pair: Pair, kind: str, keypoints: Mapping[str, Keypoints]
) -> Picture | None:
    images = [_read_image(run.image_dir, name) for name in pair]
    if images[0] is None or images[1] is None or not keypoints.keys() >= set(pair):
        return None
    matches, is_inlier = read_pair(run.output / "database.db", pair)
    drawing = draw.draw_matches(
        images[0],
        images[1],
        keypoints[pair[0]],
        keypoints[pair[1]],
        matches,
        is_inlier,
        max_side_px=PICTURE_SIDE_PX,
    )
    caption = (
        f"{kind}: {pair[0]} and {pair[1]}, {int(is_inlier.sum())} inliers (green) of "
        f"{len(matches)} matches (others red); at most {draw.MAX_LINES} are drawn."
    )
    return _from_drawing(drawing, caption)


def draw_matrix(run: RunFiles) -> Picture | None:
    """Draw the inliers of all pairs; None for a single image or for very many."""
    if not 2 <= len(run.names) <= MAX_MATRIX_IMAGES:
        return None
    chart = charts.draw_pair_matrix(run.names, count_matrix(run.names, run.counts))
    return _from_chart(chart, "Inliers of each pair of images; white pairs have none.")


def draw_cameras(model: SparseModel | None, reference: Mapping[str, Pose] | None) -> Picture | None:
    """Draw estimated and true cameras with the sparse points; None without a model."""
    if model is None or not model.poses:
        return None
    poses = list(model.poses.values())
    centres = np.stack([pose.centre for pose in poses])
    directions = np.stack([pose.rotation[2] for pose in poses])
    true_centres, caption = None, "Sparse points and camera centres with their viewing directions."
    if model.errors is not None and reference:
        true_centres = np.stack([pose.centre for pose in reference.values()])
        caption = (
            "Sparse points and camera centres with their viewing directions, aligned to the true "
            "camera centres (circles)."
        )
    names = list(model.poses)
    chart = charts.draw_camera_map(model.points, centres, directions, names, true_centres)
    return _from_chart(chart, caption)


def _from_chart(chart: Figure, caption: str) -> Picture:
    return Picture(charts.encode_figure(chart), "png", caption)


def _from_drawing(pixels: draw.RgbImage, caption: str) -> Picture:
    return Picture(encode_image(pixels, ".jpg"), "jpeg", caption)


def _read_image(image_dir: Path, name: str) -> draw.RgbImage | None:
    with suppress(FileNotFoundError, ImageReadError, ValueError):
        check_name(name)  # no picture from outside of the folder
        return read_color(image_dir / name)
    return None
