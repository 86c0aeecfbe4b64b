"""Scenes of the Image Matching Challenge 2020/2021, read from the official layout.

``<root>/<dataset>/<scene>/set_100/`` holds ``images/``, ``calibration/calibration_<image>.h5``
(K, R, T with ``x_camera = R X + T``), ``new-vis-pairs/keys-th-<threshold>.npy`` (covisible pairs
as ``imageA-imageB``) and ``sub_set/<n>bag_<iii>.txt``. Only the images are needed; any subset of
them is a scene. Images are called by their file name without suffix, as in the official files.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float64

from evaluation.relative_pose.dataset import CORNER_PX, Camera, PairSet, PosePair, all_pairs
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

DATASETS = ("phototourism", "pragueparks", "googleurban")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
COVISIBILITY = 0.1
"""The official threshold: pairs whose covisibility is above it count."""
VISIBILITY_FILE = re.compile(r"keys-th-(\d+(?:\.\d+)?)\.npy")
BAG_FILE = re.compile(r"(\d+)bag_(\d+)\.txt")


@dataclass(frozen=True, eq=False)
class Scene:
    """The files of one scene.

    Attributes:
        dataset: folder above the scene's, such as ``phototourism``.
        name: of the scene.
        images: path of each image by its name, in the order of names.
        calibration: cameras by image name, of images that exist.
        covisible: by threshold, pairs whose images are both there and calibrated; empty where the
            scene has no such lists.
        bags: official lists of images for multiview by their size, where they are complete.
        num_dropped_pairs: pairs of the longest official list that name an absent or uncalibrated
            image.
        num_dropped_bags: official bags that name an absent image.
    """

    dataset: str
    name: str
    images: Mapping[str, Path]
    calibration: Mapping[str, Camera] = field(repr=False)
    covisible: Mapping[float, tuple[Pair, ...]] = field(repr=False)
    bags: Mapping[int, tuple[tuple[str, ...], ...]] = field(repr=False)
    num_dropped_pairs: int = 0
    num_dropped_bags: int = 0

    @property
    def key(self) -> str:
        """``<dataset>/<scene>``."""
        return f"{self.dataset}/{self.name}"

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Return images that have no calibration."""
        return tuple(name for name in self.images if name not in self.calibration)

    def pairs(self, covisibility: float = COVISIBILITY) -> tuple[Pair, ...]:
        """Return calibrated pairs above a covisibility, in the official order; all without lists.

        Raises:
            ValueError: the scene has lists, but none for that threshold.
        """
        if not self.covisible:
            return tuple(all_pairs(self.calibration))
        for threshold, pairs in self.covisible.items():
            if abs(threshold - covisibility) < 1e-6:
                return pairs
        known = ", ".join(f"{threshold:g}" for threshold in self.covisible)
        raise ValueError(
            f"{self.key} has no pairs for covisibility {covisibility:g}; it has those for {known}"
        )

    def pair_set(
        self, covisibility: float = COVISIBILITY, masks: Mapping[str, Path] | None = None
    ) -> PairSet:
        """Return the same pairs with their true poses.

        Raises:
            ValueError: there is none.
        """
        pairs = [PosePair.from_cameras(p, self.calibration) for p in self.pairs(covisibility)]
        if not pairs:
            raise ValueError(
                f"{self.key} has no calibrated pair of covisibility {covisibility:g}: it has "
                f"{len(self.images)} images, {len(self.calibration)} with a calibration"
            )
        return PairSet(self.key, self.images, pairs, masks or {})


