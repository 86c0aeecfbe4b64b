"""Training checkpoints: written whole or not at all, and read back only where they fit."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import rekd_hloc
from rekd_hloc.features.weights import (
    detector_config,
    learned_tensors,
    read_weights,
    resolve_weights,
)
from rekd_hloc.files import atomic_write


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: a kill leaves the old checkpoint or the new one."""
    with atomic_write(path, durable=True) as scratch, scratch.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote; tensors and plain values only, no code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a training checkpoint: {reason}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{path} is not a training checkpoint: it holds no step")
    return state


def load_start(name: str) -> dict[str, Any]:
    """Where a new training begins: a checkpoint, or weights as they ship, by name or file.

    Returns:
        ``backbone``, ``head``, ``network``, ``step`` and ``identity`` (options and data hash of
        the training), as in a checkpoint.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the file is damaged, or no detector.
    """
    path = start_path(name)
    if path.suffix != ".safetensors":
        return load_checkpoint(path)
    network = asdict(detector_config(path))
    return {
        "step": 0,
        "network": network,
        "identity": _trained_with(path),
        **learned_tensors(path),
    }


def _trained_with(weights: Path) -> dict[str, Any]:
    provenance = json.loads(read_weights(weights)[1].get("provenance", "{}"))
    return {**(provenance.get("config") or {}), "data_hash": provenance.get("data_hash")}


def start_path(name: str) -> Path:
    """The file behind the name of a start.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        return resolve_weights(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no checkpoint {name} to start from: {error}") from error


def require_same(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to resume with another configuration or other data.

    Raises:
        ValueError: naming the keys that differ and both values.
    """
    odd = sorted(key for key in saved.keys() | current.keys() if saved.get(key) != current.get(key))
    if odd:
        detail = "; ".join(f"{k}: {saved.get(k)!r} then, {current.get(k)!r} now" for k in odd[:5])
        raise ValueError(
            f"{path} was made with another configuration ({detail}); use these values, or another "
            "output folder"
        )


def code_version() -> str:
    """The package's version and, in a git checkout, the commit and whether files were changed."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    root = Path(__file__).parent
    try:
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return rekd_hloc.__version__
    return f"{rekd_hloc.__version__}+{run.stdout.strip()}"
