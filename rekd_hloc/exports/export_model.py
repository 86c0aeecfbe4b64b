"""A COLMAP model in the form that another program reads.

Each format is a function that writes files into an empty folder; they take the place of what an
earlier export left, once all are complete.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rekd_hloc.exports.bundler import write_bundler
from rekd_hloc.exports.formats import NEED_IMAGES, ExportFormat, list_formats
from rekd_hloc.exports.gltf import write_gltf
from rekd_hloc.exports.model_folder import find_image_folder, find_model
from rekd_hloc.exports.nerfstudio import write_nerfstudio
from rekd_hloc.exports.placing import place_files, refuse_foreign_folder
from rekd_hloc.exports.undistorted import write_openmvs, write_undistorted
from rekd_hloc.files import SCRATCH_SUFFIX, beside, explain_os_error
from rekd_hloc.locks import hold_folder
from rekd_hloc.sfm import pycolmap_compat as compat

PLY = "points.ply"


def write_text_model(model: Any, folder: Path, images: Path | None) -> None:
    """Write COLMAP's text form, which every release of COLMAP reads."""
    model.write_text(str(folder))


def write_ply(model: Any, folder: Path, images: Path | None) -> None:
    """Write the points with their colours as a PLY file."""
    model.export_PLY(str(folder / PLY))


Writer = Callable[[Any, Path, Path | None], None]

WRITERS: dict[ExportFormat, Writer] = {
    ExportFormat.TEXT: write_text_model,
    ExportFormat.PLY: write_ply,
    ExportFormat.UNDISTORTED: write_undistorted,
    ExportFormat.NERFSTUDIO: write_nerfstudio,
    ExportFormat.OPENMVS: write_openmvs,
    ExportFormat.BUNDLER: write_bundler,
    ExportFormat.GLTF: write_gltf,
}
"""What writes each format: it takes a ``pycolmap.Reconstruction``, an empty folder, and the folder
of the photos."""


def export_model(
    model: Path,
    to: str,
    output: Path | None = None,
    *,
    images: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a model in the form of another program.

    Args:
        model: folder of a COLMAP model, or the output folder of ``reconstruct``, whose largest
            model is taken.
        to: an :class:`rekd_hloc.exports.formats.ExportFormat`, or its name.
        output: folder to write; by default the format's name beside ``sparse``.
        images: folder of the photos; by default the one that ``reconstruct`` has noted.
        overwrite: replace files in ``output`` that others made.

    Returns:
        The files written.

    Raises:
        ValueError: no such format, a damaged model, or one that the format cannot hold.
        FileNotFoundError: there is no model, or no folder of photos.
        FileExistsError: ``output`` holds files that others made or changed.
        OSError: something cannot be written.
    """
    if to not in WRITERS:
        raise ValueError(f"no format {to!r}; formats are {list_formats()}")
    chosen = ExportFormat(to)
    source, home = find_model(model)
    if chosen in NEED_IMAGES:
        images = find_image_folder(home, images)
    target = output or home / chosen.value
    refuse_foreign_folder(target, overwrite=overwrite)
    reconstruction = compat.read_reconstruction(source)
    with hold_folder(target):
        scratch = beside(target, SCRATCH_SUFFIX)
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
            with compat.quiet(), compat.write_errors(target):
                WRITERS[chosen](reconstruction, scratch, images)
            return place_files(scratch, target, overwrite=overwrite)
        except OSError as error:
            if isinstance(error, FileExistsError | FileNotFoundError) or not error.errno:
                raise
            raise explain_os_error(error, target) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
