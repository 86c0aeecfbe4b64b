"""The package's only currency: frozen dataclasses of tensors.

Every stage takes and returns these, so position, scale, angle and score never travel apart.
Conventions (pixel centres, angles) are those of :mod:`rekd_hloc.geometry`. Two objects are equal
only if they are the same object: whether tensors agree is the caller's question of tolerance.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[str, str]
"""Names of two images, in the order in which they are matched."""

Index = Int64[Tensor, " selected"] | Bool[Tensor, " keypoint"] | slice


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Oriented keypoints of one image.

    Attributes:
        xy: position in pixels; (0, 0) is the centre of the first pixel.
        scale: factor between the pyramid level that a keypoint was detected on and the image; 1
            is the image's own size, larger is coarser.
        angle: radians in [0, 2 pi), from +x towards +y (clockwise on the screen).
        score: detector response, not negative, comparable within one image.

    Raises:
        ValueError: the tensors disagree in length or shape.
    """

    xy: Float[Tensor, "keypoint 2"]
    scale: Float[Tensor, " keypoint"]
    angle: Float[Tensor, " keypoint"]
    score: Float[Tensor, " keypoint"]

    def __post_init__(self) -> None:
        if self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"xy must have shape (keypoint, 2), got {tuple(self.xy.shape)}")
        count = len(self.xy)
        for field in fields(Keypoints)[1:]:
            shape = tuple(getattr(self, field.name).shape)
            if shape != (count,):
                raise ValueError(f"{field.name} must have shape ({count},) like xy, got {shape}")

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, index: Index) -> Self:
        """Return the keypoints that a slice, or an integer or boolean index tensor, selects."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def strongest(self, count: int) -> Int64[Tensor, " chosen"]:
        """Return the numbers of the ``count`` keypoints of the highest scores, the best first."""
        return torch.argsort(self.score, descending=True, stable=True)[:count]

    def to(self, device: torch.device | str) -> Self:
        """Return the same keypoints on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> Self:
        """Return no keypoint at all, with the right shapes."""
        none = torch.zeros(0, device=device)
        return cls(xy=torch.zeros(0, 2, device=device), scale=none, angle=none, score=none)

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Join several sets of one kind in the order given; no part gives an empty set."""
        if not parts:
            return cls.empty()
        joined = {f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(parts[0])}
        return replace(parts[0], **joined)


@dataclass(frozen=True, eq=False)
class Features:
    """Keypoints with one unit-length descriptor each, and the size of the image they lie in.

    Attributes:
        keypoints: see :class:`Keypoints`, in pixels of the original image.
        descriptors: one L2-normalised row for each keypoint.
        image_size: (width, height) of the original image in pixels.

    Raises:
        ValueError: there is not one descriptor for each keypoint.
    """

    keypoints: Keypoints
    descriptors: Float[Tensor, "keypoint channel"]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.descriptors.ndim != 2 or len(self.descriptors) != len(self.keypoints):
            raise ValueError(
                f"descriptors must have shape ({len(self.keypoints)}, channel), "
                f"got {tuple(self.descriptors.shape)}"
            )

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: Index) -> Self:
        """Return the features that a slice, or an integer or boolean index tensor, selects."""
        return replace(self, keypoints=self.keypoints[index], descriptors=self.descriptors[index])

    def numpy(self) -> dict[str, NDArray[np.generic]]:
        """Return arrays by name.

        They are ``xy``, ``scale``, ``angle`` (radians), ``score``, ``descriptors`` and
        ``image_size`` (width, height).
        """
        arrays = {f.name: getattr(self.keypoints, f.name) for f in fields(self.keypoints)}
        arrays["descriptors"] = self.descriptors
        found = {name: rows.detach().cpu().numpy() for name, rows in arrays.items()}
        return {**found, "image_size": np.array(self.image_size)}

    def to_frame(self) -> Any:
        """Return keypoints as a ``pandas.DataFrame``: x, y, scale, angle_deg and score.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas") from error
        arrays = self.numpy()
        columns = {"x": arrays["xy"][:, 0], "y": arrays["xy"][:, 1], "scale": arrays["scale"]}
        angle_deg = np.rad2deg(arrays["angle"].astype(np.float64))
        return pd.DataFrame({**columns, "angle_deg": angle_deg, "score": arrays["score"]})

    def to(self, device: torch.device | str) -> Self:
        """Return the same features on another device."""
        return replace(
            self, keypoints=self.keypoints.to(device), descriptors=self.descriptors.to(device)
        )


@dataclass(frozen=True, eq=False)
class Matches:
    """Correspondences between two images.

    Attributes:
        index: row m is (keypoint of image a, keypoint of image b).
        score: similarity in [-1, 1] (cosine for descriptors), larger is better.
        is_fallback: whether another rule chose them, as the one asked for had too little to go on.

    Raises:
        ValueError: shapes disagree.
    """

    index: Int64[Tensor, "match 2"]
    score: Float[Tensor, " match"]
    is_fallback: bool = False

    def __post_init__(self) -> None:
        if self.index.ndim != 2 or self.index.shape[1] != 2:
            raise ValueError(f"index must have shape (match, 2), got {tuple(self.index.shape)}")
        if self.score.shape != (len(self.index),):
            raise ValueError(
                f"score must have shape ({len(self.index)},), got {tuple(self.score.shape)}"
            )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Index) -> Self:
        """Return the matches that a slice, or an integer or boolean index tensor, selects."""
        return replace(self, index=self.index[index], score=self.score[index])

    def to(self, device: torch.device | str) -> Self:
        """Return the same matches on another device."""
        return replace(self, index=self.index.to(device), score=self.score.to(device))

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> Self:
        """Return no match at all, with the right shapes."""
        index = torch.zeros(0, 2, dtype=torch.int64, device=device)
        return cls(index=index, score=torch.zeros(0, device=device))
