"""What a page was made of, so that it is not drawn again while nothing of that has changed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from rekd_hloc import __version__
from rekd_hloc.files import write_text
from rekd_hloc.locks import RECORD_FOLDER
from rekd_hloc.ownership import stamp
from rekd_hloc.sfm.database_record import digest
from rekd_hloc.sfm.output_folder import (
    DATABASE,
    DATABASE_RECORD,
    FEATURES,
    MATCHES,
    MODEL,
    REFINED_FEATURES,
    OutputFolder,
)
from rekd_hloc.viz.run_files import RunFiles

RECORD = "page.txt"
"""File beside the record of what was made, with the digest of a page's sources."""
OF_ONE_RUN = frozenset(("seconds", "peak_memory_mib"))
"""Keys of the report that differ from run to run though no work was done."""


def digest_sources(
    run: RunFiles, title: str, code: Iterable[Path], reference: Path | None
) -> str | None:
    """Return a digest of all that a page shows; None where that cannot be told.

    Args:
        run: the report and the files beside it.
        title: of the page.
        code: files that make the page what it is.
        reference: true poses that are shown.
    """
    report = {key: value for key, value in run.report.items() if key not in OF_ONE_RUN}
    output = run.output
    made = [output / name for name in (DATABASE_RECORD, MODEL) if (output / name).exists()]
    try:
        parts = [
            __version__,
            title,
            json.dumps(report, sort_keys=True),
            str(run.image_dir.resolve()),
            digest(output / DATABASE) if (output / DATABASE).is_file() else "",
            *(stamp(path) for path in sorted(code)),
            *map(stamp, made),
            *(_state(output / name) for name in (FEATURES, MATCHES, REFINED_FEATURES)),
            "" if reference is None else stamp(reference),
        ]
    except (OSError, ValueError):
        return None
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def is_made_of(folder: OutputFolder, page: str, sources: str | None) -> bool:
    """Say whether a page in a folder is as it was left, and was made of these sources."""
    try:
        known = (folder.path / RECORD_FOLDER / RECORD).read_text()
    except OSError:
        return False
    return sources is not None and known == sources and page in folder.made


def note_sources(folder: OutputFolder, sources: str | None) -> None:
    """Record what the page in a folder is made of.

    Raises:
        OSError: it cannot be written.
    """
    write_text(folder.path / RECORD_FOLDER / RECORD, sources or "")


def _state(path: Path) -> str:
    status = path.stat() if path.is_file() else None
    return "" if status is None else f"{status.st_size} {status.st_mtime_ns}"
