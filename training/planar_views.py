"""Views of scenes that are made of planes, where each pixel says which plane it shows.

A plane seen in two views is a homography between them, so where a keypoint of one view lies in
another is known everywhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int16
from torch import Tensor

from rekd_hloc.types import Keypoints
from training.warps import Image

NOTHING = -1
"""Label of a pixel that shows no plane."""


@dataclass(frozen=True, eq=False)
class PlanarView:
    """One view.

    Attributes:
        grey: the image.
        label: which plane each pixel shows, or ``NOTHING``.
        maps: of each plane, to pixels of the view from positions on the plane, the same positions
            in all views.
    """

    grey: Image
    label: Int16[np.ndarray, "height width"]
    maps: Float64[np.ndarray, "plane 3 3"]

    def labels_at(self, xy: Float64[np.ndarray, "point 2"]) -> Int16[np.ndarray, " point"]:
        """Return the plane at each position; ``NOTHING`` outside the view."""
        height, width = self.label.shape
        column, row = np.rint(np.nan_to_num(xy, nan=-1e6).clip(-1e6, 1e6)).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found = self.label[np.where(inside, row, 0), np.where(inside, column, 0)]
        return np.where(inside, found, NOTHING).astype(np.int16)


def carry_to_view(
    of: PlanarView, to: PlanarView, keypoints: Keypoints
) -> tuple[Float64[Tensor, "keypoint 2"], Bool[Tensor, " keypoint"]]:
    """Return where keypoints of a view lie in another, and which of them it shows."""
    xy = keypoints.xy.double().numpy()
    label = of.labels_at(xy)
    plane, place = np.unique(np.where(label == NOTHING, 0, label), return_inverse=True)
    maps = (to.maps[plane] @ np.linalg.inv(of.maps[plane]))[place]
    moved = np.einsum("kij,kj->ki", maps, np.column_stack([xy, np.ones(len(xy))]))
    carried = moved[:, :2] / moved[:, 2:]
    is_seen = (label != NOTHING) & (to.labels_at(carried) == label)
    return torch.from_numpy(carried), torch.from_numpy(is_seen)
