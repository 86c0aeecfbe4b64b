"""Learned baselines: Key.Net, DISK, ALIKED, XFeat, in kornia's implementations, from weights files.

Nothing is downloaded: the weights are looked for in the folder that ``--weights`` names, else in
``weights`` of the folder that the environment variable REKD_DATA names, else in
``../shared/data/weights`` beside the checkout.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.feature
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from evaluation.extractors.classical import unit_rows
from rekd_hloc.features.tensor_files import load_tensors
from rekd_hloc.types import Features, Keypoints

KEYNET = "keynet"
LEARNED = (KEYNET, "disk", "aliked-n16", "aliked-n16rot", "xfeat")
FILES = {
    "keynet": ("keynet/keynet_pytorch.pth", "https://github.com/axelBarroso/Key.Net-Pytorch"),
    "disk": ("disk/disk-depth-save.pth", "https://github.com/cvlab-epfl/disk (depth-save.pth)"),
    "aliked-n16": ("aliked/aliked-n16.pth", "https://github.com/Shiaoming/ALIKED"),
    "aliked-n16rot": ("aliked/aliked-n16rot.pth", "https://github.com/Shiaoming/ALIKED"),
    "xfeat": ("xfeat/xfeat.pt", "https://github.com/verlab/accelerated_features"),
}
"""Weights of each extractor below the weights folder, and where they are published."""
ALIKED_CONSTANT = "dkd.hw_grid"
"""A buffer of kornia's ALIKED that the published files do not hold."""

Colour = UInt8[np.ndarray, "height width 3"]
ExtractGrey = Callable[[Float[Tensor, "height width"]], Features]
ExtractColour = Callable[[Colour], Features]


def weights_dir(given: Path | None = None) -> Path:
    """Return the folder of the peers' weights; see the module's docstring."""
    if given is not None:
        return given
    data = os.environ.get("REKD_DATA")
    root = Path(data) if data else Path(__file__).parents[2] / "shared" / "data"
    return root / "weights"


def weights_file(name: str, folder: Path | None = None) -> Path:
    """Return the file of a learned extractor's weights.

    Raises:
        FileNotFoundError: it is not there; the message says where it is published.
    """
    part, origin = FILES[name]
    base = weights_dir(folder)
    for path in (base / part, base / Path(part).name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name} needs the weights {base / part}; they are published at {origin}; "
        "name their folder with --weights, or use features made elsewhere: --method file:PATH"
    )


def keynet_extractor(
    num_keypoints: int, device: torch.device, folder: Path | None = None
) -> ExtractGrey:
    """Return Key.Net, whose keypoints have no angles and no descriptors (rows of no number).

    A keypoint of the image's own size has scale 1.
    """
    state = _read_state(weights_file(KEYNET, folder), "state_dict")
    detector: Any = kornia.feature.KeyNetDetector(pretrained=False, num_features=num_keypoints)
    detector.model.load_state_dict(state)
    detector.eval().requires_grad_(False).to(device)

    def extract(grey: Float[Tensor, "height width"]) -> Features:
        with torch.inference_mode():
            frames, response = detector(grey[None, None].to(device))
        scale = kornia.feature.get_laf_scale(frames)[0, :, 0, 0].cpu() / detector.mr_size
        exists = scale > 0
        xy, score = frames[0, :, :, 2].cpu()[exists], response[0].cpu()[exists]
        keypoints = _without_angle(xy, score, scale[exists])
        return Features(keypoints, torch.zeros(len(keypoints), 0), (grey.shape[1], grey.shape[0]))

    return extract


def disk_extractor(
    num_keypoints: int, device: torch.device, folder: Path | None = None
) -> ExtractColour:
    """Return DISK with the weights trained on depth."""
    network: Any = kornia.feature.DISK()
    network.load_state_dict(_read_state(weights_file("disk", folder), "extractor"))
    network.eval().requires_grad_(False).to(device)

    def extract(image: Colour) -> Features:
        rgb = _to_batch(image, device)
        with torch.inference_mode():
            disk = network(rgb, n=num_keypoints, pad_if_not_divisible=True)[0]
        return _to_features(disk.keypoints, disk.detection_scores, disk.descriptors, rgb)

    return extract


