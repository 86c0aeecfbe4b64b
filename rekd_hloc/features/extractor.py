"""From an image to features: reads, shrinks, detects, describes, and maps back. Nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from rekd_hloc.config import ExtractConfig, config_hash, config_tree, get_preset
from rekd_hloc.devices import choose_device
from rekd_hloc.features.described import describe_keypoints
from rekd_hloc.features.descriptor.hardnet import load_hardnet, resolve_hardnet
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.detector.detect import Detector, make_detector
from rekd_hloc.features.ranking import Ranking, load_ranking, resolve_ranking
from rekd_hloc.features.weights import load_network, resolve_weights
from rekd_hloc.geometry import warp_points, warp_scales
from rekd_hloc.images import load_image, shrink
from rekd_hloc.types import Features, Keypoints
from rekd_hloc.weight_files import weights_hash

Image = str | Path | NDArray[np.generic] | Tensor

GPU_READERS = 4
"""Threads that read images ahead for a GPU; a CPU is kept busy by what one thread reads."""


class Extractor:
    """Extracts oriented keypoints with descriptors.

    Args:
        detector: finds keypoints.
        descriptor: a network from patches to descriptors of any width, in eval mode, on the
            detector's device.
        config: the resolved options.
        name: what the preset is called.
        provenance: what a features file must record: configuration, its hash, weights' hashes.
        ranking: chooses ``config.detector.max_keypoints`` of the detector's keypoints, which must
            have shapes.

    Example:
        >>> features = Extractor.from_pretrained("rekd")("photo.jpg")  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        detector: Detector,
        descriptor: nn.Module,
        config: ExtractConfig,
        name: str,
        provenance: dict[str, str],
        ranking: Ranking | None = None,
    ) -> None:
        self.detector = detector
        self.descriptor = descriptor
        self.config = config
        self.name = name
        self.provenance = provenance
        self.ranking = ranking

    @classmethod
    def from_pretrained(
        cls, preset: str = "rekd", *, device: str = "auto", config: ExtractConfig | None = None
    ) -> Self:
        """Return an extractor with the weights that ship with the package.

        Args:
            preset: ``rekd``, ``rekd-upright``, ``rekd-fast``, ``rekd-c36`` or ``rekd-paper``.
            device: ``auto`` (CUDA, MPS or XPU where there is one), or one of them, or ``cpu``.
            config: options in place of the preset's own.

        Raises:
            ValueError: no such preset or device.
            FileNotFoundError: the configuration names weights that are not there.
        """
        config = config or get_preset(preset)
        torch_device = choose_device(device)
        weights = resolve_weights(config.weights)
        network = load_network(weights, tile_rows=config.detector.tile_rows, device=torch_device)
        descriptor = load_hardnet(config.descriptor.weights)
        provenance = {
            "preset": preset,
            "config": json.dumps(config_tree(config), sort_keys=True),
            "config_hash": config_hash(config),
            "detector_weights": weights_hash(weights),
            "descriptor_weights": weights_hash(resolve_hardnet(config.descriptor.weights)),
        }
        ranking = _load_ranking(config, provenance["descriptor_weights"])
        pooled = config.detector
        if ranking is not None:
            provenance["ranking_weights"] = weights_hash(resolve_ranking(config.ranking))
            pooled = replace(
                pooled, max_keypoints=round(config.ranking_pool * pooled.max_keypoints)
            )
        return cls(
            detector=make_detector(
                network,
                pooled,
                with_shapes=ranking is not None,
                with_directions=ranking is not None and ranking.sees_directions,
            ),
            descriptor=descriptor.to(torch_device),
            config=config,
            name=preset,
            provenance=provenance,
            ranking=ranking,
        )

    @property
    def device(self) -> torch.device:
        """Return where extraction runs."""
        return self.detector.device

    @property
    def needs_color(self) -> bool:
        """Say whether the extractor takes colours; grey is enough for it."""
        return False

    @property
    def num_readers(self) -> int:
        """Say how many threads read images ahead of the extractor."""
        return 1 if self.device.type == "cpu" else GPU_READERS

    @torch.inference_mode()
    def __call__(self, image: Image, mask: NDArray[np.generic] | Tensor | None = None) -> Features:
        """Extract from a file, or from an array.

        Args:
            image: a path; or grey (height, width) or RGB (height, width, 3), uint8, uint16, or
                floats in 0..1. What is transparent in a file is ignored as if masked.
            mask: (height, width), zero where pixels must be ignored; no patch touches one.

        Returns:
            Features on the CPU, strongest first, in pixels of the original image.

        Raises:
            ImageReadError: the file is no readable image.
            ValueError: an array of another shape or type, or a mask of another size.
        """
        grey, has_value = _grey_of(image)
        height, width = grey.shape
        usable = _usable_pixels(mask, grey.shape)
        if has_value is not None:
            usable = has_value if usable is None else usable & has_value
        small, small_from_image = shrink(grey, self.config.max_side_px)
        small = small.to(self.detector.exact_device)
        if usable is not None:
            usable = _shrink_mask(usable, small.shape)
        descriptor = self.config.descriptor
        largest_px = descriptor.patch_size_px * max(supports_of(self.descriptor))
        keypoints = self.detector.detect(small, usable, largest_px, oriented=descriptor.oriented)
        budget, ranking = self.config.detector.max_keypoints, self.ranking
        if ranking is not None and not ranking.needs_description:
            keypoints = ranking.keep_best(keypoints, budget)
        described = describe_keypoints(self.descriptor, small, keypoints, descriptor, self.device)
        if ranking is not None and ranking.needs_description:
            described = ranking.keep_best_described(described, budget)
        in_image = _to_original(described.keypoints.to("cpu"), torch.linalg.inv(small_from_image))
        return Features(in_image, described.descriptors, (width, height))


