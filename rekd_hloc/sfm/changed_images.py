"""Which images or masks changed since their features were extracted."""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rekd_hloc.image_orientation import SWAPS_SIDES
from rekd_hloc.names import counted, list_names, printable
from rekd_hloc.sfm.image_folder import is_there
from rekd_hloc.sfm.image_headers import read_header
from rekd_hloc.sfm.image_work import ImageFile
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.stamps import SourceStamps

logger = logging.getLogger(__name__)

NUM_READERS = 8
"""Threads that look at files; on a network drive each waits for its own."""


def find_changed(store: FeatureStore, images: Sequence[ImageFile]) -> list[str]:
    """Return names of images whose features are of another file or mask than the one of now.

    An image or mask that cannot be read counts as changed. Files from before stamps were recorded
    are compared by what there is: the image's size, and whether all images had masks.

    Args:
        store: of features.
        images: that are in it.

    Raises:
        ValueError: the store is damaged.
    """
    stamps = [SourceStamps.from_attributes(store.attributes(image.name)) for image in images]
    unstamped = [image for image, stamp in zip(images, stamps, strict=True) if stamp is None]
    if unstamped:
        logger.warning(
            "%s in %s from before it recorded their files: that one has changed is noticed only if "
            "its size in pixels did; overwrite (--overwrite) where it may be so",
            counted(len(unstamped), "image"), printable(store.path),
        )  # fmt: skip
    with ThreadPoolExecutor(NUM_READERS) as readers:
        are_same = list(readers.map(_fits, stamps, images))
    changed = {image.name for image, same in zip(images, are_same, strict=True) if not same}
    changed.update(image.name for image in unstamped if _is_other(store, image))
    return [image.name for image in images if image.name in changed]


def find_removed(store: FeatureStore, names: Collection[str], folder: Path) -> list[str]:
    """Return images of a store that are not among ``names`` and not in the folder any more."""
    others = sorted(set(store.names()).difference(names))
    return [name for name in others if not is_there(folder / name)]


def describe_changes(
    changed: Collection[str],
    removed: Collection[str],
    num_rematched: int = 0,
    added: Collection[str] = (),
) -> list[str]:
    """Return lines about what changed since the run before; none if nothing did.

    Args:
        changed: images that were extracted again.
        removed: images that are not in the folder any more.
        num_rematched: pairs that were matched again.
        added: images that were not in the run before.
    """
    lines = []
    if added:
        were = "was" if len(added) == 1 else "were"
        lines.append(
            f"{counted(len(added), 'image')} {were} not in the run before: {list_names(added)}"
        )
    if changed:
        lines.append(
            f"{counted(len(changed), 'image')} changed since and "
            f"{'was' if len(changed) == 1 else 'were'} extracted again: {list_names(changed)}"
        )
    if num_rematched:
        pairs = counted(num_rematched, "pair was", "pairs were")
        lines.append(f"{pairs} matched again, as features changed since")
    if removed:
        lines.append(
            f"{counted(len(removed), 'image')} of an earlier run "
            f"{'is' if len(removed) == 1 else 'are'} no longer in the folder: {list_names(removed)}"
        )
    return lines


def _fits(stamps: SourceStamps | None, image: ImageFile) -> bool:
    return stamps is None or stamps.fit(image.path, image.mask, image.mask_frame)


def _is_other(store: FeatureStore, image: ImageFile) -> bool:
    """Say whether an image without stamps has another size now, or its use of masks is another."""
    recorded = store.provenance.get("masks")
    if recorded == "none" and image.mask is not None:
        return True
    if recorded == "used" and image.mask is None:
        return True
    size, header = store.image_size(image.name), read_header(image.path)
    if size is None or header is None:
        return False
    is_on_its_side = header.orientation in SWAPS_SIDES  # which was applied to TIFF once
    return size != header.size and not (is_on_its_side and size == header.size[::-1])
