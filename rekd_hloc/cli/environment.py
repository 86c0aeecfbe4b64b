"""Describes this installation: versions, device, presets and shipped weights."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rekd_hloc import __version__
from rekd_hloc.config import PRESETS, config_hash
from rekd_hloc.storage.provenance import package_versions
from rekd_hloc.weight_files import PRETRAINED, read_weights, weights_hash


def describe_environment() -> dict[str, Any]:
    """Return versions, device, presets and weights as JSON values.

    The version of a package that is not installed is None.
    """
    import torch

    from rekd_hloc.devices import choose_device

    device = choose_device("auto")
    versions = {"rekd_hloc": __version__, "python": platform.python_version()}
    return {
        "versions": versions | package_versions(),
        "device": device.type,
        "device_name": torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "presets": {
            name: {"config_hash": config_hash(preset), **asdict(preset)}
            for name, preset in PRESETS.items()
        },
        "weights": {path.stem: _describe_weights(path) for path in _shipped_weights()},
    }


def format_environment(record: dict[str, Any]) -> str:
    """Return the result of :func:`describe_environment` as lines of text."""
    lines = [f"device   {record['device']} ({record['device_name']}, {record['threads']} threads)"]
    lines += [
        f"version  {name} {version or 'not installed'}"
        for name, version in record["versions"].items()
    ]
    lines += [
        f"preset   {name} (weights {preset['weights']}, configuration {preset['config_hash']})"
        for name, preset in record["presets"].items()
    ]
    lines += [
        f"weights  {name} {entry['hash']} ({entry['summary']})"
        for name, entry in record["weights"].items()
    ]
    return "\n".join(lines)


def _shipped_weights() -> list[Path]:
    return sorted(PRETRAINED.glob("*.safetensors"))


def _describe_weights(path: Path) -> dict[str, Any]:
    _, metadata = read_weights(path)
    architecture = json.loads(metadata.get("network", "{}"))
    summary = metadata.get("format", "unknown format")
    if "group_order" in architecture:  # a detector; a ranking's network has none
        summary += f", C{architecture['group_order']}"
    return {
        "hash": weights_hash(path),
        "summary": summary,
        "network": architecture,
        "provenance": json.loads(metadata.get("provenance", "{}")),
    }


def _cpu_name() -> str:
    return platform.processor() or platform.machine()
