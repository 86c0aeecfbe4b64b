"""Weights files of detectors: safetensors that say what they are.

A detector file holds the baked convolutions (what inference runs), the free parameters they were
baked from (what training goes on from), and in its metadata the architecture with the pixel range,
and where the weights come from. Nothing is parsed from file names.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rekd_hloc.config import NetworkConfig, config_tree
from rekd_hloc.config_file import defaults_left_out
from rekd_hloc.features.detector.frozen import FrozenBackbone
from rekd_hloc.features.detector.network import DetectorNetwork, Rekd, build_frozen
from rekd_hloc.features.detector.steerable import SteerableBackbone
from rekd_hloc.features.runtimes import TORCH, compute_with
from rekd_hloc.weight_files import read_weights, shipped_names, shipped_path, write_weights

DETECTOR_FORMAT = "rekd_hloc detector 1"
LEARNED_PREFIX = "learned."
HEAD_PREFIXES = ("score_norm.", "score_head.")


def resolve_weights(name: str) -> Path:
    """Return the file behind the name of shipped weights, or behind a path.

    Raises:
        FileNotFoundError: neither; the message lists the detectors that ship.
    """
    for path in (shipped_path(name), Path(name)):
        if path.is_file():
            return path
    names = ", ".join(shipped_names(DETECTOR_FORMAT))
    raise FileNotFoundError(f"no weights {name!r}: shipped are {names}; or give a file's path")


def save_detector(
    path: Path,
    network: Rekd,
    config: NetworkConfig,
    provenance: Mapping[str, Any],
) -> None:
    """Bake a trained network and write it.

    Args:
        path: the file to write.
        network: with a steerable backbone; its batch statistics are those of eval mode.
        config: its architecture.
        provenance: where the weights come from: data hash, steps, metrics; any JSON values.

    Raises:
        ValueError: the backbone is baked already, or a weight is not finite.
    """
    backbone = network.backbone
    if not isinstance(backbone, SteerableBackbone):
        raise ValueError(
            f"cannot bake a {type(backbone).__name__}; give the network that was trained"
        )
    write_detector(
        path, network, backbone.bake(), backbone.learned_state(), config, dict(provenance)
    )


def write_detector(
    path: Path,
    network: Rekd,
    baked: FrozenBackbone,
    learned: Mapping[str, Tensor],
    config: NetworkConfig,
    provenance: Mapping[str, Any],
) -> None:
    """Write a detector file from a backbone that is baked already.

    Args:
        path: the file to write.
        network: its score head, with batch normalisation, is what is written.
        baked: the convolutions to run.
        learned: the free parameters that they come from, in the names of
            :meth:`~rekd_hloc.features.detector.steerable.SteerableBackbone.learned_state`.
        config: the architecture.
        provenance: any JSON values.

    Raises:
        ValueError: a weight is not finite; the message names it.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in baked.state_dict().items()}
    weight, bias = _fold_score_head(network)
    tensors |= {"score_head.weight": weight, "score_head.bias": bias}
    tensors |= {f"{LEARNED_PREFIX}backbone.{name}": tensor for name, tensor in learned.items()}
    for name, tensor in network.state_dict().items():
        if name.startswith(HEAD_PREFIXES):
            tensors[f"{LEARNED_PREFIX}head.{name}"] = tensor.clone()
    odd = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if odd:
        raise ValueError(f"weights are not finite: {', '.join(odd[:5])}; the training diverged")
    metadata = {
        "format": DETECTOR_FORMAT,
        "network": json.dumps(config_tree(config)),
        "provenance": json.dumps(dict(provenance)),
    }
    write_weights(path, tensors, metadata)


def load_detector(path: Path, *, tile_rows: int = -1) -> tuple[Rekd, NetworkConfig]:
    """Return an inference network in eval mode, and its architecture, as the file states it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no detector of this project, or does not fit its own metadata.
    """
    tensors, metadata = _read_detector(path)
    config = _stated_config(path, metadata)
    network = build_frozen(config, tile_rows=tile_rows)
    baked = {k: v for k, v in tensors.items() if not k.startswith(LEARNED_PREFIX)}
    try:
        network.load_state_dict(baked)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit its architecture: {reason}") from error
    return network.requires_grad_(False), config


