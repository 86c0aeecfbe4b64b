"""From an image to features: reads, shrinks, detects, describes, and maps back. Nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from rekd_hloc.config import ExtractConfig, config_hash, config_tree
from rekd_hloc.devices import choose_device
from rekd_hloc.features.batches import images_of_batch, pad_features
from rekd_hloc.features.described import describe_keypoints
from rekd_hloc.features.descriptor.hardnet import load_hardnet, resolve_hardnet
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.detector.detect import Detector, make_detector
from rekd_hloc.features.detector.mask import fill_ignored
from rekd_hloc.features.grey_images import Image, load_grey, shrink_mask, usable_pixels
from rekd_hloc.features.opencv_points import to_gray_or_rgb, to_opencv
from rekd_hloc.features.pretrained_folder import (
    read_preset,
    save_folder,
    without_folder,
)
from rekd_hloc.features.ranking import Ranking, load_ranking, resolve_ranking
from rekd_hloc.features.runtimes import compute_with
from rekd_hloc.features.weights import load_network, resolve_weights
from rekd_hloc.geometry import warp_points, warp_scales
from rekd_hloc.images import shrink
from rekd_hloc.types import Features, Keypoints
from rekd_hloc.weight_files import weights_hash

GPU_READERS = 4
"""Threads that read images ahead for a GPU; a CPU is kept busy by what one thread reads."""
CPU_WORKERS = 4
"""Images at once on a CPU, where its cores are so many; each takes about 1 GiB of memory."""


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
        cls,
        preset: str | Path = "rekd",
        *,
        device: str = "auto",
        config: ExtractConfig | None = None,
    ) -> Self:
        """Return an extractor with the weights that ship with the package.

        Args:
            preset: ``rekd``, ``rekd-upright``, ``rekd-fast``, ``rekd-c36`` or ``rekd-paper``, or
                a folder of :meth:`save_pretrained`.
            device: ``auto`` (CUDA, MPS or XPU where there is one), or one of them, or ``cpu``.
            config: options in place of the preset's own.

        Raises:
            ValueError: no such preset or device; or the configured runtime cannot compute it.
            FileNotFoundError: the configuration names weights that are not there.
            ImportError: the configured runtime is not installed.
        """
        config = config or read_preset(preset)
        preset = str(preset)
        torch_device = choose_device(device)
        weights = resolve_weights(config.weights)
        network = load_network(
            weights,
            tile_rows=config.detector.tile_rows,
            device=torch_device,
            runtime=config.runtime,
        )
        descriptor = load_hardnet(config.descriptor.weights)
        descriptor = compute_with(descriptor, config.runtime, torch_device)
        recorded = without_folder(config, preset)
        provenance = {
            "preset": preset,
            "config": json.dumps(config_tree(recorded), sort_keys=True),
            "config_hash": config_hash(recorded),
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

    @property
    def max_side_px(self) -> int:
        """Say to what longer side images are made smaller; 0 where none is."""
        return self.config.max_side_px

    @property
    def num_workers(self) -> int:
        """Say how many images may be extracted at once; of images of any size, one."""
        return CPU_WORKERS if self.device.type == "cpu" and self.config.max_side_px > 0 else 1

    @torch.inference_mode()
    def __call__(self, image: Image, mask: NDArray[np.generic] | Tensor | None = None) -> Features:
        """Extract from a file, or from an array.

        Args:
            image: a path; or grey (height, width) or RGB (height, width, 3), or channels first
                (1 or 3, height, width), uint8, uint16, or floats in 0..1. What is transparent in a
                file is ignored as if masked.
            mask: (height, width), zero where pixels must be ignored; no patch touches one. In the
                wider squares that some descriptors see too, their surroundings fill them.

        Returns:
            Features on the CPU, strongest first, in pixels of the original image.

        Raises:
            ImageReadError: the file is no readable image.
            ValueError: an array of another shape or type, or a mask of another size.
        """
        loaded = load_grey(image, self.max_side_px if mask is None else 0)
        grey = loaded.pixels
        assert isinstance(grey, Tensor)
        height, width = grey.shape
        usable = usable_pixels(mask, loaded.usable, grey.shape)
        small, small_from_image = shrink(grey, self.max_side_px)
        small = small.to(self.detector.exact_device)
        if usable is not None:
            usable = shrink_mask(usable, small.shape)
        descriptor = self.config.descriptor
        supports = supports_of(self.descriptor)
        patch_px = descriptor.patch_size_px * min(supports)
        keypoints = self.detector.detect(small, usable, patch_px, oriented=descriptor.oriented)
        budget, ranking = self.config.detector.max_keypoints, self.ranking
        if ranking is not None and not ranking.needs_description:
            keypoints = ranking.keep_best(keypoints, budget)
        seen = small if usable is None or len(supports) == 1 else fill_ignored(small, usable)
        described = describe_keypoints(self.descriptor, seen, keypoints, descriptor, self.device)
        if ranking is not None and ranking.needs_description:
            described = ranking.keep_best_described(described, budget)
        in_image = _to_original(described.keypoints.to("cpu"), torch.linalg.inv(small_from_image))
        return loaded.in_file(Features(in_image, described.descriptors, (width, height)))

    def extract(
        self, image: Image, mask: NDArray[np.generic] | Tensor | None = None
    ) -> dict[str, Tensor]:
        """Extract one image or a batch, in the manner of LightGlue and its kin.

        Args:
            image: what :meth:`__call__` takes, or a tensor (batch, channel, height, width).
            mask: of a single image.

        Returns:
            ``keypoints``, ``keypoint_scores``, ``descriptors``, ``scales``, ``oris`` (radians,
            clockwise), ``image_size`` and ``num_keypoints``, whose first axis is the batch; see
            :meth:`rekd_hloc.features.batches.FeatureBatch.to_dict`.

        Raises:
            ImageReadError, ValueError: as :meth:`__call__`; or a mask with a batch.
        """
        if not isinstance(image, Tensor) or image.ndim != 4:
            return pad_features([self(image, mask)]).to_dict()
        if mask is not None:
            raise ValueError("extract takes a mask with a single image; call it for each image")
        return pad_features([self(part) for part in images_of_batch(image)]).to_dict()

    def detectAndCompute(  # noqa: N802  (OpenCV's name)
        self, image: NDArray[np.generic], mask: NDArray[np.generic] | None = None
    ) -> tuple[tuple[Any, ...], NDArray[np.float32]]:
        """Extract an image of OpenCV, as its ``Feature2D`` does.

        Args:
            image: grey or BGR, as ``cv2.imread`` gives it.
            mask: zero where no patch may be.

        Returns:
            ``cv2.KeyPoint`` with angles in degrees, and one row of a descriptor for each.
        """
        features = self(to_gray_or_rgb(image), mask)
        return to_opencv(features, self.config.descriptor.patch_size_px)

    def save_pretrained(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write configuration and weights into a folder that :meth:`from_pretrained` takes.

        Raises:
            FileExistsError: the folder holds other files of these names.
            OSError: a file cannot be written.
        """
        save_folder(self.config, folder, overwrite=overwrite)


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


def _to_original(keypoints: Keypoints, image_from_small: Float[Tensor, "3 3"]) -> Keypoints:
    exact = keypoints.xy.double()
    scale = warp_scales(image_from_small, exact, keypoints.scale.double())
    xy = warp_points(image_from_small, exact)
    return Keypoints(xy.float(), scale.float(), keypoints.angle, keypoints.score)
