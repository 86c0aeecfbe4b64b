"""Methods by name, ours and their peers, all as functions from an image file to features.

Every method is real and goes through the same matcher and metrics. ``file:PATH`` reads features
that any hloc extractor stored. ``DETECTOR+ours`` describes a detector's keypoints with this
project's descriptor, so that detectors are compared alone.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import kornia
import torch

from evaluation.classical import (
    CLASSICAL,
    OPENCV_METHODS,
    PATCH_SIDE,
    SIFT_PATCH_SIDE,
    colmap_sift_method,
    keypoints_from_opencv,
    opencv_method,
    to_root,
)
from evaluation.learned import (
    KEYNET_PATCH_SIDE,
    LEARNED,
    aliked_method,
    disk_method,
    load_keynet_detector,
    weights_file,
)
from rekd_hloc.config import PRESETS, get_preset, load_config, with_max_keypoints
from rekd_hloc.descriptor.hardnet import describe, load_hardnet, resolve_hardnet
from rekd_hloc.descriptor.patches import cut_patches
from rekd_hloc.extractor import Extractor, choose_device
from rekd_hloc.images import read_image
from rekd_hloc.types import Features, Keypoints
from rekd_hloc.weights import weights_hash

if TYPE_CHECKING:
    from rekd_hloc.store import FeatureStore

__all__ = [
    "CLASSICAL", "LEARNED", "METHODS", "Method", "keypoints_from_opencv", "limit", "load_method",
    "strongest_first", "to_root",
]  # fmt: skip

METHODS = (*PRESETS, *CLASSICAL, *LEARNED)
WITHOUT_ORIENTATION = ("rootsift-upright", "keynet", "disk", "aliked-n16", "aliked-n16rot")
OURS = "+ours"
FILE = "file:"
DESCRIBE_BATCH = 512


@dataclass(frozen=True)
class Method:
    """A function from an image file to features, strongest first, and what it is made of."""

    name: str
    extract: Callable[[Path], Features] = field(repr=False)
    provenance: dict[str, str]
    """Configuration, versions and hashes of weights; equal ones give equal features."""
    has_orientation: bool = True
    """False where all angles are zero, so that orientation filters do not apply."""
    patch_side: float = 64.0
    """Side in pixels, for scale 1, of the patch that ``METHOD+ours`` describes."""
    is_stored: bool = False
    """Whether features are read from a file, so that changed images cannot be asked for."""

    def __call__(self, path: Path) -> Features:
        """Features of an image file, strongest first."""
        return strongest_first(self.extract(path))

    @property
    def weights(self) -> str:
        """Hashes of the weights in short; ``-`` for methods without any."""
        parts = [v for k, v in sorted(self.provenance.items()) if k.endswith("weights")]
        return " ".join(parts) or "-"


def load_method(
    name: str,
    num_keypoints: int,
    *,
    device: str = "auto",
    overrides: Sequence[str] = (),
    weights: Path | None = None,
    image_root: Path | None = None,
) -> Method:
    """The method of that name with a keypoint budget.

    Args:
        name: one of ``METHODS``, ``NAME+ours``, or ``file:PATH``.
        num_keypoints: most keypoints of an image.
        device: where networks run; ``auto`` is CUDA where there is one.
        overrides: ``key=value`` options of this project's presets (and the descriptor of
            ``+ours``); other methods ignore them.
        weights: folder of the peers' weights.
        image_root: folder that the image names in a ``file:`` are relative to.

    Raises:
        ValueError: no such method; the message lists them.
        FileNotFoundError: weights or a features file are not there; the message says what to do.
    """
    if name.startswith(FILE):
        return _file_method(name, num_keypoints, image_root)
    if name.endswith(OURS):
        base_name = name.removesuffix(OURS)
        return _with_our_descriptor(base_name, num_keypoints, device, overrides, weights)
    if name in PRESETS:
        return _preset_method(name, num_keypoints, device, overrides)
    place = choose_device(device)
    if name in OPENCV_METHODS:
        extract, version = opencv_method(name, num_keypoints), f"opencv {cv2.__version__}"
    elif name == "colmap-sift":
        extract, version = colmap_sift_method(num_keypoints), _pycolmap_version()
    elif name == "keynet":
        return _with_our_descriptor(name, num_keypoints, device, overrides, weights)
    elif name == "disk":
        extract = disk_method(num_keypoints, place, weights)
        version = f"kornia {kornia.__version__}"
    elif name in LEARNED:
        extract = aliked_method(name, num_keypoints, place, weights)
        version = f"kornia {kornia.__version__}"
    else:
        raise ValueError(
            f"no method {name!r}; methods are {', '.join(METHODS)}, file:PATH, and any "
            "detector's name with +ours"
        )
    provenance = {"method": name, "version": version, "num_keypoints": str(num_keypoints)}
    if name in LEARNED:
        provenance["weights"] = weights_hash(weights_file(name, weights))
    side = PATCH_SIDE.get(name, SIFT_PATCH_SIDE if name in CLASSICAL else 64.0)
    return Method(name, extract, provenance, name not in WITHOUT_ORIENTATION, side)


def strongest_first(features: Features) -> Features:
    """The same features in order of falling score."""
    order = torch.argsort(features.keypoints.score, descending=True, stable=True)
    return replace(
        features, keypoints=features.keypoints[order], descriptors=features.descriptors[order]
    )


def limit(features: Features, count: int) -> Features:
    """The strongest ``count`` keypoints."""
    order = torch.argsort(features.keypoints.score, descending=True, stable=True)[:count]
    return replace(
        features, keypoints=features.keypoints[order], descriptors=features.descriptors[order]
    )


def _preset_method(name: str, num_keypoints: int, device: str, overrides: Sequence[str]) -> Method:
    config = with_max_keypoints(load_config(get_preset(name), None, overrides), num_keypoints)
    extractor = Extractor.from_pretrained(name, device=device, config=config)
    return Method(name, extractor, dict(extractor.provenance))


def _with_our_descriptor(
    base_name: str,
    num_keypoints: int,
    device: str,
    overrides: Sequence[str],
    weights: Path | None,
) -> Method:
    """A detector's keypoints described by our network; upright where they have no angle."""
    place = choose_device(device)
    config = load_config(get_preset("rekd"), None, overrides).descriptor
    network = load_hardnet(config.weights).to(place)
    detect: Callable[[Path], Keypoints]
    if base_name == "keynet":
        detect = load_keynet_detector(num_keypoints, place, weights)
        name, side, oriented = "keynet", KEYNET_PATCH_SIDE, False
        provenance = {
            "method": name,
            "version": f"kornia {kornia.__version__}",
            "num_keypoints": str(num_keypoints),
            "detector_weights": weights_hash(weights_file(name, weights)),
        }
    else:
        base = load_method(base_name, num_keypoints, device=device, weights=weights)
        name, side, oriented = base_name + OURS, base.patch_side, base.has_orientation
        provenance = {**base.provenance, "method": name}

        def detect(path: Path) -> Keypoints:
            return base(path).keypoints

    @torch.inference_mode()
    def extract(path: Path) -> Features:
        keypoints = detect(path)
        grey = read_image(path).to(place)
        patches = cut_patches(
            grey, keypoints.to(place), support=side, oriented=oriented, antialias=config.antialias
        )
        descriptors = describe(network, patches, config.batch_size).cpu()
        return Features(keypoints, descriptors, (grey.shape[1], grey.shape[0]))

    provenance["descriptor_weights"] = weights_hash(resolve_hardnet(config.weights))
    return Method(name, extract, provenance, oriented, side)