def list_scenes(root: Path, names: Sequence[str] = ()) -> list[Scene]:
    """Read scenes below a folder.

    Args:
        root: the folder of datasets; or of one dataset; or of one scene.
        names: of scenes, ``reichstag`` or ``phototourism/reichstag``, in this order; none for all.

    Raises:
        FileNotFoundError: there is no such folder or scene; the message lists the scenes.
        ValueError: a scene's name occurs in several datasets, or a file cannot be read.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no data folder {root}")
    folders = {f"{f.parent.name}/{f.name}": f for f in _scene_folders(root.resolve())}
    if not folders:
        raise FileNotFoundError(
            f"{root} holds no scene; a scene's images are in <dataset>/<scene>/set_100/images"
        )
    if not names:
        return [read_scene(folder) for folder in folders.values()]
    chosen = []
    for name in names:
        keys = [key for key in folders if name in (key, key.split("/")[1])]
        if not keys:
            raise FileNotFoundError(f"no scene {name!r} in {root}; there are {', '.join(folders)}")
        if len(keys) > 1:
            raise ValueError(f"scene {name!r} is one of {', '.join(keys)}: write its dataset too")
        chosen.append(read_scene(folders[keys[0]]))
    return chosen


def read_scene(folder: Path) -> Scene:
    """Read one scene of the official layout; logs what is incomplete.

    Args:
        folder: ``<dataset>/<scene>``.

    Raises:
        FileNotFoundError: there are no images.
        ValueError: a file of the scene cannot be read.
    """
    part = _set_folder(folder)
    images = _list_images(part / "images")
    cameras = {
        name: read_camera(path)
        for name in images
        if (path := part / "calibration" / f"calibration_{name}.h5").is_file()
    }
    covisible, dropped_pairs = _read_covisible(part / "new-vis-pairs", cameras)
    bags, dropped_bags = _read_bags(part / "sub_set", images)
    scene = Scene(
        folder.parent.name, folder.name, images, cameras, covisible, bags,
        dropped_pairs, dropped_bags,
    )  # fmt: skip
    if missing := scene.uncalibrated:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        logger.warning("%s: %d images have no calibration: %s", scene.key, len(missing), shown)
    if dropped_pairs or dropped_bags:
        text = "%s: left out %d covisible pairs and %d bags of images that are not there"
        logger.warning(text, scene.key, dropped_pairs, dropped_bags)
    return scene


def read_camera(path: Path) -> Camera:
    """Read an official calibration file; K comes into this project's pixel frame.

    Raises:
        ValueError: the file cannot be read, lacks K, R or T, or R is no rotation.
    """
    try:
        with h5py.File(path, "r") as file:
            intrinsics, rotation = (_read(file, key).reshape(3, 3) for key in ("K", "R"))
            translation = _read(file, "T").reshape(3)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no calibration with K, R and T: {error}") from error
    is_orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3
    if not is_orthogonal or np.linalg.det(rotation) < 0:
        raise ValueError(f"{path}: R is no rotation matrix")
    shift = np.array([[0, 0, CORNER_PX], [0, 0, CORNER_PX], [0, 0, 0]])
    return Camera(intrinsics - shift, rotation, translation)


def _read(file: h5py.File, key: str) -> Float64[np.ndarray, "..."]:
    return np.asarray(file[key], dtype=np.float64)


def _scene_folders(root: Path) -> list[Path]:
    levels: list[Iterable[Path]] = [[root], root.glob("*"), root.glob("*/*")]
    for level in levels:
        if scenes := sorted(f for f in level if any(f.glob("set_*/images"))):
            return scenes
    return []


def _set_folder(scene: Path) -> Path:
    """``set_100``, or else the largest set that there is."""
    parts = [part.parent for part in scene.glob("set_*/images")]
    if not parts:
        raise FileNotFoundError(f"scene {scene} has no folder set_100/images")
    return max(parts, key=lambda part: (part.name == "set_100", part.name))


def _list_images(folder: Path) -> dict[str, Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no image in {folder}: .jpg, .jpeg and .png are read")
    images: dict[str, Path] = {}
    for path in paths:
        if path.stem in images:
            raise ValueError(f"{folder} has two images called {path.stem}; remove one")
        images[path.stem] = path
    return images


def _read_covisible(
    folder: Path, known: Mapping[str, Camera]
) -> tuple[dict[float, tuple[Pair, ...]], int]:
    covisible, num_dropped = {}, 0
    for path in sorted(folder.glob("keys-th-*.npy")):
        match = VISIBILITY_FILE.fullmatch(path.name)
        if match is None:
            continue
        try:
            keys = [str(key) for key in np.load(path, allow_pickle=False)]
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is no list of pairs: {error}") from error
        pairs = [pair for key in keys if (pair := _split_key(key, known)) is not None]
        covisible[float(match[1])] = tuple(pairs)
        num_dropped = max(num_dropped, len(keys) - len(pairs))
    return covisible, num_dropped


def _split_key(key: str, known: Mapping[str, Camera]) -> Pair | None:
    """Return the two images of ``imageA-imageB``; None unless both are known."""
    cuts = [(key[:i], key[i + 1 :]) for i, letter in enumerate(key) if letter == "-"]
    return next(((a, b) for a, b in cuts if a in known and b in known), None)


def _read_bags(
    folder: Path, images: Mapping[str, Path]
) -> tuple[dict[int, tuple[tuple[str, ...], ...]], int]:
    bags: dict[int, list[tuple[str, ...]]] = {}
    num_dropped = 0
    for path in sorted(folder.glob("*bag_*.txt")):
        if (match := BAG_FILE.fullmatch(path.name)) is None:
            continue
        names = tuple(Path(line).stem for line in path.read_text(encoding="utf-8").split())
        if all(name in images for name in names):
            bags.setdefault(int(match[1]), []).append(names)
        else:
            num_dropped += 1
    return {size: tuple(bags[size]) for size in sorted(bags)}, num_dropped
