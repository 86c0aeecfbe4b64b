"""Descriptor networks by name: this project's HardNet, or published ones on request.

The architecture is kornia's HardNet (Mishchuk et al., NIPS 2017). Batch normalisation is folded
into the convolutions when weights are loaded, which changes no value by more than rounding and
saves 40 % of the time. Files of other programs are recognised by the tensors in them. A HardNet of
several input channels sees as many supports, and one may be narrower: see :mod:`support_hardnet`.
"""

import importlib
import json
import logging
import math
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.feature
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rekd_hloc.features.descriptor.support_hardnet import (
    FIRST_LAYER,
    FULL_WIDTH,
    SupportHardNet,
    supports_of,
)
from rekd_hloc.features.descriptor.tfeat import TFeat
from rekd_hloc.features.precision import full_precision, half_precision, has_fast_bfloat16
from rekd_hloc.features.tensor_files import load_tensors
from rekd_hloc.files import atomic_write
from rekd_hloc.weight_files import read_weights, shipped_names, shipped_path, write_weights

logger = logging.getLogger(__name__)

DESCRIPTOR_FORMAT = "rekd_hloc descriptor 1"
SHIPPED = "hardnet"
"""Name of the shipped weights that ``default`` stands for."""
CPU_BATCH = 64
GPU_BATCH = 2048
"""Patches at once, unless said otherwise."""
DOWNLOAD_TIMEOUT_S = 30
MAX_SUPPORTS = 4
"""Largest number of supports of a file that does not state their factors."""
MAX_WIDTH = 256
"""Most channels of a first layer for which a HardNet is built to compare."""

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "HardNet": lambda: kornia.feature.HardNet(pretrained=False),
    "TFeat": TFeat,
    "SOSNet": lambda: kornia.feature.SOSNet(pretrained=False),
    "HyNet": lambda: kornia.feature.HyNet(pretrained=False),
}
"""Networks that a weights file may belong to, of any width; a file is recognised by its tensors."""

PUBLISHED = {
    "official": ("HardNet", "kornia.feature.hardnet", "hardnet++"),
    "sosnet": ("SOSNet", "kornia.feature.sosnet", "lib"),
    "hynet": ("HyNet", "kornia.feature.hynet", "liberty"),
}
"""Names of published weights: architecture, and where kornia lists their address."""


def resolve_hardnet(name: str) -> Path:
    """Return the file behind a name.

    Args:
        name: ``default`` or the name of other shipped weights, ``official`` (HardNet++),
            ``sosnet``, ``hynet`` (downloaded to torch hub's folder if they are not there yet),
            ``sosnet:FILE``, ``hynet:FILE``, or a file of any of these networks.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be downloaded.
    """
    path = shipped_path(SHIPPED if name == "default" else name)
    if path.is_file():
        return path
    if name in PUBLISHED:
        return _cached_or_downloaded(name)
    if name != "default":
        path = _split_prefix(name)[1]
    if not path.is_file():
        known = ", ".join(["default", *shipped_names(DESCRIPTOR_FORMAT), *PUBLISHED])
        raise FileNotFoundError(f"no descriptor weights {path}: give one of {known}, or a file")
    return path


def load_hardnet(name: str) -> nn.Module:
    """Load the network of that name (see :func:`resolve_hardnet`), in eval mode, without gradients.

    Raises:
        FileNotFoundError: as :func:`resolve_hardnet`.
        ValueError: the file holds none of the known networks.
    """
    path = resolve_hardnet(name)
    wanted = PUBLISHED[name][0] if name in PUBLISHED else _split_prefix(name)[0]
    state, supports = _read_state(path)
    for architecture in [wanted] if wanted else ARCHITECTURES:
        network = _build(architecture, supports, _read_width(state))
        expected = network.state_dict()
        if _fits(state, expected):
            network.load_state_dict({key: state.get(key, expected[key]) for key in expected})
            network.eval().requires_grad_(False)
            if architecture == "HardNet":
                _fold_normalisation(network)
            return network
    kinds = wanted or ", ".join(ARCHITECTURES)
    raise ValueError(f"{path} does not hold the weights of a descriptor network ({kinds})")


