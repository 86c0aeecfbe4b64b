"""The pictures and charts of a report page, each with its caption, as HTML."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rekd_hloc.images import ImageReadError, read_color
from rekd_hloc.picture_file import encode_image
from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.types import Keypoints, Pair
from rekd_hloc.viz import charts
from rekd_hloc.viz.draw import MAX_LINES, RADIUS_PER_SCALE, RgbImage, draw_matches
from rekd_hloc.viz.draw import draw_keypoints as draw_keypoints_on
from rekd_hloc.viz.page_html import make_figure, make_paragraph, make_row, make_table
from rekd_hloc.viz.run_files import (
    RunFiles,
    SparseModel,
    count_matrix,
    read_keypoints,
    read_pair,
)

NUM_IMAGES = 3
"""Images whose keypoints are shown: the one with most inliers, the middle one, the last."""
PICTURE_SIDE_PX = 640
MAX_MATRIX_IMAGES = 400


def draw_stages(report: Mapping[str, Any]) -> str:
    """Seconds of each stage as bars."""
    seconds = {k: v for k, v in report.get("seconds", {}).items() if k != "total" and v is not None}
    if not seconds:
        return ""
    figure = charts.draw_bars(seconds, x_label="seconds")
    listed = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    caption = f"Wall-clock seconds of each stage: {listed}."
    return make_figure(charts.encode_figure(figure), "png", caption)


def draw_keypoints(run: RunFiles) -> str:
    """Keypoints of a few images, from strong to weak."""
    features = run.find("features")
    if features is None or not run.names:
        return ""
    strength = count_matrix(run.names, run.counts).sum(1)
    order = [run.names[k] for k in np.argsort(-strength, kind="stable")]
    places = sorted({0, len(order) // 2, len(order) - 1})[:NUM_IMAGES]
    chosen = [order[k] for k in places]
    figures = []
    for name, keypoints in read_keypoints(features, chosen).items():
        image = _read_picture(run.image_dir, name)
        if image is None:
            continue
        picture = draw_keypoints_on(image, keypoints, max_side_px=PICTURE_SIDE_PX)
        total = int(strength[run.names.index(name)])
        caption = f"{name}: {len(keypoints):,} keypoints, {total:,} inliers in all its pairs."
        figures.append(make_figure(encode_image(picture, ".jpg"), "jpeg", caption))
    legend = (
        f"The best keypoints, each a circle of radius {RADIUS_PER_SCALE:g} px times its scale. "
        "The tick points along the keypoint's angle; red is to the right, and the hues go round "
        "clockwise."
    )
    return make_paragraph(legend) + make_row(figures) if figures else ""


def draw_pairs(run: RunFiles) -> str:
    """Matches of the strongest pair, the weakest verified one, and one that failed."""
    features = run.find("features")
    ranked = sorted(run.counts, key=lambda pair: (run.counts[pair][1], pair))
    verified = [pair for pair in ranked if run.counts[pair][1] > 0]
    if features is None or not verified:
        return ""
    shown = {verified[-1]: "Strongest pair"}
    shown.setdefault(verified[0], "Weakest verified pair")
    failed = [pair for pair in ranked if run.counts[pair] > (0, 0) and pair not in verified]
    if failed:
        shown.setdefault(max(failed, key=lambda pair: run.counts[pair][0]), "A pair that failed")
    keypoints = read_keypoints(features, sorted({name for pair in shown for name in pair}))
    figures = [_draw_pair(run, pair, word, keypoints) for pair, word in shown.items()]
    return "".join(figures)


def _draw_pair(run: RunFiles, pair: Pair, word: str, keypoints: Mapping[str, Keypoints]) -> str:
    images = [_read_picture(run.image_dir, name) for name in pair]
    if images[0] is None or images[1] is None or not keypoints.keys() >= set(pair):
        return ""
    matches, is_inlier = read_pair(run.output / "database.db", pair)
    picture = draw_matches(
        images[0],
        images[1],
        keypoints[pair[0]],
        keypoints[pair[1]],
        matches,
        is_inlier,
        max_side_px=PICTURE_SIDE_PX,
    )
    caption = (
        f"{word}: {pair[0]} and {pair[1]}, {int(is_inlier.sum())} inliers (green) of "
        f"{len(matches)} matches (others red); at most {MAX_LINES} are drawn."
    )
    return make_figure(encode_image(picture, ".jpg"), "jpeg", caption)


def draw_matrix(run: RunFiles) -> str:
    """Inliers of all pairs, and a list of the weakest."""
    parts = []
    if 2 <= len(run.names) <= MAX_MATRIX_IMAGES:
        figure = charts.draw_pair_matrix(run.names, count_matrix(run.names, run.counts))
        caption = "Inliers of each pair of images; white pairs have none."
        parts.append(make_figure(charts.encode_figure(figure), "png", caption))
    weakest = run.report.get("pairs", {}).get("weakest") or []
    rows = [
        (
            *map(str, pair.get("images", ("", ""))),
            str(pair.get("matches")),
            str(pair.get("inliers")),
        )
        for pair in weakest
    ]
    if rows:
        parts.append(make_paragraph("The pairs with the fewest inliers:"))
        parts.append(make_table(("image", "image", "matches", "inliers"), rows))
    return "".join(parts)


def draw_cameras(model: SparseModel | None, reference: Mapping[str, Pose] | None) -> str:
    """Estimated and true cameras with the sparse points, and a table of errors."""
    if model is None or not model.poses:
        return ""
    poses = list(model.poses.values())
    centres = np.stack([pose.centre for pose in poses])
    looks = np.stack([pose.rotation[2] for pose in poses])
    true, caption = None, "Sparse points and camera centres with their viewing directions."
    if model.errors is not None and reference:
        true = np.stack([pose.centre for pose in reference.values()])
        caption = (
            "Sparse points and camera centres with their viewing directions, aligned to the true "
            "camera centres (circles)."
        )
    figure = charts.draw_camera_map(model.points, centres, looks, list(model.poses), true)
    parts = [make_figure(charts.encode_figure(figure), "png", caption)]
    if model.errors is not None:
        errors = model.errors
        rows = [
            (name, f"{rotation:.3f}", f"{100 * center:.3f}")
            for name, rotation, center in zip(
                errors.names, errors.rotation_deg, errors.center_rel, strict=True
            )
        ]
        head = ("image", "rotation error, degrees", "centre error, % of extent")
        parts.append(make_table(head, rows))
    return "".join(parts)


def _read_picture(image_dir: Path, name: str) -> RgbImage | None:
    with suppress(FileNotFoundError, ImageReadError):
        return read_color(image_dir / name)
    return None