def _load_ranking(config: ExtractConfig, descriptor_weights: str) -> Ranking | None:
    """Load the configured ranking, unless it was trained with another descriptor.

    Raises:
        ValueError: it was.
    """
    if config.ranking == "none":
        return None
    ranking = load_ranking(config.ranking)
    if ranking.descriptor_weights not in ("", descriptor_weights):
        raise ValueError(
            f"ranking {config.ranking} was trained with descriptor weights "
            f"{ranking.descriptor_weights}, descriptor.weights={config.descriptor.weights} is "
            f"{descriptor_weights}; take ranking=none, or train a ranking"
        )
    return ranking


def _grey_of(
    image: Image,
) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"] | None]:
    """Grey, and where the file has a value; None if it has one everywhere."""
    if not isinstance(image, str | Path):
        return grey_from_array(image), None
    loaded = load_image(Path(image))
    assert isinstance(loaded.pixels, Tensor)
    return loaded.pixels, None if loaded.usable is None else torch.from_numpy(loaded.usable)


def grey_from_array(image: NDArray[np.generic] | Tensor) -> Float[Tensor, "height width"]:
    """Return grey in 0..1 from an array that holds an image, by ITU-R 601 luma.

    Raises:
        ValueError: another shape, an empty side, or values out of range.
    """
    if isinstance(image, Tensor):
        tensor = image
    else:  # torch takes neither Pillow's read-only arrays nor views that run backwards
        tensor = torch.from_numpy(np.require(image, requirements=["C", "W"]))
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


def _usable_pixels(
    mask: NDArray[np.generic] | Tensor | None, shape: torch.Size
) -> Bool[Tensor, "height width"] | None:
    if mask is None:
        return None
    usable = mask != 0 if isinstance(mask, Tensor) else torch.from_numpy(np.asarray(mask != 0))
    if usable.shape != shape:
        raise ValueError(
            f"mask has shape {tuple(usable.shape)}, its image {tuple(shape)}; they must be equal"
        )
    return usable


def _shrink_mask(usable: Tensor, shape: torch.Size) -> Tensor:
    """A small pixel is usable if every pixel that it stands for is."""
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
