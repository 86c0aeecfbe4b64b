"""All keypoints that a detector finds in an image, described, and cached image by image."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from evaluation.extractors.extraction import DIGEST_LETTERS, digest_of, file_digest
from rekd_hloc.config import ExtractConfig, config_tree, get_preset, with_max_keypoints
from rekd_hloc.features.described import Described, describe_keypoints
from rekd_hloc.features.descriptor.hardnet import load_hardnet, resolve_hardnet
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.grey_images import grey_from_array
from rekd_hloc.features.weights import load_detector, resolve_weights
from rekd_hloc.files import atomic_write
from rekd_hloc.images import read_image, shrink
from rekd_hloc.weight_files import weights_hash

VERSION = 2
"""Part of every hash: to be raised when the same inputs are to give other candidates."""


@dataclass(frozen=True)
class CandidateConfig:
    """Which candidates an image gives."""

    preset: str = "rekd-fast"
    """Whose detector and descriptor."""
    max_candidates: int = 8000
    """Largest number of candidates of an image."""


class CandidateCache:
    """Candidates of images, extracted once.

    Args:
        folder: of the files, each under a hash of the extractor and of the image.
        config: of the extraction.
        extract: options in place of the preset's own.
    """

    def __init__(
        self, folder: Path, config: CandidateConfig, extract: ExtractConfig | None = None
    ) -> None:
        chosen = extract or get_preset(config.preset)
        self.extract = with_max_keypoints(chosen, config.max_candidates)
        weights = resolve_weights(self.extract.weights)
        self.descriptor_hash = weights_hash(resolve_hardnet(self.extract.descriptor.weights))
        self.digest = digest_of(
            {
                "extract": json.dumps(config_tree(self.extract), sort_keys=True),
                "detector": weights_hash(weights),
                "descriptor": self.descriptor_hash,
                "version": str(VERSION),
            }
        )
        self._folder = folder / self.digest
        self._weights = weights
        self._networks: tuple[Detector, torch.nn.Module] | None = None

    def read(self, image: Path) -> Described:
        """Return the candidates of an image, strongest first, with :class:`ShapedKeypoints`.

        Raises:
            ImageReadError: the file is no readable image.
        """
        path = self._folder / f"{image.stem}-{file_digest(image)[:DIGEST_LETTERS]}.npz"
        if not path.is_file():
            _save(path, self._extract(image))
        return _load(path)  # always, so that a resumed run has the same half precision

    @torch.inference_mode()
    def _extract(self, image: Path) -> Described:
        if self._networks is None:
            network = load_detector(self._weights)[0]
            detector = Detector(network, self.extract.detector, with_shapes=True)
            self._networks = detector, load_hardnet(self.extract.descriptor.weights)
        detector, descriptor = self._networks
        grey = grey_from_array(read_image(image))
        small, _ = shrink(grey, self.extract.max_side_px)
        if small.shape != grey.shape:
            raise ValueError(
                f"{image} has {grey.shape[1]} x {grey.shape[0]} pixels; make it smaller than "
                f"{self.extract.max_side_px} first"
            )
        keypoints = detector.detect(grey)
        return describe_keypoints(
            descriptor, grey, keypoints, self.extract.descriptor, torch.device("cpu")
        )


def _save(path: Path, candidates: Described) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        item.name: getattr(candidates.keypoints, item.name).numpy()
        for item in fields(candidates.keypoints)
    }
    arrays["descriptors"] = candidates.descriptors.half().numpy()
    arrays["length"] = candidates.length.numpy()
    with atomic_write(path) as scratch, scratch.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path) -> Described:
    with np.load(path) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    descriptors = torch.nn.functional.normalize(arrays.pop("descriptors").float(), dim=1)
    length = arrays.pop("length")
    return Described(ShapedKeypoints(**arrays), descriptors, length)
