"""What a file was made with: versions, and whether its settings are those of now."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekd_hloc.config import ExtractConfig
from rekd_hloc.config_file import defaults_left_out, hash_of_tree
from rekd_hloc.json_text import parse_json
from rekd_hloc.renamed_options import translate_config

PACKAGES = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "kornia",
    "h5py",
    "pycolmap",
    "e2cnn",
    "hloc",
    "onnxruntime",
    "openvino",
)
"""Packages that may change a result, or whose version a report of a fault needs."""
MAX_SHOWN = 4
"""Settings named in an error."""
MAX_LETTERS = 60
"""Of a value in an error."""
WHOLE_FILE_MASKS = ("none", "used")
"""What older files record under ``masks``; now each image has a stamp of its own mask."""
FEATURES_HASH = "features_hash"
"""Attribute of matches: a hash of what the features record."""


def package_versions() -> dict[str, str | None]:
    """Return the version of each of ``PACKAGES``; None for what is not installed."""
    return {name: _version(name) for name in PACKAGES}


class OtherSettingsError(ValueError):
    """Says that a file was made with other settings, or by another program."""


def differs(stored: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Say whether two sets of a file's attributes differ, in today's names of options."""
    return translate_provenance(stored) != translate_provenance(asked)


def refuse_other(path: Path, stored: Mapping[str, str], asked: Mapping[str, str]) -> None:
    """Raise if a file's attributes are not the ones asked for, in today's names of options.

    Raises:
        OtherSettingsError: names what differs, option by option, and the remedy.
    """
    stored, asked = translate_provenance(stored), translate_provenance(asked)
    if stored == asked:
        return
    if not stored:
        raise OtherSettingsError(
            f"{path} was made by another program and records no configuration; "
            "choose another output, or overwrite it (--overwrite)"
        )
    lines = _differences(path.name, stored, asked)
    more = f"; and {len(lines) - MAX_SHOWN} more" if len(lines) > MAX_SHOWN else ""
    raise OtherSettingsError(
        f"{path} was made with other settings: {'; '.join(lines[:MAX_SHOWN])}{more}; give the "
        "settings it was made with, choose another output, or overwrite it (--overwrite)"
    )


def stored_config(provenance: Mapping[str, str]) -> dict[str, Any]:
    """Read the configuration of a file, in today's names; empty for other programs' files."""
    try:
        config = parse_json(provenance.get("config", "{}"))
    except ValueError:
        return {}
    return translate_config(config) if isinstance(config, dict) else {}


def translate_provenance(provenance: Mapping[str, str]) -> dict[str, str]:
    """Return what a file records, with its configuration and the hash of it in today's names."""
    config = stored_config(provenance)
    if provenance.get("masks") in WHOLE_FILE_MASKS:
        provenance = {key: value for key, value in provenance.items() if key != "masks"}
    if not config or config == parse_json(provenance["config"]):
        return dict(provenance)
    translated = {**provenance, "config": json.dumps(config, sort_keys=True)}
    if "config_hash" in provenance:
        translated["config_hash"] = hash_of_tree(config)
    return translated


def _differences(file: str, stored: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """Return a line for each setting that differs, options of the configuration first."""
    old, new = _options(stored), _options(asked)
    if stored_config(stored) != stored_config(asked):  # then their hash says nothing more
        old, new = ({k: v for k, v in side.items() if k != "config_hash"} for side in (old, new))
    return [
        "its features were made with other settings than those of now"
        if name == FEATURES_HASH and name in old and name in new
        else f"{name} {_shown(old.get(name))} in {file}, {_shown(new.get(name))} now"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _options(provenance: Mapping[str, str]) -> dict[str, str]:
    """Return options by their dotted names, then the other attributes."""
    config = stored_config(provenance)
    of_extractor = "detector" in config
    left_out = _leaves(defaults_left_out(ExtractConfig)) if of_extractor else {}
    others = {key: value for key, value in provenance.items() if key != "config" or not config}
    return {**left_out, **_leaves(config), **others}


def _shown(value: str | None) -> str:
    if value is None:
        return "not recorded"
    text = value if value.isprintable() else ascii(value)
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
