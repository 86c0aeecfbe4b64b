"""Options that had other names in version 0.1, and configurations that were stored with them.

A user who gives an old name is told the new one. Files of features made before are read and gone on
with: their configuration is translated before it is compared.
"""

from collections.abc import Mapping
from typing import Any

RENAMED = {"support": "patch_size_px", "min_relief": "min_prominence"}
"""New name of an option with the same meaning."""
MERGED = {
    "orientation_level": ("own", "original"),
    "orientation_peak": ("circular", "argmax"),
    "orientation_shift_px": (0.0, -1.0),
    "orientation_read": ("bilinear", "nearest"),
    "normalise_by_max": (False, True),
    "pyramid": ("area", "paper"),
}
"""Options that ``protocol`` stands for: their values in the protocols ``default`` and ``paper``."""
PROTOCOLS = ("default", "paper")


def new_name(option: str) -> str | None:
    """Return the name that an option of version 0.1 has now; None for other names."""
    return "protocol" if option in MERGED else RENAMED.get(option)


def translate_config(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration in today's names; one of today is returned as it is.

    Merged options that no protocol stands for stay as they are.
    """
    translated = {
        RENAMED.get(key, key): translate_config(value) if isinstance(value, dict) else value
        for key, value in tree.items()
    }
    merged = tuple(translated.get(key) for key in MERGED)
    for protocol, values in zip(PROTOCOLS, zip(*MERGED.values(), strict=True), strict=True):
        if merged == values:
            rest = {key: value for key, value in translated.items() if key not in MERGED}
            return {**rest, "protocol": protocol}
    return translated


def config_of_version_0_1(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of today in the names of version 0.1, for hashes made then."""
    old = {new: name for name, new in RENAMED.items()}
    translated: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "protocol":
            number = PROTOCOLS.index(value)
            translated |= {name: values[number] for name, values in MERGED.items()}
        else:
            is_section = isinstance(value, Mapping)
            translated[old.get(key, key)] = config_of_version_0_1(value) if is_section else value
    return translated
