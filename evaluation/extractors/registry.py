"""Extractors by name: this project's presets and their peers.

Every extractor is real and goes through the same matcher and metrics. ``file:PATH`` reads features
that any hloc extractor stored. ``DETECTOR+rekd-hardnet`` describes a detector's keypoints with this
project's descriptor, so that detectors are compared alone.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import kornia
import torch

from evaluation.extractors import light_glue
from evaluation.extractors.classical import (
    CLASSICAL,
    OPENCV_EXTRACTORS,
    colmap_sift_extractor,
    keypoints_from_opencv,
    opencv_extractor,
    takes_all_sift,
    to_root,
)
from evaluation.extractors.learned import (
    KEYNET,
    LEARNED,
    aliked_extractor,
    disk_extractor,
    keynet_extractor,
    weights_file,
    xfeat_extractor,
)
from evaluation.extractors.named_extractor import (
    LEVEL_PATCH_SIDE,
    Image,
    NamedExtractor,
    grey_of,
    limit,
    strongest_first,
)
from rekd_hloc.config import PRESETS, get_preset, load_config, with_max_keypoints
from rekd_hloc.devices import choose_device
from rekd_hloc.features.descriptor.hardnet import describe, load_hardnet, resolve_hardnet
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.extractor import GPU_READERS, Extractor
from rekd_hloc.sfm.keypoint_scales import SIGMA_OF_LEVEL
from rekd_hloc.types import Features
from rekd_hloc.weight_files import weights_hash

if TYPE_CHECKING:
    from rekd_hloc.storage.features import FeatureStore

__all__ = [
    "CLASSICAL",
    "EXTRACTORS",
    "LEARNED",
    "NamedExtractor",
    "keypoints_from_opencv",
    "limit",
    "load_extractor",
    "strongest_first",
    "to_root",
]

EXTRACTORS = (*PRESETS, *CLASSICAL, *LEARNED)
EARLIER = "-0.1"
"""Behind the name of a preset: as version 0.1 had it, so that tables have old beside new."""
EARLIER_OPTIONS = ("ranking=none", "descriptor.weights=hardnet-0.1")
COLOUR = ("disk", "aliked-n16", "aliked-n16rot", "xfeat")
WITHOUT_ORIENTATION = ("rootsift-upright", "keynet", "disk", "aliked-n16", "aliked-n16rot", "xfeat")
HARDNET = "+rekd-hardnet"
OLD_HARDNET = "+ours"
"""What :data:`HARDNET` was called; it is still read."""
FILE = "file:"
SIFT_PATCH_SIDE = 12.0
"""Side in pixels, for scale 1, of the patch that describes a keypoint: 12 sigma of SIFT."""
PATCH_SIDE = {
    **dict.fromkeys(CLASSICAL, SIFT_PATCH_SIDE),
    "orb": LEVEL_PATCH_SIDE / 15.5,  # its scale is half of the 31 px that it describes
    KEYNET: 44.0,  # its frames have half sides of 22 px of their level
}

LEVEL_SCALE = {
    **dict.fromkeys(CLASSICAL, SIGMA_OF_LEVEL),
    "orb": 15.5,  # half of the 31 px that it describes at the image's own size
    "akaze": 1.5 * SIGMA_OF_LEVEL,  # OpenCV multiplies its sigma by that
}
"""Scale at the image's own size, of extractors whose scale is not 1 there."""


def load_extractor(
    name: str, num_keypoints: int, *, device: str = "auto", overrides: Sequence[str] = (),
    weights: Path | None = None, image_root: Path | None = None, matches_pairs: bool = False,
) -> NamedExtractor:  # fmt: skip
    """Return the extractor of that name with a keypoint budget.

    Args:
        name: one of ``EXTRACTORS``, ``NAME+rekd-hardnet``, ``PRESET-0.1``, or ``file:PATH``.
        num_keypoints: most keypoints of an image.
        device: where networks run; ``auto`` is CUDA where there is one.
        overrides: ``key=value`` options of this project's presets (and the descriptor of
            ``+rekd-hardnet``); other extractors ignore them.
        weights: folder of the peers' weights.
        image_root: folder that the image names in a ``file:`` are relative to.
        matches_pairs: the caller matches by :func:`evaluation.relative_pose.matching.match_pairs`,
            which asks LightGlue for methods of the name ``NAME+lightglue``.

    Raises:
        ValueError: no such extractor; the message lists them. Or one with LightGlue for a caller
            that does not ask it.
        FileNotFoundError: weights or a features file are not there; the message says what to do.
    """
    if name.endswith(OLD_HARDNET):
        name = name.removesuffix(OLD_HARDNET) + HARDNET
    if name.startswith(FILE):
        return _file_extractor(name, num_keypoints, image_root)
    if name.endswith(light_glue.SUFFIX):
        return _with_light_glue(name, num_keypoints, device, weights, matches_pairs=matches_pairs)
    if name in PRESETS:
        return _preset_extractor(name, num_keypoints, device, overrides)
    if name.removesuffix(EARLIER) in PRESETS:
        preset, earlier = name.removesuffix(EARLIER), (*EARLIER_OPTIONS, *overrides)
        return replace(_preset_extractor(preset, num_keypoints, device, earlier), name=name)
    torch_device = choose_device(device)
    base_name = name.removesuffix(HARDNET)
    if base_name not in EXTRACTORS:
        raise ValueError(
            f"no method {name!r}; methods are {', '.join((*EXTRACTORS, *light_glue.METHODS))}, "
            f"file:PATH, any detector's name with {HARDNET}, and presets with {EARLIER}"
        )
    if base_name in PRESETS:
        raise ValueError(f"{name!r}: {base_name} has that descriptor already; leave {HARDNET} away")
    peer = _peer_extractor(base_name, num_keypoints, torch_device, weights)
    if name == KEYNET or name.endswith(HARDNET):
        return _with_hardnet(name, peer, torch_device, overrides)
    return peer


