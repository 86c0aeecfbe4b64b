"""The files that a page carries: its style, and its scripts joined into one module."""

from pathlib import Path

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


def read_style() -> str:
    """Return the style as it goes into a page."""
    return _read("explorer.css")


def read_script() -> str:
    """Return the scripts as they go into one ``<script type="module">``."""
    return "\n".join(map(_read, SCRIPTS))


def script_files() -> list[Path]:
    """Return the files of style and scripts, and those of this room that make their data."""
    return [FOLDER / "explorer.css", *(FOLDER / name for name in SCRIPTS), *FOLDER.glob("*.py")]


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
