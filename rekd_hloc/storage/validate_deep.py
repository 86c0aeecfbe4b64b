"""The deep check: every number of a file is read, so that damage on the disk shows."""

import h5py

from rekd_hloc.storage.hdf5_groups import HDF5_ERRORS, group_attributes, read_dataset
from rekd_hloc.storage.hdf5_links import dataset_names
from rekd_hloc.storage.hdf5_writing import has_checksum
from rekd_hloc.storage.validation_issues import ValidationIssues


class DeepCheck:
    """Reads what the other checks have no need of, and counts what carries no checksum."""

    def __init__(self, file: str, issues: ValidationIssues, *, is_on: bool) -> None:
        """Begin with a file.

        Args:
            file: its name.
            issues: where to note what is wrong.
            is_on: if not, nothing is read, and issues of one kind are folded.
        """
        self._file, self._issues, self._is_on = file, issues, is_on
        self._num_datasets = self._num_without = 0

    def note_damage(self, name: str, error: Exception) -> None:
        """Note that an image or a pair cannot be read; a deep check names each of them."""
        kind = f"damaged {name}" if self._is_on else "damaged"
        self._issues.add("error", self._file, kind, name, f"cannot be read: {error}")

    def read_rest(self, name: str, group: h5py.Group, known: frozenset[str]) -> None:
        """Read the attributes of a group, and the numbers that have no name in ``known``."""
        if not self._is_on:
            return
        try:
            names = dataset_names(group)
            for key in names:
                self._num_datasets += 1
                self._num_without += not has_checksum(group[key])
                group_attributes(group[key])
                if key not in known and group[key].dtype.kind in "fiu":
                    read_dataset(group, key)
        except HDF5_ERRORS as error:
            self.note_damage(name, error)

    def close(self) -> None:
        """Note how much of the file could hide damage."""
        if self._is_on and self._num_without:
            message = (
                f"{self._num_without} of {self._num_datasets} datasets carry no checksum: another "
                "program or an earlier version wrote them, and damage in them is not noticed"
            )
            self._issues.add("info", self._file, "checksums", "", message)
        elif self._is_on and self._num_datasets:
            message = f"every byte of {self._num_datasets} datasets was read; all carry checksums"
            self._issues.add("info", self._file, "checksums", "", message)
