"""Photos on their way to a worker: the driver reads the bytes, so workers need no folder of photos.

The worker writes them into a folder of its own, under the file's name, since decoders go by names
and want files; what it says about the copy is told of the original.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rekd_hloc.names import printable
from rekd_hloc.sfm.image_work import READINGS, FeatureArrays, ImageFile, ImageWork, changed_while
from rekd_hloc.storage.stamps import SourceStamps


@dataclass(frozen=True)
class SentImage:
    """Hold a photo's file, and its mask's, as bytes.

    Attributes:
        image: where they are on the driver.
        content: bytes of the photo's file.
        mask: bytes of the mask's; None without one.
        stamps: of the files as they were read.
    """

    image: ImageFile
    content: bytes
    mask: bytes | None
    stamps: SourceStamps


def pack_image(work: ImageWork, image: ImageFile) -> SentImage | str:
    """Read what a worker needs of a photo; or say why it cannot be used, as one process would."""
    for _ in range(READINGS):
        try:
            stamps = SourceStamps.of(image.path, image.mask, image.mask_frame)
            content = image.path.read_bytes()
            mask = None if image.mask is None else image.mask.read_bytes()
        except (OSError, ValueError):
            loaded = work.load(image)
            if isinstance(loaded, str):
                return loaded
            continue
        if stamps.fit(image.path, image.mask, image.mask_frame):
            return SentImage(image, content, mask, stamps)
    return changed_while(image)


def extract_sent(
    work: Callable[[ImageFile], FeatureArrays | str], sent: SentImage
) -> FeatureArrays | str:
    """Extract a photo that was sent; the result is that of the original."""
    with _unpacked(sent) as copy:
        result = work(copy)
        if not isinstance(result, str):
            return replace(result, stamps=sent.stamps)
        originals = [(copy.path, sent.image.path)]
        if copy.mask is not None and sent.image.mask is not None:
            originals.append((copy.mask, sent.image.mask))
        for here, there in originals:
            result = result.replace(printable(here), printable(there))
        return result


@contextmanager
def _unpacked(sent: SentImage) -> Iterator[ImageFile]:
    with tempfile.TemporaryDirectory(prefix="rekd-hloc-") as folder:
        path, mask = Path(folder) / "image" / sent.image.path.name, None
        path.parent.mkdir()
        path.write_bytes(sent.content)
        if sent.mask is not None and sent.image.mask is not None:
            mask = Path(folder) / "mask" / sent.image.mask.name
            mask.parent.mkdir()
            mask.write_bytes(sent.mask)
        yield replace(sent.image, path=path, mask=mask)
