"""Features and matches in hloc's HDF5 schema, safe against kills, full disks and mixed settings.

One group for each image: ``keypoints`` (keypoint, 2), ``descriptors`` (channel, keypoint),
``scores``, ``scales``, ``oris``, ``image_size``. hloc's angles are degrees, clockwise in image
coordinates; they are converted here. Files of hloc's other extractors are read too. Matches are in
:mod:`rekd_hloc.storage.matches`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import wrap_angle
from rekd_hloc.storage.hdf5 import Hdf5File, close_after
from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.matches import MatchStore
from rekd_hloc.storage.names import check_name
from rekd_hloc.types import Features, Keypoints

__all__ = ["FeatureStore", "MatchStore"]

SCORES = ("scores", "keypoint_scores")
"""Names that hloc's extractors give to detector responses."""
FEATURE_DATASETS = ("keypoints", "descriptors", "scales", "oris", "image_size", *SCORES)


class FeatureStore:
    """Features of many images in one file of hloc's schema; a context manager.

    What is written is safe at once, but other programs see it in the file only after closing.

    Attributes:
        path: the HDF5 file.
        provenance: what the features were made with; empty for files of other programs.

    Example:
        >>> with FeatureStore(Path("features.h5")) as store:  # doctest: +SKIP
        ...     features = store.read(store.names()[0])
    """

    def __init__(self, path: Path) -> None:
        """Open to read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no HDF5 file, or a damaged one.
        """
        self._open(Hdf5File.open(path), half_descriptors=False)

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
            OSError: the folder cannot be written, or another process is writing the file.
        """
        self = cls.__new__(cls)
        self._open(Hdf5File.resume(path, provenance, overwrite=overwrite), half_descriptors)
        return self

    def names(self) -> list[str]:
        """Return sorted names of the images that have keypoints in the file."""
        return self._file.groups("keypoints")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and "keypoints" in self._file.datasets(name)

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
        record = self._file.read(name, FEATURE_DATASETS)
        if record is None:
            raise ValueError(f"{self.path} has no image {name!r}; extract it first")
        try:
            return _features(record.arrays)
        except ValueError as error:
            raise ValueError(f"image {name!r} in {self.path}: {error}") from error

    def write(self, name: str, features: Features, *, uncertainty: float = 1.0) -> None:
        """Add an image, or replace it.

        Args:
            name: path relative to the image folder, with ``/``.
            features: in pixels of the original image.
            uncertainty: standard deviation of the keypoints in pixels of the original image.

        Raises:
            ValueError: a name that HDF5 cannot hold, or a store that was opened to read.
            OSError: the disk is full or gone; what was written before is safe.
        """
        check_name(name)
        keypoints = features.keypoints
        half = np.float16 if self._half_descriptors else np.float32
        arrays = {
            "keypoints": _array(keypoints.xy),
            "descriptors": np.ascontiguousarray(_array(features.descriptors).T, dtype=half),
            "scores": _array(keypoints.score),
            "scales": _array(keypoints.scale),
            "oris": _degrees(keypoints.angle),
            "image_size": np.asarray(features.image_size, dtype=np.int64),
        }
        attrs: dict[str, dict[str, str | float]] = {"keypoints": {"uncertainty": uncertainty}}
        self._file.append(Record(name, arrays, attrs))

    def close(self) -> None:
        """Bring the file up to date with all that was written.

        Raises:
            OSError: the disk is full or gone; nothing is lost, resume and close again.
        """
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        close_after(self._file, error)

    def _open(self, file: Hdf5File, half_descriptors: bool) -> None:
        self._file = file
        self._half_descriptors = half_descriptors
        self.path = file.path
        self.provenance = file.provenance


def _features(arrays: dict[str, NDArray[Any]]) -> Features:
    for name in ("keypoints", "descriptors", "image_size"):
        if name not in arrays:
            raise ValueError(f"has no {name}; extract it again")
    xy = arrays["keypoints"]
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"keypoints have shape {xy.shape}; hloc's are (keypoint, 2)")
    count = len(xy)
    descriptors = arrays["descriptors"]
    if descriptors.ndim != 2 or descriptors.shape[1] != count:
        raise ValueError(
            f"{count} keypoints but descriptors of shape {descriptors.shape}; "
            "hloc's are (channel, keypoint)"
        )
    size = arrays["image_size"]
    if size.shape != (2,):
        raise ValueError(f"image_size is {size.tolist()}; it must be (width, height)")
    for name in ("scales", "oris", *SCORES):
        if name in arrays and arrays[name].shape != (count,):
            raise ValueError(f"{name} has shape {arrays[name].shape} for {count} keypoints")
    score = next((arrays[name] for name in SCORES if name in arrays), np.ones(count))
    keypoints = Keypoints(
        xy=_tensor(xy[:, :2]),
        scale=_tensor(arrays.get("scales", np.ones(count))),
        angle=_radians(arrays.get("oris", np.zeros(count))),
        score=_tensor(score),
    )
    return Features(keypoints, _tensor(descriptors.T), (int(size[0]), int(size[1])))


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _radians(degrees: NDArray[Any]) -> Tensor:
    exact = torch.deg2rad(torch.from_numpy(np.array(degrees, dtype=np.float64)))
    return wrap_angle(exact.float())


def _degrees(angle: Tensor) -> NDArray[np.float32]:
    degrees = np.mod(np.rad2deg(_array(angle).astype(np.float64)), 360.0).astype(np.float32)
    return np.where(degrees >= 360.0, np.float32(0.0), degrees)  # rounding up to a full circle
