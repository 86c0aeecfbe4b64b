"""What a refined file was made from, and which images can be refined as they are now."""

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rekd_hloc.config_file import hash_of_tree
from rekd_hloc.files import beside
from rekd_hloc.names import printable
from rekd_hloc.ownership import HDF5, REMEDY, refuse_kind
from rekd_hloc.sfm.cameras import CameraOptions
from rekd_hloc.sfm.changed_images import NUM_READERS
from rekd_hloc.sfm.database_record import digest
from rekd_hloc.sfm.database_sources import list_digest
from rekd_hloc.sfm.image_folder import is_there
from rekd_hloc.sfm.image_headers import read_header
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.journal import Journal
from rekd_hloc.storage.made_with import read_provenance, refuse_content
from rekd_hloc.storage.provenance import differs
from rekd_hloc.storage.stamps import FileStamp, SourceStamps
from rekd_hloc.types import Pair

VERSION = "2"
"""Of the method; another one makes other positions of the same files."""
METHOD, IMAGES = "refined_by_version", "refined_without_images"
"""Attributes of a refined file: the version, and a digest of the images that could not be used."""


def refinement_provenance(
    features: FeatureStore,
    matches: MatchStore,
    pairs: Sequence[Pair],
    unusable: Collection[str],
    *,
    cameras: CameraOptions,
    seed: int,
    scales: str,
    verified: Path | None = None,
) -> dict[str, str]:
    """Return what a refined file records: what its features record, and what refined them.

    Args:
        features: that are refined.
        matches: that say which keypoints belong together.
        pairs: whose matches count.
        unusable: images that keep their keypoints.
        cameras: of the verification.
        seed: of the verification.
        scales: what the file's scales were taken for.
        verified: the database that has the verified matches, if it was given.
    """
    known = {
        "refined_cameras": json.dumps(asdict(cameras), sort_keys=True),
        "refined_seed": str(seed),
    }
    if verified is not None:
        known = {"refined_database": digest(verified)}
    return {
        **features.provenance,
        METHOD: VERSION,
        "refined_features": _content(features.path),
        "refined_matches": _content(matches.path),
        "refined_pairs": list_digest(pairs)[:12],
        "refined_scales": scales,
        IMAGES: hash_of_tree({"names": sorted(unusable)}) if unusable else "",
        **known,
    }


def is_refined(provenance: Mapping[str, str]) -> bool:
    """Say whether a file's attributes are those of a refined one."""
    return METHOD in provenance


def stored_provenance(output: Path) -> dict[str, str]:
    """Return what a file records, or its journal where it is not there yet; empty without both.

    Raises:
        ValueError: it is no HDF5 file, or a damaged one.
    """
    journal = beside(output, ".journal")
    if output.exists() or not journal.is_file():
        return read_provenance(output)
    return dict(Journal(journal).provenance)


def is_made_again(output: Path, provenance: Mapping[str, str], *, redo: bool) -> bool:
    """Say whether a refined file is replaced without the user's asking for it.

    It is where only the images that could be used are others: some changed, or are back. And it is
    where a run that ended with an error has left no image in it.

    Args:
        output: that may be there.
        provenance: that it is to have.
        redo: replace what was refined from other files, or in another way, too.

    Raises:
        ValueError: it is no HDF5 file, or a damaged one.
    """
    stored = stored_provenance(output)
    if not is_refined(stored) or not differs(stored, provenance):
        return False
    asked = {**provenance, IMAGES: stored.get(IMAGES, "")}
    return redo or not differs(stored, asked) or _is_empty(output)


def refuse_unrefined(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is no refined file of this program, before anything is computed.

    Raises:
        FileExistsError: there is such a thing, and ``overwrite`` is off; or it can be none.
        ValueError: it is a damaged file.
    """
    refuse_kind(path, HDF5)
    refuse_content(path, FeatureStore.MARKER, {})
    if not overwrite and path.exists() and not is_refined(stored_provenance(path)):
        raise FileExistsError(f"{path} is there and was not refined by rekd-hloc; {REMEDY}")


def refuse_same_file(output: Path, *inputs: Path) -> None:
    """Refuse to write over what is read.

    Raises:
        ValueError: the output is one of the inputs.
    """
    for path in inputs:
        if output.resolve() == path.resolve():
            raise ValueError(f"the output {output} is also an input; choose another output")


def find_unusable(features: FeatureStore, names: Sequence[str], image_dir: Path) -> dict[str, str]:
    """Return images that are not those of the features any more, and why.

    Raises:
        FileNotFoundError: there is no such folder, or none of the images is in it.
        ValueError: the file of features is damaged.
    """
    if not image_dir.is_dir():
        raise FileNotFoundError(f"no image folder {printable(image_dir)}")
    if names and not any(is_there(image_dir / name) for name in names):
        raise FileNotFoundError(
            f"none of the {len(names)} images of {printable(features.path)}, such as {names[0]!r}, "
            f"is in {printable(image_dir)}; name the folder that they were extracted from"
        )
    stamps = [SourceStamps.from_attributes(features.attributes(name)) for name in names]
    sizes = [features.image_size(name) for name in names]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        reasons = readers.map(_reason, [image_dir / name for name in names], stamps, sizes)
        return {name: why for name, why in zip(names, reasons, strict=True) if why}


def size_reason(size: tuple[int, int] | None, expected: tuple[int, int] | None) -> str:
    """Say that an image has another size than its features were found in; empty if it has not."""
    if size is None or expected is None or size == expected:
        return ""
    return (
        f"has {size[0]}x{size[1]} px, and its features are of {expected[0]}x{expected[1]} px; "
        "extract it again"
    )


def _is_empty(output: Path) -> bool:
    if not output.exists():
        return False
    with FeatureStore(output) as store:
        return not store.names()


def _reason(path: Path, stamps: SourceStamps | None, size: tuple[int, int] | None) -> str:
    """Say why an image cannot be used; empty if it can, or if only reading it will tell."""
    if not is_there(path):
        return f"is not in the folder: no file {printable(path)}"
    try:
        is_same = stamps is None or stamps.image.fits(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not is_same:
        return "has changed since its features were extracted; extract it again"
    header = read_header(path)
    return size_reason(header.size if header is not None else None, size)


def _content(path: Path) -> str:
    """Return twelve digits for what a file and its journal hold."""
    stamps = [FileStamp.of(p).whole for p in (path, beside(path, ".journal")) if p.is_file()]
    return hash_of_tree({"files": stamps})