def read_hardnet(name: str) -> dict[str, Tensor]:
    """Return the tensors of a HardNet as it was trained, for a training that goes on from them.

    Args:
        name: as for :func:`resolve_hardnet`.

    Raises:
        FileNotFoundError: as :func:`resolve_hardnet`.
        ValueError: the file holds no HardNet.
    """
    path = resolve_hardnet(name)
    state, supports = _read_state(path)
    expected = _build("HardNet", supports, _read_width(state)).state_dict()
    if not _fits(state, expected):
        raise ValueError(f"{path} does not hold the weights of a HardNet")
    return {key: state.get(key, expected[key]) for key in expected}


def save_descriptor(path: Path, network: nn.Module, provenance: dict[str, Any]) -> None:
    """Write HardNet weights as they ship.

    Args:
        path: the file to write.
        network: kornia's HardNet or :class:`SupportHardNet`, not folded.
        provenance: where the weights come from: data hash, steps, metrics; any JSON values.
    """
    metadata = {
        "format": DESCRIPTOR_FORMAT,
        "architecture": "HardNet",
        "provenance": json.dumps(provenance),
    }
    if len(supports_of(network)) > 1:  # files of one support stay what they were
        metadata["supports"] = json.dumps(supports_of(network))
    write_weights(path, {k: t.detach() for k, t in network.state_dict().items()}, metadata)


@torch.no_grad()
def describe(
    network: nn.Module,
    patches: Float[Tensor, "patch support 32 32"],
    batch_size: int,
    *,
    autocast: bool = False,
) -> Float[Tensor, "patch channel"]:
    """Describe patches by unit vectors of the network's width.

    ``batch_size`` patches are described at once; 0 takes what the device does best. With
    ``autocast`` the network runs in 16 bits where that is faster.
    A patch that the network maps to zero, as it may a flat one, gets the unit vector of equal
    entries, so that every descriptor can be compared.
    """
    if len(patches) == 0:
        blank = patches.new_zeros(1, *patches.shape[1:])
        return patches.new_zeros(0, network(blank).shape[1])
    count = batch_size or (CPU_BATCH if patches.device.type == "cpu" else GPU_BATCH)
    is_low = autocast and (patches.device.type != "cpu" or has_fast_bfloat16())
    with (half_precision if is_low else full_precision)(patches.device):
        parts = [network(part).float() for part in torch.split(patches, count)]
    return unit_rows(torch.cat(parts))


def unit_rows(raw: Float[Tensor, "patch channel"]) -> Float[Tensor, "patch channel"]:
    """Return rows of length 1; one of zeros, or without a number, gets equal entries."""
    raw = raw.nan_to_num(posinf=0.0, neginf=0.0)
    length = raw.norm(dim=1, keepdim=True)
    flat = torch.full_like(raw, raw.shape[1] ** -0.5)
    return torch.where(length > 1e-6, raw / length.clamp(min=1e-6), flat)


