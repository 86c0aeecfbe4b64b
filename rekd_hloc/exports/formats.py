"""Forms that a model can be written in; the command line lists them without loading pycolmap."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """What ``export_model`` writes, in the order in which it is offered."""

    TEXT = "text"
    PLY = "ply"
    UNDISTORTED = "undistorted"
    NERFSTUDIO = "nerfstudio"
    OPENMVS = "openmvs"
    BUNDLER = "bundler"
    GLTF = "gltf"


NEED_IMAGES = frozenset((ExportFormat.UNDISTORTED, ExportFormat.NERFSTUDIO, ExportFormat.OPENMVS))
"""Those that hold the photos, or name them."""


def list_formats(*, without: ExportFormat | None = None) -> str:
    """Return their names with commas between, and ``or`` before the last."""
    *first, last = [item.value for item in ExportFormat if item is not without]
    return f"{', '.join(first)} or {last}"
