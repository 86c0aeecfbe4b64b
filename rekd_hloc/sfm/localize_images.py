"""New images are found in a model: extracted, matched with the model's images, and placed.

The model may be of this program, or of hloc and COLMAP, as long as the file of features that it was
made from is there: its points are known by the rows of that file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekd_hloc.config import RECONSTRUCTION_MATCHING, MatchConfig
from rekd_hloc.image_listing import list_images
from rekd_hloc.matching.match import make_matcher
from rekd_hloc.progress import progress_bar
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.image_work import ImageExtractor
from rekd_hloc.sfm.localization import Localization, localize
from rekd_hloc.sfm.query_camera import choose_camera, read_exif_camera
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features

QUERIES = "queries.h5"


@dataclass(frozen=True)
class Localized:
    """What :func:`localize_images` found.

    Attributes:
        poses: of each query; None where none was found.
        skipped: queries that could not be read, and why.
    """

    poses: Mapping[str, Localization | None]
    skipped: Mapping[str, str]

    def format_poses(self) -> str:
        """Return the poses that were found, a line each as hloc writes them: name, w x y z, t."""
        found = {name: pose.to_json() for name, pose in self.poses.items() if pose is not None}
        return "".join(
            f"{name} {' '.join(map(repr, [*pose['qvec_wxyz'], *pose['tvec']]))}\n"
            for name, pose in found.items()
        )


def localize_images(
    extractor: ImageExtractor,
    queries: Path,
    model_path: Path,
    map_features: Path,
    features_path: Path,
    *,
    matching: MatchConfig = RECONSTRUCTION_MATCHING,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Localized:
    """Find where new images were taken.

    Args:
        extractor: the one that the map's features are of.
        queries: folder of the new images, searched with its subfolders.
        model_path: folder of the COLMAP model.
        map_features: file of features that the model was made from.
        features_path: file to write the features of the queries to, or to go on with.
        matching: how to match.
        seed: of RANSAC.
        overwrite: extract the queries anew.
        progress: show bars on stderr.

    Raises:
        ValueError: features of another kind than the map's, or a model and features that do not
            belong together.
        FileNotFoundError: there is no such folder, model or file.
        OSError: the features cannot be written.
    """
    model = compat.read_reconstruction(model_path)
    mapped = _read_map(model, model_path, map_features)
    names = list_images(queries)
    extracted = extract_images(
        extractor, queries, features_path, names=names, overwrite=overwrite, progress=progress
    )
    matcher = make_matcher(matching)
    poses: dict[str, Localization | None] = {}
    with FeatureStore(features_path) as store:
        for name in progress_bar(extracted.names, "localize", unit="image", shown=progress):
            query = store.read(name)
            _require_same_kind(query, mapped, map_features)
            camera = choose_camera(
                model, query.image_size, read_exif_camera(queries / name, query.image_size)
            )
            xy, points = _match_with_map(query, mapped, matcher)
            poses[name] = localize(model, camera, xy, points, seed=seed)
    return Localized(poses, extracted.skipped)


def _read_map(model: Any, model_path: Path, path: Path) -> list[tuple[Features, dict[int, int]]]:
    """Return features of the model's images, and the point that each row shows."""
    found = []
    with FeatureStore(path) as store:
        known = frozenset(store.names())
        for image_id in model.reg_image_ids():
            image = model.images[image_id]
            if image.name not in known:
                raise ValueError(f"{path} has no features of {image.name!r} of {model_path}")
            features = store.read(image.name)
            if image.num_points2D() != len(features):
                raise ValueError(
                    f"{image.name!r} has {image.num_points2D()} keypoints in {model_path} and "
                    f"{len(features)} in {path}; name the file that the model was made from "
                    "(--features)"
                )
            points = {
                row: int(point.point3D_id)
                for row, point in enumerate(image.points2D)
                if point.has_point3D()
            }
            found.append((features, points))
    return found


def _require_same_kind(query: Features, mapped: Sequence[tuple[Features, Any]], path: Path) -> None:
    width = query.descriptors.shape[1]
    other = {features.descriptors.shape[1] for features, _ in mapped} - {width}
    if other:
        raise ValueError(
            f"the descriptors in {path} have {min(other)} channels, those of the queries {width}; "
            "take the conf that the map was made with (--conf)"
        )


def _match_with_map(
    query: Features, mapped: Sequence[tuple[Features, dict[int, int]]], matcher: Any
) -> tuple[Any, list[int]]:
    """Return positions in COLMAP's pixels and the points that they match, each pair once."""
    xy = query.keypoints.xy.numpy().astype("float64") + 0.5
    found: dict[tuple[int, int], None] = {}
    for features, points in mapped:
        for row, other in matcher(query, features).index.tolist():
            if other in points:
                found[row, points[other]] = None
    rows = [row for row, _ in found]
    return xy[rows].reshape(-1, 2), [point for _, point in found]