def load_network(
    path: Path,
    *,
    tile_rows: int = -1,
    device: torch.device | str = "cpu",
    runtime: str = TORCH,
) -> DetectorNetwork:
    """Load a detector's network to run, as the file's ending says.

    Args:
        path: the file.
        tile_rows: height of the strips that it runs in.
        device: where images will be.
        runtime: what computes the convolutions, see :class:`~rekd_hloc.config.ExtractConfig`.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_detector`; or the runtime cannot compute it.
        ImportError: the runtime is not installed.
    """
    device = torch.device(device)
    network = RUNTIMES.get(path.suffix, _load_torch)(path, tile_rows, device)
    if runtime == TORCH:
        return network
    if not isinstance(network, Rekd):
        raise ValueError(f"{path} has a runtime of its own; take runtime=torch, got {runtime!r}")
    return compute_with(network, runtime, device)


def _load_torch(path: Path, tile_rows: int, device: torch.device) -> DetectorNetwork:
    return load_detector(path, tile_rows=tile_rows)[0].to(device)


RUNTIMES: dict[str, Callable[[Path, int, torch.device], DetectorNetwork]] = {
    ".safetensors": _load_torch,
}
"""What loads a network of a file, rows of a strip and device, by the file's ending."""


def detector_config(path: Path) -> NetworkConfig:
    """Return the architecture that a detector file states.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_detector`.
    """
    _, metadata = _read_detector(path)
    return _stated_config(path, metadata)


def detector_provenance(path: Path) -> dict[str, Any]:
    """Return where the weights of a detector file come from, as :func:`save_detector` was told.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_weights`.
    """
    _, metadata = read_weights(path)
    provenance: dict[str, Any] = json.loads(metadata.get("provenance", "{}"))
    return provenance


def parse_network_config(stated: Mapping[str, Any]) -> NetworkConfig:
    """Return the architecture that a weights file or a checkpoint states.

    Raises:
        ValueError: an option is missing, unknown or out of range.
    """
    stated = {**defaults_left_out(NetworkConfig), **stated}
    known = {item.name for item in fields(NetworkConfig)}
    odd = sorted(known ^ set(stated))
    if odd:
        raise ValueError(f"options missing or unknown: {', '.join(odd)}")
    return NetworkConfig(**{**stated, "fields": tuple(stated["fields"])})


def learned_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read the free parameters of a detector file: ``{"backbone": ..., "head": ...}``, to train on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds none.
    """
    tensors, _ = read_weights(path)
    if not any(name.startswith(LEARNED_PREFIX) for name in tensors):
        raise ValueError(f"{path} holds no free parameters of a detector to train on")
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
    for name, tensor in tensors.items():
        if name.startswith(LEARNED_PREFIX):
            part, rest = name.removeprefix(LEARNED_PREFIX).split(".", 1)
            parts[part][rest] = tensor
    return parts


def _read_detector(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = read_weights(path)
    if metadata.get("format") != DETECTOR_FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, a detector has {DETECTOR_FORMAT!r}"
        )
    return tensors, metadata


def _stated_config(path: Path, metadata: Mapping[str, str]) -> NetworkConfig:
    try:
        return parse_network_config(json.loads(metadata.get("network", "{}")))
    except ValueError as error:
        raise ValueError(f"{path} states no architecture that is known here: {error}") from error


def _fold_score_head(network: Rekd) -> tuple[Tensor, Tensor]:
    norm, head = network.score_norm, network.score_head
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    assert head.bias is not None
    with torch.no_grad():
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        offset = norm.bias - norm.running_mean * gain
        weight = head.weight * gain[None, :, None, None]
        bias = head.bias + (head.weight[:, :, 0, 0] * offset).sum(dim=1)
    return weight, bias
