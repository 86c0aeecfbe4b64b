"""What several test modules share: images, keypoints, where the real data is."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rekd_hloc.types import Features, Keypoints

ROOT = Path(__file__).parent.parent


def data_dir(part: str) -> Path:
    """A folder of the real test data; the test is skipped where it is absent."""
    base = Path(os.environ.get("REKD_DATA", ROOT.parent / "shared" / "data"))
    folder = base / part
    if not folder.exists():
        pytest.skip(f"no data folder {folder}: set REKD_DATA to the folder that holds {part}")
    return folder


def textured_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs of several sizes, grey uint8: has corners and edges, and no pixel noise."""
    import cv2

    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for sigma in (1.5, 3.0, 6.0, 12.0):
        noise = rng.normal(size=(height, width)).astype(np.float32)
        layer = cv2.GaussianBlur(noise, (0, 0), sigma)
        total += layer / (layer.std() + 1e-9)
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(high - low, 1e-9) * 255, dtype=np.uint8)


def random_keypoints(count: int, size: tuple[int, int] = (640, 480), seed: int = 0) -> Keypoints:
    """Keypoints anywhere in an image of (width, height)."""
    generator = torch.Generator().manual_seed(seed)
    return Keypoints(
        xy=torch.rand(count, 2, generator=generator) * (torch.tensor(size) - 1),
        scale=2 ** (torch.rand(count, generator=generator) * 4 - 1),
        angle=torch.rand(count, generator=generator) * 2 * torch.pi,
        score=torch.rand(count, generator=generator),
    )


def random_features(count: int, size: tuple[int, int] = (640, 480), seed: int = 0) -> Features:
    """Random keypoints with random unit descriptors."""
    generator = torch.Generator().manual_seed(seed + 1)
    descriptors = torch.randn(count, 128, generator=generator)
    unit = torch.nn.functional.normalize(descriptors, dim=1)
    return Features(random_keypoints(count, size, seed), unit, size)
