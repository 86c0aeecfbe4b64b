"""The steps from images to features: one image after the other, or those of one size at once.

On a GPU the steps of a single image are so small that starting them takes longer than they do;
taken for several images they keep it busy. A CPU works on one image, which its caches hold better.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rekd_hloc.config import DescriptorConfig, ExtractConfig
from rekd_hloc.features.described import (
    PATCHES,
    Described,
    describe_keypoints,
    record_lengths,
)
from rekd_hloc.features.descriptor.batch_patches import cut_batch_patches
from rekd_hloc.features.descriptor.hardnet import describe
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.detector.batch_detector import BatchDetector
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.mask import fill_ignored
from rekd_hloc.features.detector.shared_pyramid import pyramid_network
from rekd_hloc.features.detector.surroundings import TILE_PX
from rekd_hloc.features.grey_images import SmallImage
from rekd_hloc.features.ranking import Ranking
from rekd_hloc.types import Features, Keypoints


class ImageExtraction:
    """Detects, ranks and describes the keypoints of images.

    Args:
        detector: finds keypoints.
        descriptor: describes patches, on the detector's device.
        config: the options of both.
        ranking: chooses the keypoints of the budget.
    """

    def __init__(
        self,
        detector: Detector,
        descriptor: nn.Module,
        config: ExtractConfig,
        ranking: Ranking | None,
    ) -> None:
        self._detector = detector
        self._batches = BatchDetector(detector)
        self._descriptor = descriptor
        self._config = config
        self._ranking = ranking

    def __call__(self, images: Sequence[SmallImage]) -> list[Features]:
        """Return the features of each image; those that a GPU may take together come as a batch."""
        found: dict[int, Features] = {}
        of_sizes: dict[torch.Size, list[int]] = {}
        for number, image in enumerate(images):
            if self.takes_batches and image.usable is None and max(image.grey.shape) <= TILE_PX:
                of_sizes.setdefault(image.grey.shape, []).append(number)
            else:
                found[number] = self._to_features(image, self.alone(image))
        for numbers in of_sizes.values():
            together = self.together(torch.stack([images[number].grey for number in numbers]))
            for number, described in zip(numbers, together, strict=True):
                found[number] = self._to_features(images[number], described)
        return [found[number] for number in range(len(images))]

    @property
    def takes_batches(self) -> bool:
        """Say whether images of one size are taken together; no side may exceed ``TILE_PX``.

        Those of a shared pyramid and of the paper's protocol are extracted one by one.
        """
        is_plain = self._config.detector.protocol == "default"
        is_plain = is_plain and pyramid_network(self._detector.network) is None
        return is_plain and self._detector.device.type == "cuda"

    def alone(self, image: SmallImage) -> Described:
        """Return the described keypoints of one image, masked or not, of any size."""
        small, usable = image.grey.to(self._detector.exact_device), image.usable
        config, supports = self._config.descriptor, supports_of(self._descriptor)
        patch_px = config.patch_size_px * min(supports)
        keypoints = self._detector.detect(small, usable, patch_px, oriented=config.oriented)
        keypoints = self._rank(keypoints)
        seen = small if usable is None or len(supports) == 1 else fill_ignored(small, usable)
        device = self._detector.device
        return self._rank_described(
            describe_keypoints(self._descriptor, seen, keypoints, config, device)
        )

    def together(self, images: Float[Tensor, "batch height width"]) -> list[Described]:
        """Return the described keypoints of each image, on the CPU.

        Args:
            images: grey, 0..1, no side longer than ``TILE_PX``.
        """
        images = images.to(self._detector.device)
        keypoints = [self._rank(part) for part in self._batches.detect(images).split()]
        described = describe_batch(
            self._descriptor, images, keypoints, self._config.descriptor,
            with_lengths=self._ranks_described,
        )  # fmt: skip
        return [self._rank_described(part) for part in described]

    @property
    def _ranks_described(self) -> bool:
        return self._ranking is not None and self._ranking.needs_description

    def _rank(self, keypoints: Keypoints) -> Keypoints:
        """Return the keypoints of the budget, unless they are to be described first."""
        if self._ranking is None or self._ranking.needs_description:
            return keypoints
        return self._ranking.keep_best(keypoints, self._config.detector.max_keypoints)

    def _rank_described(self, described: Described) -> Described:
        if self._ranking is None or not self._ranking.needs_description:
            return described
        return self._ranking.keep_best_described(described, self._config.detector.max_keypoints)

    @staticmethod
    def _to_features(image: SmallImage, described: Described) -> Features:
        return image.to_features(described.keypoints, described.descriptors)


def describe_batch(
    network: nn.Module,
    images: Float[Tensor, "batch height width"],
    keypoints: Sequence[Keypoints],
    config: DescriptorConfig,
    *,
    with_lengths: bool,
) -> list[Described]:
    """Cut and describe the patches of all images together; few are there at once.

    Args:
        network: of descriptors.
        images: grey values, on the device of the network.
        keypoints: of each image, on the CPU, in pixels of it.
        config: how patches are cut.
        with_lengths: whether the lengths of descriptors are wanted; else they are 1.
    """
    placed, image = _place(keypoints, images.device)
    parts, lengths = [], []
    for first in range(0, max(len(image), 1), PATCHES):
        rows = slice(first, first + PATCHES)
        patches = cut_batch_patches(
            images, placed[rows], image[rows], patch_size_px=config.patch_size_px,
            oriented=config.oriented, antialias=config.antialias, supports=supports_of(network),
        )  # fmt: skip
        with record_lengths(network, wanted=with_lengths) as recorded:
            described = describe(network, patches, config.batch_size, autocast=config.autocast)
        parts.append(described.cpu())
        lengths.extend(recorded)
    every = torch.cat(parts)
    length = torch.cat(lengths)[: len(every)] if lengths else every.new_ones(len(every))
    counts = [len(part) for part in keypoints]
    of_images = zip(keypoints, torch.split(every, counts), torch.split(length, counts), strict=True)
    return [Described(*part) for part in of_images]


def _place(
    keypoints: Sequence[Keypoints], device: torch.device
) -> tuple[Keypoints, Int64[Tensor, " keypoint"]]:
    """Bring keypoints to a device by one copy, with the number of each one's image."""
    numbers = [torch.full((len(part),), float(n)) for n, part in enumerate(keypoints)]
    table = torch.cat([
        torch.stack([*part.xy.T, part.scale, part.angle, part.score, number])
        for part, number in zip(keypoints, numbers, strict=True)
    ], dim=1)  # fmt: skip
    x, y, scale, angle, score, image = table.to(device)
    return Keypoints(torch.stack([x, y], dim=1), scale, angle, score), image.long()
