"""What several test modules share: images, keypoints, where the real data is."""

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector import tiles
from rekd_hloc.features.detector.network import Rekd, build_network
from rekd_hloc.features.detector.tiles import Region
from rekd_hloc.features.weights import load_detector, save_detector
from rekd_hloc.geometry import warp_angles, warp_points, warp_scales
from rekd_hloc.types import Features, Keypoints

ROOT = Path(__file__).parent.parent
SMALL_NETWORK = NetworkConfig(group_order=8, pixel_range=51.0)
"""Cheap to run, and bins other than quarter turns."""


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


def textured_tensor(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """The same as grey values in 0..1."""
    return torch.from_numpy(textured_image(height, width, seed)).float() / 255


def fall_into_tiles(monkeypatch) -> list[Region]:
    """Compute levels of more than 37 px in tiles of that side; returns those that are run."""
    ran, iterate_tiles = [], tiles.iterate_tiles

    def iterate(size):
        for tile in iterate_tiles(size):
            ran.append(tile)
            yield tile

    monkeypatch.setattr(tiles, "WHOLE_PIXELS", 2000)
    monkeypatch.setattr(tiles, "TILE_PX", 37)
    monkeypatch.setattr(tiles, "iterate_tiles", iterate)
    return ran


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


def moved_keypoints(keypoints: Keypoints, transform: torch.Tensor) -> Keypoints:
    """The keypoints of an image after a similarity transform (3x3) of its plane."""
    return replace(
        keypoints,
        xy=warp_points(transform, keypoints.xy),
        scale=warp_scales(transform, keypoints.xy, keypoints.scale),
        angle=warp_angles(transform, keypoints.xy, keypoints.angle),
    )


def assert_equivariant(fn, image, act_in, act_out, atol: float) -> None:
    """``fn(act_in(image))`` equals ``act_out(fn(image))``, and both say something.

    A constant output, or one that ``act_out`` leaves as it is, would pass whatever ``fn`` does.
    """
    plain = fn(image)
    expected, got = act_out(plain), fn(act_in(image))
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    spread = float(expected.max() - expected.min())
    assert spread > 100 * atol, f"the output varies by {spread:.1e} only: nothing is tested"
    if plain.shape == expected.shape:
        moved = float((plain - expected).abs().max())
        assert moved > 100 * atol, f"acting changes the output by {moved:.1e}: nothing is tested"
    worst = float((got - expected).abs().max())
    assert worst <= atol, f"not equivariant: off by {worst:.1e}, allowed are {atol:.1e}"


def random_network(config: NetworkConfig, seed: int = 0) -> Rekd:
    """A steerable network in eval mode whose maps are alive; the same for the same arguments.

    Batch statistics are those of one textured image, so that no channel is dead or saturated.
    """
    from rekd_hloc.features.detector.steerable import SteerableBackbone

    generator = torch.Generator().manual_seed(seed)
    backbone = SteerableBackbone(
        group_order=config.group_order, fields=config.fields, initialise=False
    )
    network = build_network(config, backbone)
    image = torch.from_numpy(textured_image(96, 96, seed)).float()[None, None] / 255
    with torch.no_grad():
        for convolution in [*backbone.convolutions, backbone.orientation]:
            convolution.weights.normal_(generator=generator)
        network.score_head.weight.uniform_(0.2, 1.0, generator=generator)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.3, 0.3, generator=generator)
        _, logits = network.train()(image)
        backbone.orientation.weights.mul_(3 / logits.std())
    return network.eval()


@functools.cache
def detector_weights(config: NetworkConfig = SMALL_NETWORK, seed: int = 0) -> Path:
    """A weights file of :func:`random_network`, made once in a test run."""
    folder = Path(tempfile.mkdtemp(prefix="rekd_hloc_test_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "detector.safetensors"
    save_detector(path, random_network(config, seed), config, {"source": "random"})
    return path


def baked_network(config: NetworkConfig = SMALL_NETWORK, seed: int = 0) -> Rekd:
    """The baked form of :func:`random_network`; a new object at every call."""
    return load_detector(detector_weights(config, seed))[0]


@functools.cache
def descriptor_weights() -> Path:
    """A file of kornia's HardNet with random weights."""
    import kornia.feature

    from rekd_hloc.features.descriptor.hardnet import save_descriptor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kornia.feature.HardNet(pretrained=False)
    folder = Path(tempfile.mkdtemp(prefix="rekd_hloc_test_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "hardnet.safetensors"
    save_descriptor(path, network, {"source": "random"})
    return path


@contextlib.contextmanager
def without_shape_checks():
    """Users have no run-time type checker: what a mistake of theirs meets is the code itself."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def board_events(folder):
    """What a training run wrote for TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found
