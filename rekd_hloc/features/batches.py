"""Features of several images as tensors with a batch axis, as other libraries pass them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.types import Features, Keypoints


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Features of images, padded with zeros to the largest number of keypoints among them.

    Attributes:
        keypoints: of each image, padded; their scores are zero there.
        descriptors: rows of zeros where there is no keypoint.
        count: keypoints of each image; the rows after them are padding.
        image_size: (width, height) of each image in pixels.
    """

    keypoints: Sequence[Keypoints]
    descriptors: Float[Tensor, "batch keypoint channel"]
    count: Int64[Tensor, " batch"]
    image_size: Int64[Tensor, "batch 2"]

    @property
    def score(self) -> Float[Tensor, "batch keypoint"]:
        """Return the score of each keypoint."""
        return torch.stack([part.score for part in self.keypoints])

    def to_dict(self) -> dict[str, Tensor]:
        """Return the tensors by the names that LightGlue and its kin give them.

        ``keypoints`` (pixel centres at integers), ``keypoint_scores``, ``descriptors``, ``scales``
        (factors, 1 is the image's own size), ``oris`` (radians, clockwise), ``image_size`` and
        ``num_keypoints``; all have the batch as their first axis.
        """
        return {
            "keypoints": torch.stack([part.xy for part in self.keypoints]),
            "keypoint_scores": self.score,
            "descriptors": self.descriptors,
            "scales": torch.stack([part.scale for part in self.keypoints]),
            "oris": torch.stack([part.angle for part in self.keypoints]),
            "image_size": self.image_size,
            "num_keypoints": self.count,
        }


def pad_features(parts: Sequence[Features]) -> FeatureBatch:
    """Join features of at least one image, padding those with fewer keypoints.

    Raises:
        ValueError: there is no image.
    """
    if not parts:
        raise ValueError("a batch needs at least one image")
    longest = max(map(len, parts))
    return FeatureBatch(
        keypoints=[
            Keypoints(**{
                name: _pad(getattr(part.keypoints, name), longest)
                for name in ("xy", "scale", "angle", "score")
            })
            for part in parts
        ],
        descriptors=torch.stack([_pad(part.descriptors, longest) for part in parts]),
        count=torch.tensor([len(part) for part in parts]),
        image_size=torch.tensor([part.image_size for part in parts]),
    )  # fmt: skip


def images_of_batch(images: Tensor) -> Iterable[Tensor]:
    """Return the images of a batch, or a single image as a batch of one.

    Args:
        images: (batch, channel, height, width), (channel, height, width) or (height, width), with
            one channel or three.

    Raises:
        ValueError: another shape.
    """
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.unbind(0)
    if images.ndim in (2, 3):
        return (images,)
    raise ValueError(
        "images must be (batch, channel, height, width) with 1 or 3 channels, or one image, "
        f"got {tuple(images.shape)}"
    )


def _pad(rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])
