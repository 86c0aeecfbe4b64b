"""Figures of matplotlib as files of images, without its global state."""

import io

from matplotlib import rc_context
from matplotlib.figure import Figure

DPI = 110


def encode_figure(figure: Figure, suffix: str = ".png") -> bytes:
    """Return the bytes of an image file; ``.svg`` is the same at every call for the same figure.

    Raises:
        ValueError: a kind that matplotlib cannot write.
    """
    buffer = io.BytesIO()
    kind = suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context({"svg.hashsalt": "rekd_hloc"}):
        figure.savefig(
            buffer, format=kind, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.08
        )
    return buffer.getvalue()
