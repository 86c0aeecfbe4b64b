"""A model that is kept: the same database, mapped in the same way, gives it again.

``database.json`` records how its database was mapped, once model and report are there. A database
that is made anew has no such line, so what a killed run left behind is mapped again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekd_hloc import __version__
from rekd_hloc.json_text import read_json
from rekd_hloc.sfm.attempts import Attempts
from rekd_hloc.sfm.database_sources import MAPPED, list_digest
from rekd_hloc.sfm.mapping_options import MappingOptions
from rekd_hloc.sfm.output_folder import DATABASE_RECORD, MODEL, REPORT, OutputFolder
from rekd_hloc.sfm.pycolmap_compat import pycolmap


def read_kept_model(
    folder: OutputFolder, options: MappingOptions, names: Sequence[str]
) -> Attempts | None:
    """Return the models of an output folder if mapping its database would give them again.

    Args:
        folder: whose database is that of today's features and matches.
        options: how to map.
        names: of the images that take part.

    Returns:
        Models and attempts; None where the model, or its report, is not as a run left it, or was
        made in another way.
    """
    record = _read(folder.path / DATABASE_RECORD)
    if folder.overwrite or record.get(MAPPED) != describe_mapping(options, names):
        return None
    if MODEL not in folder.made or REPORT not in folder.made:
        return None
    attempts = _read(folder.path / REPORT).get("attempts")
    if not isinstance(attempts, list) or not attempts:
        return None
    paths = sorted((folder.path / MODEL).iterdir(), key=lambda path: path.name.zfill(9))
    models = [pycolmap.Reconstruction(path) for path in paths if path.is_dir()]
    best = max(attempts, key=lambda attempt: attempt["num_registered"])  # the first of equals
    return Attempts(models, folder.path / MODEL, "relaxed" in best, attempts)


def note_mapped(folder: OutputFolder, options: MappingOptions, names: Sequence[str]) -> None:
    """Record how the database was mapped, whose model and report are written.

    Raises:
        OSError: it cannot be written.
    """
    record = _read(folder.path / DATABASE_RECORD)
    mapping = describe_mapping(options, names)
    if record.get(MAPPED) != mapping:
        folder.write_json(DATABASE_RECORD, {**record, MAPPED: mapping})


def describe_mapping(options: MappingOptions, names: Sequence[str]) -> str:
    """Return a digest of all that a model depends on beside its database."""
    mapping = [f"{key}={value}" for key, value in sorted(options.to_json().items())]
    return list_digest([__version__, *mapping, *names])


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
