"""Where the rows of a batch lie in their images and scenes, and which of them show one point."""

from collections.abc import Callable
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
        site: number of what is shown. Frames of one site are models of one scene that nothing
            aligns, so that their positions cannot be compared.
    """

    frame: Int64[Tensor, " row"]
    position: Float[Tensor, "row 3"]
    side: Float[Tensor, " row"]
    site: Int64[Tensor, " row"]

    def __len__(self) -> int:
        """Return number of rows."""
        return len(self.frame)

    def __getitem__(self, rows: Tensor) -> "Places":
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device) -> "Places":
        """Move to a device."""
        return self._each(lambda values: values.to(device))

    def joined(self, others: "Places") -> "Places":
        """Return these rows and those of others."""
        return Places(**{k: torch.cat([v, getattr(others, k)]) for k, v in vars(self).items()})

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Places":
        return Places(**{name: change(values) for name, values in vars(self).items()})


def show_same_point(a: Places, b: Places, exclusion: float) -> Bool[Tensor, "row_a row_b"]:
    """Say which rows of a and b show, or may show, one point: they are no negatives of another.

    Within a frame the distance decides. Rows of one site in different frames may show one point.

    Args:
        a, b: the rows.
        exclusion: points of one frame closer than this part of the larger side are one.
    """
    # without matrix products, whose rounding would part equal points
    distance = torch.cdist(a.position, b.position, compute_mode="donot_use_mm_for_euclid_dist")
    reach = exclusion * torch.maximum(a.side[:, None], b.side[None])
    near = (distance < reach) | (distance == 0)
    is_same_frame = a.frame[:, None] == b.frame[None]
    return torch.where(is_same_frame, near, a.site[:, None] == b.site[None])
