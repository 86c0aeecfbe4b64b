"""Numbers and records in the form in which a page holds them: base64 inside of JSON."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = {"u1": 255, "u2": 65_535}
"""Largest value of the unsigned kinds that shares of a whole are stored in."""
NO_POINT = 2**32 - 1
"""Stands in ``u4`` for a keypoint that belongs to no 3-D point."""


def pack(values: NDArray[Any], kind: str) -> dict[str, str]:
    """Return numbers as base64 of little-endian ``u1``, ``u2`` or ``u4``, clipped to its range."""
    dtype = np.dtype(f"<{kind}")
    clipped = np.clip(np.nan_to_num(np.asarray(values)), 0, np.iinfo(dtype).max)
    data = clipped.astype(dtype).tobytes()
    return {"kind": kind, "data": base64.b64encode(data).decode("ascii")}


def pack_share(values: NDArray[Any], kind: str) -> dict[str, str]:
    """Return numbers of [0, 1] in the steps of ``u1`` or ``u2``."""
    return pack(np.round(np.clip(values, 0.0, 1.0) * STEPS[kind]), kind)


def contract(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map all numbers into (0, 1), [-1, 1] linearly onto its middle half, far ones more and more.

    The page's script inverts it. So 16 bits keep both the detail of the scene and its horizon.
    """
    size = np.abs(values)
    folded = np.where(size <= 1, size / 2, 1 - 0.5 / np.maximum(size, 1.0))
    shares: NDArray[np.float64] = 0.5 + 0.5 * np.sign(values) * folded
    return shares


def encode_record(record: Mapping[str, Any]) -> str:
    """Return JSON that no HTML parser mistakes for markup, whatever names it holds.

    Lone surrogates of file names that are no Unicode stay escapes.
    """
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
