"""Detector weights from checkpoints: this project's training, and the public release of REKD.

The release (``best_model.pt``) is an e2cnn state dict: learned parameters beside what e2cnn derives
from them. Its architecture is read from names and shapes, its filters from the file itself, so
e2cnn is needed only where a file holds the learned parameters alone.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rekd_hloc
from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector.frozen import FrozenBackbone
from rekd_hloc.features.detector.network import Rekd, build_network
from rekd_hloc.features.detector.steerable import SteerableBackbone
from rekd_hloc.features.tensor_files import load_tensors
from rekd_hloc.features.weights import parse_network_config, save_detector, write_detector
from rekd_hloc.ownership import SAFETENSORS, refuse_kind, replace_bytes

logger = logging.getLogger(__name__)

BLOCKS = ("block1", "block2", "block3")
NORM_STATE = ("weight", "bias", "running_mean", "running_var")
BASIS_5X5 = 11
"""Steerable 5x5 filters from a grey image to one regular field, by e2cnn's default cut-off."""


def convert_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    group_order: int | None = None,
    pixel_range: float = 1.0,
    overwrite: bool = False,
) -> None:
    """Bake a checkpoint of either kind.

    Args:
        checkpoint: of this project's training, or of REKD's release.
        out: the weights file to write. One that is there stays unless it holds the same.
        group_order: for REKD's release, as for :func:`convert_rekd_release`.
        pixel_range: likewise.
        overwrite: replace weights that are another's.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or of neither kind.
        FileExistsError: a file with something else is there, or one that is no weights file.
        OSError: the file cannot be written, or the disk is full.
    """
    refuse_kind(out, SAFETENSORS)
    state = _read_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.safetensors"
        if {"backbone", "head", "network"} <= state.keys():
            bake_training_checkpoint(checkpoint, made)
        else:
            convert_rekd_release(checkpoint, made, group_order=group_order, pixel_range=pixel_range)
        replace_bytes(out, made.read_bytes(), SAFETENSORS, overwrite=overwrite)


def bake_training_checkpoint(checkpoint: Path, out: Path) -> None:
    """Bake a checkpoint of ``training.train_detector``; steps, data and metrics go along.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, of another kind, or its weights are not finite.
        ImportError: e2cnn is not installed.
    """
    state = _read_checkpoint(checkpoint)
    missing = [name for name in ("backbone", "head", "network") if name not in state]
    if missing:
        raise ValueError(
            f"{checkpoint} is no detector checkpoint of this project: it lacks {missing}"
        )
    config = parse_network_config(state["network"])
    backbone = SteerableBackbone(
        group_order=config.group_order, fields=config.fields, initialise=False
    )
    backbone.load_learned_state(state["backbone"])
    network = build_network(config, backbone)
    _load_head(network, state["head"], checkpoint)
    provenance = {
        "source": "rekd_hloc training",
        "version": rekd_hloc.__version__,
        "checkpoint_sha256": _file_hash(checkpoint),
        "steps": state.get("step"),
        "seconds": state.get("seconds"),
        "data_hash": state.get("identity", {}).get("data_hash"),
        "validation": state.get("result"),
        "config": state.get("identity"),
    }
    save_detector(out, network.eval(), config, provenance)


def convert_rekd_release(
    checkpoint: Path,
    out: Path,
    *,
    group_order: int | None = None,
    fields: tuple[int, int, int] | None = None,
    pixel_range: float = 1.0,
) -> None:
    """Convert the REKD release's ``best_model.pt``, or any checkpoint of its code.

    Args:
        checkpoint: an e2cnn state dict.
        out: the weights file to write.
        group_order: refuse a file with another one; None takes what the file has.
        fields: regular fields after each block, likewise.
        pixel_range: white, as the network is to see it: 1 as in the release's evaluation.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, no such state dict, or of another architecture than asked for.
        ImportError: the file holds neither filters nor bases, and e2cnn is not installed.
    """
    state = _read_checkpoint(checkpoint)
    _require_release(state, checkpoint)
    config = _infer_architecture(state, pixel_range, checkpoint)
    for name, asked in (("group_order", group_order), ("fields", fields)):
        trained = getattr(config, name)
        if asked is not None and asked != trained:
            raise ValueError(f"{checkpoint} has {name} {trained}, asked for was {asked}")
    _require_shapes(state, config, checkpoint)
    learned = _learned_parameters(state, config.group_order)
    baked = _bake_from_file(state, config)
    if baked is None:
        steerable = SteerableBackbone(
            group_order=config.group_order, fields=config.fields, initialise=False
        )
        steerable.load_learned_state(learned)
        baked = steerable.bake()
    network = build_network(config, baked)
    head = {f"score_norm.{k}": state[f"last_layer_learner.0.{k}"] for k in NORM_STATE}
    head |= {f"score_head.{k}": state[f"last_layer_learner.1.{k}"] for k in ("weight", "bias")}
    _load_head(network, head, checkpoint)
    provenance = {
        "source": "REKD release (Lee, Kim, Cho, CVPR 2022)",
        "version": rekd_hloc.__version__,
        "checkpoint_sha256": _file_hash(checkpoint),
        "pixel_range": pixel_range,
    }
    write_detector(out, network.eval(), baked, learned, config, provenance)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state = load_tensors(path, "a checkpoint")
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, a checkpoint is a dictionary")
    inner = state.get("state_dict")
    return dict(inner if isinstance(inner, Mapping) else state)


