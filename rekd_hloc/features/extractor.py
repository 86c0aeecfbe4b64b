"""From an image to features: reads, shrinks, detects, describes, and maps back. Nothing else."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rekd_hloc.config import ExtractConfig, config_hash, config_tree
from rekd_hloc.devices import choose_device
from rekd_hloc.features.batches import images_of_batch, pad_features
from rekd_hloc.features.descriptor.hardnet import load_hardnet, resolve_hardnet
from rekd_hloc.features.detector.detect import Detector, make_detector
from rekd_hloc.features.grey_images import Image, make_small
from rekd_hloc.features.image_extraction import ImageExtraction
from rekd_hloc.features.opencv_points import to_gray_or_rgb, to_opencv
from rekd_hloc.features.pretrained_folder import (
    read_preset,
    save_folder,
    without_folder,
)
from rekd_hloc.features.ranking import Ranking, load_ranking, resolve_ranking
from rekd_hloc.features.runtimes import compute_with
from rekd_hloc.features.weights import load_network, resolve_weights
from rekd_hloc.types import Features
from rekd_hloc.weight_files import weights_hash

GPU_READERS = 4
"""Threads that read images ahead for a GPU; a CPU is kept busy by what one thread reads."""
GPU_IMAGES = 8
"""Images of one size at once on a GPU: what starts once for all is little for each."""
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
        self._extraction = ImageExtraction(detector, descriptor, config, ranking)

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
            preset: ``rekd``, ``rekd-upright``, ``rekd-fast``, ``rekd-lite``, ``rekd-c36`` or
                ``rekd-paper``, or a folder of :meth:`save_pretrained`.
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
    def batch_size(self) -> int:
        """Say how many images of one size are best extracted together; 1 where nothing is won."""
        return GPU_IMAGES if self._extraction.takes_batches else 1

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
        return self._extraction([make_small(image, mask, self.max_side_px)])[0]

    @torch.inference_mode()
    def extract_all(self, images: Sequence[Image]) -> list[Features]:
        """Extract images as :meth:`__call__` does; a GPU takes those of one size together.

        Args:
            images: ``batch_size`` at a time are in memory.

        Raises:
            ImageReadError, ValueError: as :meth:`__call__`.
        """
        found = []
        for first in range(0, len(images), self.batch_size):
            part = images[first : first + self.batch_size]
            found += self._extraction([make_small(i, None, self.max_side_px) for i in part])
        return found

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
        return pad_features(self.extract_all(list(images_of_batch(image)))).to_dict()

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
