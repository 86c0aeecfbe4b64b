"""One size of the image in the outer pyramid, and how its pixels map to those of the image."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One size of the image.

    Attributes:
        image: grey values (1, 1, height, width).
        number: l, negative for enlarged levels.
        scale: ``factor ** l``.
        ratio: image pixels for one level pixel, (x, y).
        corner_aligned: positions map by ``(xy + 0.5) * ratio - 0.5`` (pixel areas) if true, by
            ``xy * scale`` (the paper's code) if false.
    """

    image: Float[Tensor, "1 1 height width"]
    number: int
    scale: float
    ratio: tuple[float, float]
    corner_aligned: bool = True

    def to_image(self, xy: Float[Tensor, "keypoint 2"]) -> Float[Tensor, "keypoint 2"]:
        """Positions in pixels of the level to pixels of the image."""
        if not self.corner_aligned:
            return xy * self.scale
        return (xy + 0.5) * xy.new_tensor(self.ratio) - 0.5

    def from_image(self, xy: Float[Tensor, "keypoint 2"]) -> Float[Tensor, "keypoint 2"]:
        """Positions in pixels of the image to pixels of the level."""
        if not self.corner_aligned:
            return xy / self.scale
        return (xy + 0.5) / xy.new_tensor(self.ratio) - 0.5
