"""Images and masks as the extractor takes them: grey values in 0..1, and what to ignore."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from rekd_hloc.geometry import warp_points, warp_scales
from rekd_hloc.images import LoadedImage, load_image, shrink
from rekd_hloc.types import Features, Keypoints

Image = str | Path | NDArray[np.generic] | Tensor


@dataclass(frozen=True, eq=False)
class SmallImage:
    """An image as it is extracted, and the way back to its own pixels.

    Attributes:
        grey: 0..1, no larger than the extractor takes it.
        usable: False where to ignore pixels; None uses all.
        from_image: from pixels of the loaded image.
        loaded: as it was read.
    """

    grey: Float[Tensor, "height width"]
    usable: Bool[Tensor, "height width"] | None
    from_image: Float[Tensor, "3 3"]
    loaded: LoadedImage

    def to_features(
        self, keypoints: Keypoints, descriptors: Float[Tensor, "keypoint channel"]
    ) -> Features:
        """Return what was found here in pixels of the file, on the CPU."""
        height, width = self.loaded.pixels.shape[:2]
        in_image = _to_original(keypoints.to("cpu"), torch.linalg.inv(self.from_image))
        return self.loaded.in_file(Features(in_image, descriptors, (width, height)))


def make_small(
    image: Image, mask: NDArray[np.generic] | Tensor | None, max_side_px: int
) -> SmallImage:
    """Load an image and make it no larger than ``max_side_px``; 0 keeps every size.

    Raises:
        ImageReadError, ValueError: see :func:`load_grey` and :func:`usable_pixels`.
    """
    loaded = load_grey(image, max_side_px if mask is None else 0)
    grey = loaded.pixels
    assert isinstance(grey, Tensor)
    usable = usable_pixels(mask, loaded.usable, grey.shape)
    small, small_from_image = shrink(grey, max_side_px)
    if usable is not None:
        usable = shrink_mask(usable, small.shape)
    return SmallImage(small, usable, small_from_image, loaded)


def load_grey(image: Image, enough_px: int = 0) -> LoadedImage:
    """Return the grey values of a file or an array.

    Args:
        image: a path, or what :func:`grey_from_array` takes.
        enough_px: see :func:`rekd_hloc.images.load_image`.
    """
    if isinstance(image, str | Path):
        return load_image(Path(image), enough_px=enough_px)
    return LoadedImage(grey_from_array(image), None, None, 1)


def grey_from_array(image: NDArray[np.generic] | Tensor) -> Float[Tensor, "height width"]:
    """Return grey in 0..1 from an array that holds an image, by ITU-R 601 luma.

    Raises:
        ValueError: another shape, an empty side, or values out of range.
    """
    if isinstance(image, Tensor):
        tensor = image
    else:  # torch takes neither Pillow's read-only arrays nor views that run backwards
        tensor = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    if tensor.ndim == 3 and tensor.shape[2] != 3 and tensor.shape[0] in (1, 3):
        tensor = tensor[0] if tensor.shape[0] == 1 else tensor.permute(1, 2, 0)
    if tensor.ndim == 4:
        raise ValueError(f"one image at a time, got {tuple(tensor.shape)}; extract takes batches")
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[2] != 3):
        raise ValueError(
            f"image must be (height, width) or (height, width, 3), got {tuple(tensor.shape)}"
        )
    if 0 in tensor.shape:
        raise ValueError(f"image has no pixel: shape {tuple(tensor.shape)}")
    white = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(tensor.dtype, 1.0)
    values = tensor.float() / white
    if not tensor.dtype.is_floating_point and white == 1.0:
        raise ValueError(f"image must be uint8, uint16 or floats in 0..1, got {tensor.dtype}")
    if not bool(torch.isfinite(values).all()) or values.min() < 0 or values.max() > 1.0 + 1e-4:
        raise ValueError(
            f"a float image must lie in 0..1, got {float(values.min())}..{float(values.max())}; "
            "divide by its white"
        )
    if tensor.ndim == 2:
        return values
    return values @ values.new_tensor([0.299, 0.587, 0.114])


def usable_pixels(
    mask: NDArray[np.generic] | Tensor | None,
    has_value: NDArray[np.bool_] | None,
    shape: torch.Size,
) -> Bool[Tensor, "height width"] | None:
    """Return where a mask is not zero, and the file has a value; None if that is everywhere.

    Raises:
        ValueError: the mask is of another size than its image.
    """
    there = None if has_value is None else torch.from_numpy(has_value)
    if mask is None:
        return there
    usable = mask != 0 if isinstance(mask, Tensor) else torch.from_numpy(np.asarray(mask != 0))
    if usable.shape != shape:
        raise ValueError(
            f"mask has shape {tuple(usable.shape)}, its image {tuple(shape)}; they must be equal"
        )
    return usable if there is None else usable & there


def shrink_mask(usable: Tensor, shape: torch.Size) -> Tensor:
    """Return the mask of an image made smaller.

    A small pixel is usable if every pixel that it stands for is.
    """
    if usable.shape == shape:
        return usable
    ignored = (~usable).float()[None, None]
    share = torch.nn.functional.adaptive_max_pool2d(ignored, tuple(shape))
    return share[0, 0] == 0


def _to_original(keypoints: Keypoints, image_from_small: Float[Tensor, "3 3"]) -> Keypoints:
    exact = keypoints.xy.double()
    scale = warp_scales(image_from_small, exact, keypoints.scale.double())
    xy = warp_points(image_from_small, exact)
    return Keypoints(xy.float(), scale.float(), keypoints.angle, keypoints.score)