def _preset_extractor(
    name: str, num_keypoints: int, device: str, overrides: Sequence[str]
) -> NamedExtractor:
    config = with_max_keypoints(load_config(get_preset(name), None, overrides), num_keypoints)
    extractor = Extractor.from_pretrained(name, device=device, config=config)
    return NamedExtractor(
        name, extractor, dict(extractor.provenance),
        takes_mask=True, num_readers=extractor.num_readers,
        num_workers=extractor.num_workers, batch_size=extractor.batch_size,
        max_side_px=extractor.max_side_px,
    )  # fmt: skip


def _peer_extractor(
    name: str, num_keypoints: int, device: torch.device, weights: Path | None
) -> NamedExtractor:
    """An extractor of other people, as they publish it; Key.Net has no descriptor of its own."""
    extract: Callable[..., Features]
    version = f"kornia {kornia.__version__}"
    if name in OPENCV_EXTRACTORS:
        extract, version = opencv_extractor(name, num_keypoints), f"opencv {cv2.__version__}"
        version += ", every extremum" if takes_all_sift(name, num_keypoints) else ""
    elif name == "colmap-sift":
        extract, version = colmap_sift_extractor(num_keypoints), _pycolmap_version()
    elif name == KEYNET:
        extract = keynet_extractor(num_keypoints, device, weights)
    elif name == "disk":
        extract = disk_extractor(num_keypoints, device, weights)
    elif name == "xfeat":
        extract = xfeat_extractor(num_keypoints, device, weights)
    else:
        extract = aliked_extractor(name, num_keypoints, device, weights)
    provenance = {"method": name, "version": version, "num_keypoints": str(num_keypoints)}
    if name in LEARNED:
        provenance["weights"] = weights_hash(weights_file(name, weights))
    side = PATCH_SIDE.get(name, LEVEL_PATCH_SIDE)
    return NamedExtractor(
        name, extract, provenance, name not in WITHOUT_ORIENTATION, side,
        level_scale=LEVEL_SCALE.get(name, 1.0), needs_color=name in COLOUR,
        num_readers=1 if device.type == "cpu" else GPU_READERS,
    )  # fmt: skip


def _with_light_glue(
    name: str, num_keypoints: int, device: str, weights: Path | None, *, matches_pairs: bool
) -> NamedExtractor:
    """Features of a peer, whose file says that LightGlue matches them."""
    if name not in light_glue.METHODS:
        known = ", ".join(light_glue.METHODS)
        raise ValueError(f"no method {name!r}; with LightGlue there are {known}")
    if not matches_pairs:
        raise ValueError(f"{name}: LightGlue is for the programs pose and imc alone")
    base = name.removesuffix(light_glue.SUFFIX)
    peer = _peer_extractor(base, num_keypoints, choose_device(device), weights)
    file = light_glue.FILES[base]
    light_glue.find_weights(file)  # raises what is missing before the work
    return replace(peer, name=name, provenance={**peer.provenance, light_glue.KEY: file})


def _with_hardnet(
    name: str, base: NamedExtractor, device: torch.device, overrides: Sequence[str]
) -> NamedExtractor:
    """Return a detector's keypoints described by our HardNet; upright where they have no angle."""
    config = load_config(get_preset("rekd"), None, overrides).descriptor
    network = load_hardnet(config.weights).to(device)

    @torch.inference_mode()
    def extract(image: Image) -> Features:
        features = base(image)
        patches = cut_patches(
            grey_of(image).to(device),
            features.keypoints.to(device),
            patch_size_px=base.patch_side,
            oriented=base.has_orientation,
            antialias=config.antialias,
            supports=supports_of(network),
        )
        return replace(features, descriptors=describe(network, patches, config.batch_size).cpu())

    provenance = {
        **base.provenance,
        "method": name,
        "descriptor_weights": weights_hash(resolve_hardnet(config.weights)),
    }
    return replace(base, name=name, extract=extract, provenance=provenance)


def _file_extractor(name: str, num_keypoints: int, image_root: Path | None) -> NamedExtractor:
    from rekd_hloc.storage.features import FeatureStore

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
    return NamedExtractor(
        name,
        extract,
        provenance,
        store.has_orientation(names[0]),
        is_stored=True,
        level_scale=_stored_level_scale(store, names[0]),
    )


def _stored_level_scale(store: "FeatureStore", name: str) -> float:
    """Files of this package hold scales of levels, others sigmas; without scales all are 1."""
    from rekd_hloc.storage.provenance import stored_config

    is_native = bool(stored_config(store.provenance))
    return 1.0 if is_native or not store.has_scale(name) else SIGMA_OF_LEVEL


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
