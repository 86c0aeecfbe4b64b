"""Features and matches in hloc's HDF5 schema, safe against kills, full disks and mixed settings.

One group for each image: ``keypoints`` (keypoint, 2), ``descriptors`` (channel, keypoint),
``scores``, ``scales``, ``oris``, ``image_size``. Files of hloc's other extractors are read too, and
of its dense matchers, which have keypoints alone. What the datasets mean, and which values they may
have, is in :mod:`rekd_hloc.storage.feature_arrays`; matches are in
:mod:`rekd_hloc.storage.matches`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from rekd_hloc.storage.feature_arrays import (
    FEATURE_DATASETS,
    KEYPOINT_DATASETS,
    Arrays,
    arrays_of,
    features_of,
    image_size_of,
    keypoints_of,
)
from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.matches import MatchStore
from rekd_hloc.storage.names import check_name
from rekd_hloc.storage.stamps import source_digest
from rekd_hloc.storage.store import Store
from rekd_hloc.types import Features, Keypoints

__all__ = ["FeatureStore", "MatchStore"]

Value = TypeVar("Value")


class FeatureStore(Store):
    """Features of many images in one file of hloc's schema; a context manager.

    What is written is safe at once, but other programs see it in the file only after closing.

    Attributes:
        path: the HDF5 file.
        provenance: what the features were made with; empty for files of other programs.

    Example:
        >>> with FeatureStore(Path("features.h5")) as store:  # doctest: +SKIP
        ...     features = store.read(store.names()[0])
    """

    MARKER = "keypoints"
    _half_descriptors = False

    @classmethod
    def resume(
        cls,
        path: Path,
        provenance: Mapping[str, str],
        *,
        half_descriptors: bool = False,
        overwrite: bool = False,
    ) -> Self:
        """Open to write: a new file, or an old one to go on with, also after a kill.

        Args:
            path: the HDF5 file.
            provenance: what the features are made with; becomes the file's attributes.
            half_descriptors: store descriptors as float16, which halves the file.
            overwrite: delete the old file first.

        Raises:
            ValueError: the file holds features made with something else, or is no HDF5 file.
            FileExistsError: the file holds matches; these are not even overwritten.
            OSError: the folder cannot be written, or another process is writing the file.
        """
        self = cls._resume(path, provenance, overwrite=overwrite)
        self._half_descriptors = half_descriptors
        return self

    def names(self) -> list[str]:
        """Return sorted names of the images that have keypoints in the file.

        Raises:
            ValueError: a name leads out of the image folder, or a group cannot be followed.
        """
        names = self._file.groups(self.MARKER)
        try:
            for name in names:
                check_name(name)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        return names

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and "keypoints" in self._file.datasets(name)

    def has_descriptors(self, name: str) -> bool:
        """Say whether the image's keypoints have descriptors; those of dense matchers have none."""
        return "descriptors" in self._file.datasets(name)

    def has_orientation(self, name: str) -> bool:
        """Say whether the extractor gave the image's keypoints angles."""
        return "oris" in self._file.datasets(name)

    def has_scale(self, name: str) -> bool:
        """Say whether the extractor gave the image's keypoints scales."""
        return "scales" in self._file.datasets(name)

    def read(self, name: str) -> Features:
        """Return features of one image; without scales they get scale 1, without angles angle 0.

        Raises:
            ValueError: the file lacks the image, or parts of it, or is damaged there.
        """
        return self._read(name, FEATURE_DATASETS, features_of)

    def read_keypoints(self, name: str) -> Keypoints:
        """Return the keypoints of one image alone, as :meth:`read` does; all that LoFTR stores.

        Raises:
            ValueError: the file lacks the image or its keypoints, or is damaged there.
        """
        return self._read(name, KEYPOINT_DATASETS, keypoints_of)

    def image_size(self, name: str) -> tuple[int, int] | None:
        """Return an image's (width, height) in pixels; None where the file does not record it.

        Raises:
            ValueError: the file lacks the image, or records a size that no image has.
        """
        return self._read(name, ("image_size",), image_size_of)

    def attributes(self, name: str) -> dict[str, Any]:
        """Return what is recorded with an image; empty if there is nothing or no such image."""
        return self._file.attributes(name)

    def source_digest(self, name: str) -> str:
        """Return a digest of the files that features were made from; empty if that is unknown."""
        return source_digest(self._file.attributes(name))

    def read_record(self, name: str) -> Record:
        """Return all numbers that are stored with an image, as they are, and attributes.

        Raises:
            ValueError: the file lacks the image, or is damaged there.
        """
        record = self._file.read_all(name)
        if record is None:
            raise ValueError(f"{self.path} has no image {name!r}; extract it first")
        return record

    def read_array(self, name: str, dataset: str) -> NDArray[Any] | None:
        """Return one dataset of an image as it is; None where it is not there.

        Raises:
            ValueError: the file lacks the image, or is damaged there.
        """
        return self._read(name, (dataset,), lambda arrays: arrays.get(dataset))

    def write_record(self, record: Record) -> None:
        """Add an image, or replace it, with datasets and attributes as they are given.

        Raises:
            ValueError: a name that HDF5 cannot hold, or a store that was opened to read.
            OSError: the disk is full or gone; what was written before is safe.
        """
        check_name(record.group)
        self._file.append(record)

    def write(
        self,
        name: str,
        features: Features,
        *,
        uncertainty: float = 1.0,
        attributes: Mapping[str, str | float] | None = None,
    ) -> None:
        """Add an image, or replace it.

        Args:
            name: path relative to the image folder, with ``/``.
            features: in pixels of the original image.
            uncertainty: standard deviation of the keypoints in pixels of the original image.
            attributes: of the image's group, such as how its file was read.

        Raises:
            ValueError: a name that HDF5 cannot hold, or a store that was opened to read.
            OSError: the disk is full or gone; what was written before is safe.
        """
        check_name(name)
        arrays = arrays_of(features, half_descriptors=self._half_descriptors)
        attrs: dict[str, dict[str, str | float]] = {"keypoints": {"uncertainty": uncertainty}}
        if attributes:
            attrs[""] = dict(attributes)
        self._file.append(Record(name, arrays, attrs))

    def _read(
        self, name: str, datasets: tuple[str, ...], convert: Callable[[Arrays], Value]
    ) -> Value:
        record = self._file.read(name, datasets)
        if record is None:
            raise ValueError(f"{self.path} has no image {name!r}; extract it first")
        try:
            return convert(record.arrays)
        except ValueError as error:
            raise ValueError(f"image {name!r} in {self.path}: {error}") from error
