"""One extractor behind a name, in the form that the package's own loop over images takes.

:class:`NamedExtractor` is an :class:`rekd_hloc.sfm.image_work.ImageExtractor`, so that what is
measured reads, masks and stores images exactly as ``rekd-hloc extract`` does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.features.detector.mask import patches_are_usable
from rekd_hloc.images import LUMA, read_color, read_image
from rekd_hloc.types import Features, Keypoints

Image = Float[Tensor, "height width"] | UInt8[np.ndarray, "height width 3"]

LEVEL_PATCH_SIDE = 64.0
"""Side in pixels, for scale 1, of patches whose scale is that of a pyramid level, as REKD's."""
REFINED = " + refinement"
"""What the names of methods end in where the positions of their matches were refined."""


@dataclass(frozen=True)
class NamedExtractor:
    """A function from an image to features, strongest first, and what it is made of."""

    name: str
    extract: Callable[..., Features] = field(repr=False)
    """Takes a grey image, 0..1, or RGB bytes if ``needs_color``, or a path if ``is_stored``."""
    provenance: dict[str, str]
    """Configuration, versions and hashes of weights; equal ones give equal features."""
    has_orientation: bool = True
    """False where all angles are zero, so that orientation filters do not apply."""
    patch_side: float = LEVEL_PATCH_SIDE
    """Side in pixels, for scale 1, of the patch that describes a keypoint."""
    level_scale: float = 1.0
    """Scale, in the extractor's own unit, of a keypoint found at the image's own size."""
    is_stored: bool = False
    """Whether features are read from a file, so that other images cannot be asked for."""
    needs_color: bool = False
    """Whether it looks at RGB bytes instead of grey values."""
    takes_mask: bool = False
    """Whether ``extract`` has a second argument, the mask; other extractors lose the keypoints
    whose patch touches an ignored pixel after extraction."""
    num_readers: int = 1
    """Threads that read images ahead of it."""
    num_workers: int = 1
    """Images that it extracts at once, on threads."""
    batch_size: int = 1
    """Images of one size that it takes together; if several, ``extract`` has ``extract_all``."""
    max_side_px: int = 0
    """Longer side to which it makes larger images smaller; 0 where it makes none."""

    def __call__(self, image: Path | Image, mask: NDArray[np.bool_] | None = None) -> Features:
        """Return the features of an image, strongest first.

        Args:
            image: a file, or what ``extract`` takes.
            mask: (height, width), False where to ignore pixels; no patch touches one.
        """
        if isinstance(image, Path) and not self.is_stored:
            image = read_color(image) if self.needs_color else read_image(image)
        if self.takes_mask:
            return strongest_first(self.extract(image, mask))
        features = strongest_first(self.extract(image))
        return features if mask is None else self._drop_masked(features, mask)

    def extract_all(self, images: Sequence[Image]) -> list[Features]:
        """Return the features of images without masks, each as the call alone gives them."""
        if self.batch_size == 1:
            return [self(image) for image in images]
        extractor: Any = self.extract
        return [strongest_first(features) for features in extractor.extract_all(images)]

    @property
    def weights(self) -> str:
        """Hashes of the weights in short; ``-`` for extractors without any."""
        parts = [v for k, v in sorted(self.provenance.items()) if k.endswith("weights")]
        return " ".join(parts) or "-"

    def describe(self) -> dict[str, Any]:
        """Return its entry in results.json."""
        return {"provenance": self.provenance, "weights": self.weights}

    def in_levels(self, keypoints: Keypoints) -> Keypoints:
        """Return keypoints with scales as this package has them: 1 at the image's own size."""
        return replace(keypoints, scale=keypoints.scale / self.level_scale)

    def _drop_masked(self, features: Features, mask: NDArray[np.bool_]) -> Features:
        usable = patches_are_usable(
            features.keypoints, torch.from_numpy(mask), self.patch_side,
            oriented=self.has_orientation,
        )  # fmt: skip
        return select(features, usable)


def select(features: Features, index: Tensor) -> Features:
    """Return the features that an integer or boolean index tensor selects."""
    return replace(
        features, keypoints=features.keypoints[index], descriptors=features.descriptors[index]
    )


def strongest_first(features: Features) -> Features:
    """Return the same features in order of falling score."""
    return limit(features, len(features))


def limit(features: Features, count: int) -> Features:
    """Return the strongest ``count`` features."""
    order = torch.argsort(features.keypoints.score, descending=True, stable=True)
    return select(features, order[:count])


def grey_of(image: Image) -> Float[Tensor, "height width"]:
    """Return the image in grey, 0..1, as :func:`rekd_hloc.images.read_image` makes it of a file."""
    if isinstance(image, Tensor):
        return image
    grey = np.zeros(image.shape[:2], dtype=np.float32)
    for channel, weight in enumerate(LUMA):
        grey += image[..., channel] * np.float32(weight / 255.0)
    return torch.from_numpy(np.clip(grey, 0.0, 1.0))