def aliked_extractor(
    name: str, num_keypoints: int, device: torch.device, folder: Path | None = None
) -> ExtractColour:
    """Return ALIKED-n16 or -n16rot, which gives its best keypoints whatever their score.

    Raises:
        ValueError: this kornia has no ALIKED, or the file does not fit it.
    """
    path = weights_file(name, folder)
    network = _build_aliked(name, num_keypoints)
    lacking = network.load_state_dict(_read_state(path, None), strict=False)
    if lacking.unexpected_keys or any(key != ALIKED_CONSTANT for key in lacking.missing_keys):
        raise ValueError(f"{path} does not fit {name}: {lacking}")
    network.eval().requires_grad_(False).to(device)

    def extract(image: Colour) -> Features:
        rgb = _to_batch(image, device)
        with torch.inference_mode():
            aliked = network(rgb)[0]
        return _to_features(aliked.keypoints, aliked.keypoint_scores, aliked.descriptors, rgb)

    return extract


def xfeat_extractor(
    num_keypoints: int, device: torch.device, folder: Path | None = None
) -> ExtractColour:
    """Return XFeat, which looks at a copy of the image whose sides are multiples of 32.

    Raises:
        ValueError: this kornia has no XFeat, or the file does not fit it.
    """
    path = weights_file("xfeat", folder)
    build = getattr(kornia.feature, "XFeat", None)
    if build is None:
        raise ValueError(_lacks("xfeat", "XFeat"))
    network: Any = build(top_k=num_keypoints)
    try:
        network.net.load_state_dict(_read_state(path, None))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit xfeat: {str(error).splitlines()[0]}") from error
    network.eval().requires_grad_(False).to(device)

    def extract(image: Colour) -> Features:
        rgb = _to_batch(image, device)
        with torch.inference_mode():
            found = network.detectAndCompute(rgb)[0]
        sides = torch.tensor([image.shape[1], image.shape[0]], device=device)
        ratio = sides / (sides // 32 * 32).clamp(min=32)
        # kornia scales corners of pixels where these are their centres
        xy = found["keypoints"] + (ratio - 1) / 2
        return _to_features(xy, found["scores"], found["descriptors"], rgb)

    return extract


def _build_aliked(name: str, num_keypoints: int) -> nn.Module:
    build = getattr(kornia.feature, "ALIKED", None)
    if build is None:
        raise ValueError(_lacks(name, "ALIKED"))
    network: nn.Module = build(name, max_num_keypoints=num_keypoints, detection_threshold=0.0)
    return network


def _lacks(name: str, class_name: str) -> str:
    return (
        f"{name} needs a kornia that has {class_name}, this is {kornia.__version__}: "
        "pip install 'kornia>=0.9'; or use features made elsewhere: --method file:PATH"
    )


def _read_state(path: Path, key: str | None) -> dict[str, Tensor]:
    content: Any = load_tensors(path, "a file of weights")
    if key is not None and key not in content:
        raise ValueError(f"{path} holds {', '.join(list(content)[:5])}, no {key!r}")
    state: dict[str, Tensor] = content[key] if key is not None else content
    return state


def _to_batch(image: Colour, device: torch.device) -> Tensor:
    rgb = torch.from_numpy(image.copy()).to(device)
    return rgb.permute(2, 0, 1)[None].float() / 255


def _to_features(xy: Tensor, score: Tensor, descriptors: Tensor, rgb: Tensor) -> Features:
    height, width = rgb.shape[2:]
    keypoints = _without_angle(xy.float().cpu(), score.float().cpu(), torch.ones(len(xy)))
    return Features(keypoints, unit_rows(descriptors.float().cpu()), (width, height))


def _without_angle(xy: Tensor, score: Tensor, scale: Tensor) -> Keypoints:
    return Keypoints(xy=xy, scale=scale, angle=torch.zeros(len(xy)), score=score)
