"""What a file was made with: versions, and whether its settings are those of now."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekd_hloc.config_file import hash_of_tree
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
)
"""Packages that may change a result, or whose version a report of a fault needs."""


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
    different = [key for key in {**asked, **stored} if stored.get(key) != asked.get(key)]
    if not different:
        return
    if not stored:
        raise OtherSettingsError(
            f"{path} was made by another program and records no configuration; "
            "choose another output, or overwrite it"
        )
    shown = "; ".join(_difference(key, stored.get(key), asked.get(key)) for key in different)
    raise OtherSettingsError(
        f"{path} was made with other settings: {shown}; choose another output, or overwrite it"
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
    if not config or config == parse_json(provenance["config"]):
        return dict(provenance)
    translated = {**provenance, "config": json.dumps(config, sort_keys=True)}
    if "config_hash" in provenance:
        translated["config_hash"] = hash_of_tree(config)
    return translated


def _difference(key: str, stored: str | None, asked: str | None) -> str:
    """Return one attribute's difference; of two configurations, only the options that differ."""
    try:
        old, new = _leaves(parse_json(stored or "")), _leaves(parse_json(asked or ""))
    except ValueError:
        old, new = {}, {}
    lines = [
        f"{key}.{name} {old.get(name, 'absent')} there, {new.get(name, 'absent')} now"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    return "; ".join(lines) or f"{key} {stored or 'absent'} there, {asked or 'absent'} now"


def _leaves(tree: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(tree, dict):
        raise ValueError("not a mapping")
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