def _require_release(state: Mapping[str, Any], path: Path) -> None:
    needed = [f"{block}.0.weights" for block in BLOCKS] + ["ori_learner.0.weights"]
    needed += [f"last_layer_learner.0.{name}" for name in NORM_STATE]
    needed += ["last_layer_learner.1.weight", "last_layer_learner.1.bias"]
    missing = [name for name in needed if not isinstance(state.get(name), Tensor)]
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of REKD: it lacks {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}"
        )


def _infer_architecture(
    state: Mapping[str, Tensor], pixel_range: float, path: Path
) -> NetworkConfig:
    pattern = re.compile(r"block([123])\.1\.batch_norm_\[(\d+)\]\.weight")
    blocks = [(m, len(state[m.string])) for m in map(pattern.fullmatch, state) if m]
    orders = {int(match[2]) for match, _ in blocks}
    counts = {int(match[1]): count for match, count in blocks}
    if len(orders) != 1 or sorted(counts) != [1, 2, 3]:
        raise ValueError(f"{path} is damaged: it lacks batch norms, or they disagree: {orders}")
    maps = len(state["last_layer_learner.0.weight"])
    if maps % counts[3]:
        raise ValueError(f"{path} is damaged: {maps} score channels of {counts[3]} fields")
    return NetworkConfig(
        group_order=orders.pop(),
        fields=(counts[1], counts[2], counts[3]),
        inner_levels=maps // counts[3],
        pixel_range=pixel_range,
        blur_gain=0.0,
    )


def _require_shapes(state: Mapping[str, Tensor], config: NetworkConfig, path: Path) -> None:
    order, (d1, d2, d3) = config.group_order, config.fields
    regular = order * BASIS_5X5
    counts = (BASIS_5X5 * d1, regular * d1 * d2, regular * d2 * d3, order * d3)
    names = [*(f"{block}.0" for block in BLOCKS), "ori_learner.0"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.weights": (count,) for name, count in zip(names, counts, strict=True)
    }
    for block, count in zip(BLOCKS, config.fields, strict=True):
        shapes |= {f"{block}.1.batch_norm_[{order}].{name}": (count,) for name in NORM_STATE}
    widths = [1, *(order * count for count in config.fields)]
    kernels = [*zip(widths[1:], widths[:-1], (5, 5, 5), strict=True), (order, widths[3], 1)]
    for name, (num_out, num_in, side) in zip(names, kernels, strict=True):
        if f"{name}.filter" in state:
            shapes[f"{name}.filter"] = (num_out, num_in, side, side)
    for name, shape in shapes.items():
        stored = tuple(state[name].shape) if name in state else None
        if stored != shape:
            raise ValueError(f"{path} is damaged: {name} has shape {stored}, expected is {shape}")


def _learned_parameters(state: Mapping[str, Tensor], group_order: int) -> dict[str, Tensor]:
    learned = {f"convolutions.{i}": state[f"{block}.0.weights"] for i, block in enumerate(BLOCKS)}
    learned["orientation"] = state["ori_learner.0.weights"]
    for i, block in enumerate(BLOCKS):
        for name in NORM_STATE:
            learned[f"norms.{i}.{name}"] = state[f"{block}.1.batch_norm_[{group_order}].{name}"]
    return {name: tensor.clone() for name, tensor in learned.items()}


def _bake_from_file(state: Mapping[str, Tensor], config: NetworkConfig) -> FrozenBackbone | None:
    """Plain convolutions from the file's bases or filters; None if a layer has neither."""
    frozen = FrozenBackbone(group_order=config.group_order, fields=config.fields)
    shapes = [tensor.shape for name, tensor in frozen.named_parameters() if name.endswith("weight")]
    names = [*(f"{block}.0" for block in BLOCKS), "ori_learner.0"]
    kernels = []
    for name, shape in zip(names, shapes, strict=True):
        kernel = _stored_kernel(state, name, shape)
        if kernel is None:
            return None
        kernels.append(kernel)
    for i, block in enumerate(BLOCKS):
        norm = f"{block}.1.batch_norm_[{config.group_order}]"
        frozen.set_block(i, kernels[i], {name: state[f"{norm}.{name}"] for name in NORM_STATE})
    frozen.orientation.weight.data.copy_(kernels[3])
    return frozen.eval()


def _stored_kernel(state: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor | None:
    weights, stored = state[f"{name}.weights"], state.get(f"{name}.filter")
    prefix = f"{name}._basisexpansion."
    bases = [k for k in state if k.startswith(prefix) and k.endswith(".sampled_basis")]
    expanded = None
    if len(bases) == 1:
        basis = state[bases[0]]  # element, out, in, point
        pairs = weights.view(-1, len(basis))
        num_out = shape[0] // basis.shape[1]
        kernels = torch.einsum("boip,kb->koip", basis, pairs)
        by_field = kernels.view(num_out, -1, *kernels.shape[1:]).transpose(1, 2)
        expanded = by_field.reshape(shape)
    if expanded is None or stored is None:
        return stored if expanded is None else expanded
    if (stored - expanded).abs().max() > 1e-4 * expanded.abs().max():
        logger.warning("%s.filter is not what its weights give; the weights are used", name)
    return expanded


def _load_head(network: Rekd, head: Mapping[str, Tensor], path: Path) -> None:
    wanted = {k for k in network.state_dict() if k.startswith(("score_norm.", "score_head."))}
    missing = {k for k in wanted - head.keys() if not k.endswith("num_batches_tracked")}
    if missing:
        raise ValueError(f"{path} is damaged: its score head lacks {sorted(missing)}")
    try:
        network.load_state_dict(dict(head), strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    assert isinstance(network.score_norm, nn.BatchNorm2d)


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
