"""Curves and pictures of a training run for TensorBoard."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

logger = logging.getLogger(__name__)

Picture = UInt8[np.ndarray, "height width 3"]


class TensorBoardLogger:
    """Writes the event files of one run; without tensorboard, or if not ``wanted``, none.

    Args:
        folder: for the event files.
        first_step: the next step; events that a stopped run wrote for it and later are dropped.
        wanted: whether to write at all.
    """

    def __init__(self, folder: Path, first_step: int, *, wanted: bool = True) -> None:
        self._writer: Any = _open_writer(folder, first_step) if wanted else None

    def close(self) -> None:
        """Write the remaining events; for ``contextlib.closing``."""
        if self._writer is not None:
            self._writer.close()

    @property
    def is_open(self) -> bool:
        """Say whether events are written; pictures are drawn only then."""
        return self._writer is not None

    def add_step(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Add losses and learning rate of one step."""
        self._add_scalars("loss", losses, step)
        self._add_scalars("", {"learning_rate": learning_rate}, step)

    def add_validation(
        self,
        step: int,
        metrics: Mapping[str, float],
        pictures: Mapping[str, Picture] | None = None,
    ) -> None:
        """Add metrics of a validation, and pictures."""
        self._add_scalars("validation", metrics, step)
        if self._writer is None:
            return
        for name, picture in (pictures or {}).items():
            self._writer.add_image(f"validation/{name}", picture, step, dataformats="HWC")
        self._writer.flush()

    def _add_scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}" if group else name, value, step)


def _open_writer(folder: Path, first_step: int) -> Any:  # noqa: ANN401  (untyped)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning(
            "tensorboard is not installed, no curves are written: pip install it, or "
            "set tensorboard=false"
        )
        return None
    return SummaryWriter(str(folder), purge_step=first_step)