def _file_method(name: str, num_keypoints: int, image_root: Path | None) -> Method:
    from rekd_hloc.store import FeatureStore

    path = Path(name.removeprefix(FILE))
    if image_root is None:
        raise ValueError(f"{name} needs the images its features belong to; it cannot be used here")
    store = FeatureStore(path)
    names = store.names()
    if not names:
        raise ValueError(f"features file {path} holds no image")

    def extract(image: Path) -> Features:
        return limit(store.read(_stored_name(store, image, image_root)), num_keypoints)

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    provenance = {
        "method": name,
        "file_sha256": digest,
        "stored_provenance": json.dumps(store.provenance, sort_keys=True),
        "num_keypoints": str(num_keypoints),
    }
    return Method(name, extract, provenance, store.has_orientation(names[0]), is_stored=True)


def _stored_name(store: "FeatureStore", image: Path, image_root: Path) -> str:
    relative = image.relative_to(image_root) if image.is_relative_to(image_root) else image
    for candidate in (relative.as_posix(), image.as_posix(), image.name):
        if candidate in store:
            return candidate
    raise ValueError(
        f"the features file has no image {relative.as_posix()!r}; names in it must be relative to "
        f"{image_root}"
    )


def _pycolmap_version() -> str:
    import pycolmap

    return f"pycolmap {pycolmap.__version__}"
