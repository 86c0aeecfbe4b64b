"""Grey images at halved sizes, read between pixels and between sizes without aliasing."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

MIN_SIDE_PX = 8
"""No level is smaller than that."""


@dataclass(frozen=True, eq=False)
class ImagePyramid:
    """Hold an image at its own size, at half, at a quarter, ...

    Attributes:
        levels: of shape (height, width); pixel centres and corners as in
            :func:`rekd_hloc.geometry.resize_matrix`.
    """

    levels: tuple[Float[Tensor, "_ _"], ...]

    @classmethod
    def of(cls, image: Float[Tensor, "height width"]) -> Self:
        """Build the pyramid of a grey image; each level is the area average of the one before."""
        levels = [image.float()]
        while min(levels[-1].shape) >= 2 * MIN_SIDE_PX:
            size = [(side + 1) // 2 for side in levels[-1].shape]
            half = F.interpolate(
                levels[-1][None, None], size, mode="bilinear", antialias=True, align_corners=False
            )
            levels.append(half[0, 0])
        return cls(tuple(levels))

    def read(
        self, xy: Float[Tensor, "patch sample 2"], step_px: Float[Tensor, " patch"]
    ) -> tuple[Float[Tensor, "patch sample"], Tensor]:
        """Return grey values and whether all samples of a patch lie in the image.

        Args:
            xy: positions in pixels of the image.
            step_px: distance of two neighbouring samples of a patch. The level is chosen by it, as
                a blend of the two whose pixels are next in size to it.
        """
        height, width = self.levels[0].shape
        limit = xy.new_tensor([width - 0.5, height - 0.5])
        is_inside = ((xy >= -0.5) & (xy <= limit)).all(dim=2).all(dim=1)
        octave = torch.log2(step_px.clamp(min=1.0)).clamp(max=len(self.levels) - 1)
        lower = octave.floor().long()
        upper = (lower + 1).clamp(max=len(self.levels) - 1)
        share = (octave - lower)[:, None]
        fractions = (2 * xy + 1) / xy.new_tensor([width, height]) - 1
        values = (1 - share) * self._read_levels(fractions, lower)
        return values + share * self._read_levels(fractions, upper), is_inside

    def _read_levels(
        self, fractions: Float[Tensor, "patch sample 2"], level: Int64[Tensor, " patch"]
    ) -> Float[Tensor, "patch sample"]:
        values = fractions.new_zeros(fractions.shape[:2])
        for number in torch.unique(level).tolist():
            chosen = torch.nonzero(level == number)[:, 0]
            read = F.grid_sample(
                self.levels[number][None, None].to(fractions.dtype),
                fractions[None, chosen],
                mode="bicubic",
                padding_mode="border",
                align_corners=False,
            )
            values[chosen] = read[0, 0]
        return values
