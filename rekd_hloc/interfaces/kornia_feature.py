"""The extractor as one of kornia's local features."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc.config import ExtractConfig, with_max_keypoints
from rekd_hloc.features.batches import images_of_batch, pad_features
from rekd_hloc.features.descriptor.patches import affine_frames
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.pretrained_folder import read_preset


class RekdFeature(nn.Module):
    """Detector and descriptor as ``kornia.feature.LocalFeature`` has them.

    ``kornia.feature.LocalFeatureMatcher(RekdFeature(), kornia.feature.DescriptorMatcher("smnn"))``
    matches image pairs with it. Nothing in it is trained.

    Args:
        preset: a preset's name, or a folder of ``Extractor.save_pretrained``.
        num_features: the best keypoints kept in an image; None takes the preset's budget.
        device: where extraction runs, whatever device the images are on.
        config: options in place of the preset's own.
        extractor: to use in place of the one that ``preset`` names, with its own options.

    Raises:
        ValueError: no such preset, or options beside an extractor that has its own.
        FileNotFoundError: a folder without a configuration.
    """

    def __init__(
        self,
        preset: str = "rekd",
        *,
        num_features: int | None = None,
        device: str = "auto",
        config: ExtractConfig | None = None,
        extractor: Any = None,
    ) -> None:
        super().__init__()
        if extractor is not None and not (num_features is None and config is None):
            raise ValueError(
                "num_features and config are of the preset; an extractor has its own options"
            )
        if num_features is not None:
            config = with_max_keypoints(config or read_preset(preset), num_features)
        self.extractor = extractor or Extractor.from_pretrained(
            preset, device=device, config=config
        )
        self.eval()

    def forward(
        self,
        image: Float[Tensor, "batch channel height width"],
        mask: Tensor | None = None,
    ) -> tuple[
        Float[Tensor, "batch keypoint 2 3"],
        Float[Tensor, "batch keypoint"],
        Float[Tensor, "batch keypoint channel2"],
    ]:
        """Extract a batch.

        Args:
            image: values in 0..1, grey or RGB.
            mask: zero where no patch may be, shape (batch, 1, height, width) or without the 1.

        Returns:
            Local affine frames of the described squares, responses, and descriptors, on the
            image's device. Rows beyond an image's own keypoints are zero, as in kornia.

        Raises:
            ValueError: no image, or masks of another size or number.
        """
        masks = [None] * len(image) if mask is None else _split_masks(mask, image)
        padded = pad_features(
            [
                self.extractor(picture.cpu(), part)
                for picture, part in zip(images_of_batch(image), masks, strict=True)
            ]
        )
        options = self.extractor.config.descriptor
        frames = torch.stack(
            [
                affine_frames(part, options.patch_size_px, oriented=options.oriented)
                for part in padded.keypoints
            ]
        )
        return (
            frames.to(image.device),
            padded.score.to(image.device),
            padded.descriptors.to(image.device),
        )


def _split_masks(mask: Tensor, image: Tensor) -> list[Tensor]:
    """Return the mask of each image."""
    expected = (len(image), *image.shape[2:])
    if tuple(mask.shape) not in (expected, (len(image), 1, *image.shape[2:])):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, its images {tuple(image.shape)}")
    return list(mask.reshape(expected).cpu())
