"""Which pixel grid a mask has: that of its image's file, or that in which viewers show the image.

Keypoints are in the file's grid, as COLMAP's are, and so are COLMAP's masks. A mask that was drawn
in a viewer is upright where EXIF says that the camera was held otherwise. It is rotated back.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.image_orientation import SWAPS_SIDES, from_file_grid, to_file_grid
from rekd_hloc.images import load_mask
from rekd_hloc.names import printable

AUTO, FILE, UPRIGHT, EITHER = "auto", "file", "upright", "either"
MASK_FRAMES = (AUTO, FILE, UPRIGHT)
"""What may be asked for; ``EITHER`` is an answer only: both fit, and the file's grid was taken."""


class MaskError(ValueError):
    """A mask that does not fit its image; the message names both and what would do."""


@dataclass(frozen=True)
class FittedMask:
    """Hold a mask in the grid of its image's file.

    Attributes:
        usable: (height, width), False where to ignore.
        frame: ``file`` or ``upright``, as the mask's file has it; ``either`` if both fit and
            differ, and the file's grid was taken; None if the image and the mask are upright.
    """

    usable: NDArray[np.bool_]
    frame: str | None


def check_mask_frame(frame: str) -> None:
    """Refuse what is no frame to ask for.

    Raises:
        ValueError: it is none of ``MASK_FRAMES``.
    """
    if frame not in MASK_FRAMES:
        raise ValueError(f"mask_frame must be one of {', '.join(MASK_FRAMES)}, got {frame!r}")


def fit_mask(
    path: Path, image_path: Path, shape: tuple[int, int], orientation: int, frame: str = AUTO
) -> FittedMask:
    """Read a mask into the grid of its image's file.

    A mask whose own EXIF has an orientation is first set upright by it, unless its file has the
    image's grid. With ``auto`` the size decides; where both frames fit, COLMAP's does: the file's.

    Args:
        path: of the mask.
        image_path: of its image, for messages.
        shape: (height, width) of the image's file.
        orientation: that EXIF gives the image, 1 to 8.
        frame: ``auto``, or the one that the mask has.

    Raises:
        MaskError: the size fits neither, or not the frame that is asked for.
        FileNotFoundError, PermissionError, ImageReadError: as :func:`rekd_hloc.images.load_mask`.
    """
    mask, own_orientation = load_mask(path)
    if own_orientation == orientation:
        candidates = {FILE: mask}
    else:
        upright = from_file_grid(mask, own_orientation)
        candidates = {FILE: mask, UPRIGHT: to_file_grid(upright, orientation)}
    fitting = {
        name: candidate
        for name, candidate in candidates.items()
        if candidate.shape == shape and (frame in (AUTO, name) or len(candidates) == 1)
    }
    if not fitting:
        raise MaskError(_explain(path, mask, image_path, shape, orientation, frame))
    first = next(iter(fitting))
    if len(candidates) == 1:
        return FittedMask(mask, None if orientation == 1 else FILE)
    if len(fitting) == 2 and not np.array_equal(fitting[FILE], fitting[UPRIGHT]):
        return FittedMask(fitting[FILE], EITHER)
    return FittedMask(fitting[first], first)


def _explain(
    path: Path,
    mask: NDArray[np.bool_],
    image_path: Path,
    shape: tuple[int, int],
    orientation: int,
    frame: str,
) -> str:
    sizes = (
        f"mask {printable(path)} is {_size(mask.shape)} px, its image {printable(image_path)} "
        f"{_size(shape)}"
    )
    if orientation == 1:
        return f"{sizes}; they must be equal"
    upright = shape[::-1] if orientation in SWAPS_SIDES else shape
    seen = f"{_size(upright)} upright by its EXIF orientation {orientation}"
    if frame == AUTO or mask.shape not in (shape, upright):
        return f"{sizes} in its file and {seen}; the mask must have one of these sizes"
    return f"{sizes} in its file and {seen}; --mask-frame {frame} does not fit, auto does"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
