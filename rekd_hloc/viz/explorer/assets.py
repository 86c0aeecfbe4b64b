"""The files that a page carries: its style, and its scripts joined into one module."""

from pathlib import Path

from markupsafe import Markup

FOLDER = Path(__file__).parent
SCRIPTS = (
    "data.js",
    "view3d.js",
    "cameras.js",
    "photo.js",
    "pairs.js",
    "graph.js",
    "main.js",
)
"""In the order in which they build on one another."""


def read_style() -> Markup:
    """Return the style as it goes into a page."""
    return Markup(_read("explorer.css"))  # our own file


def read_script() -> Markup:
    """Return the scripts as they go into one ``<script type="module">``."""
    return Markup("\n".join(map(_read, SCRIPTS)))  # our own files


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
