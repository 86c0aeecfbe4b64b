"""Where the rows of a batch lie in their images and scenes, and which of them show one point."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """Hold where each row's patches were cut.

    Attributes:
        frame: number of the image or scene that the position belongs to.
        position: x, y and 0 in pixels of the image, or the point of the scene.
        side: of the square that the first patch shows, in the unit of ``position``.
    """

    frame: Int64[Tensor, " row"]
    position: Float[Tensor, "row 3"]
    side: Float[Tensor, " row"]

    def __len__(self) -> int:
        """Return number of rows."""
        return len(self.frame)

    def __getitem__(self, rows: Tensor) -> "Places":
        return Places(self.frame[rows], self.position[rows], self.side[rows])

    def to(self, device: torch.device) -> "Places":
        """Move to a device."""
        return Places(self.frame.to(device), self.position.to(device), self.side.to(device))


def show_same_point(a: Places, b: Places, exclusion: float) -> Bool[Tensor, "row_a row_b"]:
    """Say which rows of a and b show one point and must not be negatives of one another.

    Args:
        a, b: the rows.
        exclusion: points of one frame closer than this part of the larger side are one.
    """
    # without matrix products, whose rounding would part equal points
    distance = torch.cdist(a.position, b.position, compute_mode="donot_use_mm_for_euclid_dist")
    reach = exclusion * torch.maximum(a.side[:, None], b.side[None])
    near = (distance < reach) | (distance == 0)
    return near & (a.frame[:, None] == b.frame[None])
