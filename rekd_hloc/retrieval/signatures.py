"""What an index keeps of an image: the words that it has, with a residual and an angle for each.

The aggregated selective match kernel (Tolias, Avrithis and Jegou, IJCV 2016): descriptors of one
word are summed up, minus the word, and the signs of the sum are kept as bits. The angle is that of
the strongest keypoint of the word; with it, two images vote for their rotation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rekd_hloc.progress import progress_bar
from rekd_hloc.retrieval.codebook import Codebook, check_descriptor
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.names import check_name
from rekd_hloc.storage.store import Store
from rekd_hloc.types import Features

MAX_KEYPOINTS = 2048
"""Strongest keypoints of an image that its signature is made of."""
ANGLE_STEPS = 256
"""Of a full turn, for angles kept in a byte."""
SOURCE = "source"
"""Attribute of a signature: a digest of what the image's features were made from."""


@dataclass(frozen=True, eq=False)
class Signature:
    """Hold an image's words, in rising order.

    Attributes:
        words: their numbers, shape (word,), int32.
        bits: signs of each word's residual, shape (word, channel / 8), uint8.
        angles: of the strongest keypoint of each, in 256ths of a turn, shape (word,), uint8.
    """

    words: NDArray[np.int32]
    bits: NDArray[np.uint8]
    angles: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.words)


def make_signature(features: Features, codebook: Codebook) -> Signature:
    """Return the signature of an image's strongest keypoints; of none, an empty one.

    Raises:
        ValueError: the descriptors are of another width than the codebook's.
    """
    width = features.descriptors.shape[1]
    if len(features) and width != codebook.num_channels:
        raise ValueError(
            f"the codebook is of descriptors of {codebook.num_channels} numbers, "
            f"these have {width}; train a codebook on them"
        )
    if not len(features):
        row_bytes = (codebook.num_channels + 7) // 8
        empty = np.zeros(0, np.uint8)
        return Signature(np.zeros(0, np.int32), np.zeros((0, row_bytes), np.uint8), empty)
    keypoints = features.keypoints
    strongest = keypoints.strongest(MAX_KEYPOINTS)
    number, residual = codebook.assign(features.descriptors[strongest].float())
    words, first, of_word = np.unique(number.numpy(), return_index=True, return_inverse=True)
    total = torch.zeros(len(words), residual.shape[1])
    total.index_add_(0, torch.from_numpy(of_word), residual)
    turn = keypoints.angle[strongest[torch.from_numpy(first)]] / (2 * torch.pi)
    angles = (turn * ANGLE_STEPS).long() % ANGLE_STEPS
    return Signature(
        words.astype(np.int32),
        np.packbits((total > 0).numpy(), axis=1),
        angles.numpy().astype(np.uint8),
    )


class SignatureStore(Store):
    """Signatures of many images in one HDF5 file: an index that images are added to.

    Like features, a signature is safe as soon as it is written, and a killed run goes on.
    """

    MARKER = "words"

    @classmethod
    def resume(cls, path: Path, codebook: Codebook, *, overwrite: bool = False) -> Self:
        """Open to write: a new file, or an old one of the same codebook to go on with.

        Raises:
            ValueError: the file is of another codebook, or is no HDF5 file.
            FileExistsError: the file holds features or matches; these are not even overwritten.
            OSError: the folder cannot be written, or another process is writing the file.
        """
        made_with = {"codebook": codebook.digest, "max_keypoints": str(MAX_KEYPOINTS)}
        return cls._resume(path, made_with, overwrite=overwrite)

    def names(self) -> list[str]:
        """Return sorted names of the images in the file."""
        return self._file.groups(self.MARKER)

    def source(self, name: str) -> str | None:
        """Return the digest that was recorded with an image; None if the image is not there."""
        if self.MARKER not in self._file.datasets(name):
            return None
        return str(self._file.attributes(name).get(SOURCE, ""))

    def read(self, name: str) -> Signature:
        """Return the signature of an image.

        Raises:
            ValueError: the file lacks it, or is damaged there.
        """
        record = self._file.read(name, ("words", "bits", "angles"))
        if record is None or not {"words", "bits", "angles"} <= set(record.arrays):
            raise ValueError(f"{self.path} has no signature of {name!r}; overwrite it")
        arrays: dict[str, NDArray[Any]] = record.arrays
        return Signature(
            arrays["words"].astype(np.int32),
            arrays["bits"].astype(np.uint8),
            arrays["angles"].astype(np.uint8),
        )

    def write(self, name: str, signature: Signature, source: str) -> None:
        """Add an image, or replace it."""
        check_name(name)
        arrays: dict[str, NDArray[Any]] = {
            "words": signature.words,
            "bits": signature.bits,
            "angles": signature.angles,
        }
        self._file.append(Record(name, arrays, {"": {SOURCE: source}}))


def read_signatures(
    features_path: Path,
    names: Sequence[str],
    codebook: Codebook,
    *,
    index_path: Path | None = None,
    progress: bool = False,
) -> dict[str, Signature]:
    """Return signatures of images, made of their features or read from an index.

    Args:
        features_path: features of the images.
        names: of the images.
        codebook: of their descriptor.
        index_path: an index to read from, to which images that it lacks are added, and in which
            images whose features are of other files now are replaced.
        progress: show a bar on stderr.

    Raises:
        FileNotFoundError: there is no features file.
        ValueError: an image without features or descriptors, descriptors of another width than
            the codebook's, or an index of another codebook.
        OSError: the index cannot be written, or the disk is full; what is finished is kept.
    """
    with FeatureStore(features_path) as store:
        check_descriptor(codebook, features_path, store.provenance)
        if index_path is None:
            bar = progress_bar(names, "describe", unit="image", shown=progress)
            return {name: make_signature(store.read(name), codebook) for name in bar}
        with SignatureStore.resume(index_path, codebook) as index:
            sources = {name: store.source_digest(name) for name in names}
            lacking = [name for name in names if index.source(name) != sources[name]]
            for name in progress_bar(lacking, "describe", unit="image", shown=progress):
                index.write(name, make_signature(store.read(name), codebook), sources[name])
            return {name: index.read(name) for name in names}