def _split_prefix(name: str) -> tuple[str, Path]:
    """Architecture that a name like ``sosnet:FILE`` asks for (or none), and the file."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in PUBLISHED:
        return PUBLISHED[prefix][0], Path(rest)
    return "", Path(name)


def _cached_or_downloaded(name: str) -> Path:
    architecture, module, key = PUBLISHED[name]
    urls = importlib.import_module(module).urls[key]
    addresses = [urls] if isinstance(urls, str) else list(urls)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for address in addresses:
        if (folder / address.rsplit("/", 1)[1]).is_file():
            return folder / address.rsplit("/", 1)[1]
    reasons = []
    for address in addresses:
        try:
            return _download(address, folder / address.rsplit("/", 1)[1])
        except OSError as error:  # no network, no such host, no right to write
            reasons.append(str(error))
    raise FileNotFoundError(
        f"descriptor weights {name!r} ({architecture}) are not in {folder} and cannot be "
        f"downloaded ({'; '.join(reasons)}); fetch {addresses[0]} into that folder by hand, or use "
        "descriptor.weights=default"
    )


def _download(address: str, path: Path) -> Path:
    logger.info("downloading %s to %s", address, path)
    with (
        urllib.request.urlopen(address, timeout=DOWNLOAD_TIMEOUT_S) as source,
        atomic_write(path) as scratch,
    ):
        with scratch.open("wb") as target:
            shutil.copyfileobj(source, target)
        if getattr(source, "length", 0):  # bytes announced and not received
            raise ConnectionError(f"the download of {address} ended early")
    return path


def _build(architecture: str, supports: tuple[float, ...], width: int) -> nn.Module:
    if architecture == "HardNet" and (len(supports) > 1 or width != FULL_WIDTH):
        return SupportHardNet(supports=supports, width=width)
    return ARCHITECTURES[architecture]()


def _read_width(tensors: dict[str, Tensor]) -> int:
    """Return the channels of a HardNet's first layer, of the paper's if there is no such layer."""
    first = tensors.get(FIRST_LAYER, torch.zeros(0))
    return len(first) if first.ndim == 4 and 0 < len(first) <= MAX_WIDTH else FULL_WIDTH


def _read_state(path: Path) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    """Read the tensors of a file, and the supports of the network that they belong to."""
    if path.suffix == ".safetensors":
        tensors, metadata = read_weights(path)
        if metadata.get("format") != DESCRIPTOR_FORMAT:
            raise ValueError(
                f"{path} has format {metadata.get('format')!r}, a descriptor has "
                f"{DESCRIPTOR_FORMAT!r}"
            )
        return tensors, _read_supports(path, tensors, metadata.get("supports", ""))
    content = load_tensors(path, "a weights file")
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return tensors, _read_supports(path, tensors, "")


def _read_supports(path: Path, tensors: dict[str, Tensor], stated: str) -> tuple[float, ...]:
    """Return the factors that a file states, or 1, 2, 4 for as many channels as it has."""
    first = tensors.get(FIRST_LAYER, torch.zeros(0, 1))
    num_channels = first.shape[1] if first.ndim == 4 else 1
    if not stated:
        return tuple(2.0**number for number in range(min(max(num_channels, 1), MAX_SUPPORTS)))
    try:
        supports = tuple(float(factor) for factor in json.loads(stated))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} states supports {stated!r}, which are no numbers") from error
    if len(supports) != num_channels or not all(0 < factor < math.inf for factor in supports):
        raise ValueError(
            f"{path} states supports {stated!r}; its first layer needs {num_channels} positive "
            "factors: export the weights again"
        )
    return supports


def _fits(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Say whether every tensor of a network is in a file; counters of batches may be missing."""
    needed = {k: v.shape for k, v in expected.items() if not k.endswith("num_batches_tracked")}
    return all(key in state and state[key].shape == shape for key, shape in needed.items())


def _fold_normalisation(network: nn.Module) -> None:
    """Put each batch normalisation into the convolution before it; drop the dropout."""
    folded: list[nn.Module] = []
    for layer in network.features.children():  # type: ignore[union-attr]
        if isinstance(layer, nn.BatchNorm2d):
            convolution = folded.pop()
            assert isinstance(convolution, nn.Conv2d)
            folded.append(fuse_conv_bn_eval(convolution, layer))
        elif isinstance(layer, nn.ReLU):
            folded.append(nn.ReLU(inplace=True))
        elif not isinstance(layer, nn.Dropout):
            folded.append(layer)
    network.features = nn.Sequential(*folded).requires_grad_(False)
