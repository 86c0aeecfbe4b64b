"""Descriptors of many images to learn a codebook from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.retrieval.codebook import DESCRIPTOR
from rekd_hloc.retrieval.signatures import MAX_KEYPOINTS
from rekd_hloc.storage.features import FeatureStore

MAX_DESCRIPTORS = 400_000
"""Of a sample; as float32 of 128 numbers they take 205 MB."""


@dataclass(frozen=True, eq=False)
class DescriptorSample:
    """Hold descriptors of one kind.

    Attributes:
        descriptors: rows of length 1.
        descriptor: first digits of the hash of the descriptor's weights; empty if unknown.
        num_images: that they are from.
    """

    descriptors: Float[Tensor, "keypoint channel"]
    descriptor: str
    num_images: int


def sample_descriptors(paths: Sequence[Path], *, seed: int = 0) -> DescriptorSample:
    """Draw descriptors of the images of files of features, of each image as many.

    Of an image's ``MAX_KEYPOINTS`` strongest keypoints some are drawn, so that there are no more
    than ``MAX_DESCRIPTORS`` in all.

    Args:
        paths: files of features.
        seed: of the draw.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the files hold no image, or descriptors of different kinds.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds: dict[str, Path] = {}
    images: list[tuple[Path, str]] = []
    for path in paths:
        with FeatureStore(path) as store:
            kinds.setdefault(store.provenance.get(DESCRIPTOR, ""), path)
            images += [(path, name) for name in store.names()]
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise ValueError(
            f"{first} has descriptors of {one or 'unknown weights'}, {second} of "
            f"{other or 'unknown weights'}; give files of one descriptor"
        )
    if not images:
        raise ValueError("no image to learn a codebook from; give files of features that hold some")
    per_image = max(1, MAX_DESCRIPTORS // len(images))
    parts = []
    for path in paths:
        with FeatureStore(path) as store:
            for name in store.names():
                features = store.read(name)
                strongest = features.keypoints.strongest(MAX_KEYPOINTS)
                drawn = torch.randperm(len(strongest), generator=generator)[:per_image]
                parts.append(features.descriptors[strongest[drawn]].float())
    return DescriptorSample(torch.cat(parts), next(iter(kinds)), len(images))
