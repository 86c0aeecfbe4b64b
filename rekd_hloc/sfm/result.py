"""What a reconstruction returns: its report, and the model with it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.output_folder import MODEL


class ReconstructionResult(dict[str, Any]):
    """The report of a reconstruction, as in ``report.json``, and the model that it tells of.

    Attributes:
        output: the folder that the run has written.
    """

    def __init__(self, report: Mapping[str, Any], output: Path) -> None:
        super().__init__(report)
        self.output = output

    @property
    def model_path(self) -> Path | None:
        """Return the folder of the largest model; None if there is no model."""
        return self.output / MODEL / "0" if self.get("num_registered") else None

    @cached_property
    def reconstruction(self) -> Any | None:
        """Return the largest model, a ``pycolmap.Reconstruction``; None if there is none.

        It is read from ``output`` when it is first asked for.
        """
        return None if self.model_path is None else compat.read_reconstruction(self.model_path)
