"""What must hold on a GPU: the CPU's features, exact quarter rotations, errors that help.

Each runs on a GPU (``make gpu``, where torch sees one) and on a pretended one, whose tensors say
they are on ``cuda`` while the CPU does the work: a failure for another cause than the device, or of
tensors on two devices, shows without a GPU.
"""

import contextlib
import logging
import math
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from evaluation.speed.pretended_gpu import is_there, pretended_gpu
from rekd_hloc.config import DetectorConfig, NetworkConfig, get_preset, load_config
from rekd_hloc.features.detector.batch_detector import BatchDetector
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.geometry import angle_difference
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import assert_equivariant, baked_network, textured_image

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
SLOW_PRESETS = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("rekd", "rekd-upright", "rekd-paper")
]
SLOW_ORDERS = [pytest.param(order, marks=pytest.mark.slow) for order in (16, 36)]
REAL = pytest.param("real", marks=[pytest.mark.gpu, NO_GPU])


@pytest.fixture(params=[REAL, "pretended"])
def gpu(request):
    """``real`` or ``pretended``; the device is ``cuda`` for both."""
    with pretended_gpu() if request.param == "pretended" else contextlib.nullcontext():
        yield request.param


def partners(a, b):
    """For each keypoint of a the nearest of b that has its scale: distance and index."""
    exactly = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(a.xy.double(), b.xy.double(), compute_mode=exactly)
    other_scale = (a.scale[:, None] / b.scale[None, :]).log().abs() > 1e-3
    return distance.masked_fill(other_scale, torch.inf).min(dim=1)


@pytest.mark.parametrize("preset", ["rekd-fast", *SLOW_PRESETS])
def test_features_are_those_of_the_cpu(preset, gpu):
    size, least = ((360, 480), 300) if gpu == "real" else ((96, 120), 40)
    image = textured_image(*size, seed=3)
    config = load_config(get_preset(preset), overrides=["detector.max_keypoints=600"])
    cpu_only, on_gpu = (
        Extractor.from_pretrained(preset, device=device, config=config)
        for device in ("cpu", "cuda")
    )
    cpu, other = cpu_only(image), on_gpu(image)
    assert (cpu_only.device.type, on_gpu.device.type) == ("cpu", "cuda")
    assert other.descriptors.device.type == "cpu"
    assert len(cpu) > least
    assert abs(len(cpu) - len(other)) <= 0.01 * len(cpu)
    distance, index = partners(cpu.keypoints, other.keypoints)
    found = distance < 0.02
    assert found.float().mean() > 0.99  # others are exchanged at the end of a budget
    off = angle_difference(cpu.keypoints.angle[found], other.keypoints.angle[index[found]])
    # two peaks of nearly one height may change places
    assert (off.abs() < math.radians(1)).float().mean() > 0.99
    alike = (cpu.descriptors[found] * other.descriptors[index[found]]).sum(dim=1)
    assert (alike > 0.999).float().mean() > 0.98


@pytest.mark.parametrize("order", [8, *SLOW_ORDERS])
@pytest.mark.parametrize("size", [(41, 41), (44, 44), (36, 53), (300, 257)])
def test_quarter_rotations_are_exact(order, size, gpu):
    if gpu == "pretended" and size[0] * size[1] > 10_000:
        pytest.skip("a large image is for a real GPU")
    network = baked_network(NetworkConfig(group_order=order, pixel_range=51.0)).cuda()
    image = torch.from_numpy(textured_image(*size, 1)).float()[None, None].cuda() / 255

    def rotate(maps):
        return torch.rot90(maps, 1, (2, 3))

    def act(maps):
        return rotate(maps.roll(order // 4, dims=1))

    with torch.inference_mode():
        assert_equivariant(lambda x: network(x)[0], image, rotate, rotate, 1e-4)
        assert_equivariant(lambda x: network(x)[1].softmax(dim=1), image, rotate, act, 1e-4)


def test_keypoints_rotate_with_the_image(gpu):
    detector = Detector(baked_network().cuda(), DetectorConfig(levels_up=1, levels_down=2))
    image = torch.from_numpy(textured_image(121, 150)).float() / 255
    assert detector.device.type == "cuda"
    plain, rotated = (
        detector.detect(pixels).to("cpu") for pixels in (image, torch.rot90(image, 1))
    )
    assert len(plain) == len(rotated) > 100
    x, y = plain.xy.T
    expected = torch.stack([y, 150 - 1 - x], dim=1)
    exactly = "donot_use_mm_for_euclid_dist"
    distance, partner = torch.cdist(expected, rotated.xy, compute_mode=exactly).min(dim=1)
    assert distance.max() < 2e-3
    off = angle_difference(rotated.angle[partner], plain.angle - math.pi / 2)
    assert off.abs().max() < 0.01


@pytest.mark.slow
def test_the_same_image_gives_the_same_features_twice(gpu):
    extractor = Extractor.from_pretrained("rekd-fast", device="cuda")
    image = textured_image(*((300, 400) if gpu == "real" else (96, 120)))
    first, second = extractor(image), extractor(image)
    assert torch.equal(first.keypoints.xy, second.keypoints.xy)
    assert torch.equal(first.keypoints.angle, second.keypoints.angle)
    assert torch.equal(first.descriptors, second.descriptors)


@pytest.mark.slow
def test_bfloat16_finds_most_of_the_keypoints(gpu):
    image = textured_image(*((360, 480) if gpu == "real" else (120, 160)), seed=3)
    exact, rounded = (
        Extractor.from_pretrained(
            "rekd-fast",
            device="cuda",
            config=load_config(get_preset("rekd-fast"), overrides=[f"detector.autocast={value}"]),
        )(image)
        for value in ("false", "true")
    )
    distance, _ = partners(exact.keypoints, rounded.keypoints)
    assert (distance < 1).float().mean() > 0.9
    assert (distance < 0.5).float().mean() > 0.8


def test_an_image_beyond_the_memory_is_skipped_and_the_others_are_kept(tmp_path, caplog, gpu):
    folder = tmp_path / "images"
    folder.mkdir()
    height, width = (3000, 4000) if gpu == "real" else (900, 1200)
    for name, size in (("a.png", (48, 60)), ("b.png", (height, width)), ("c.png", (48, 60))):
        assert cv2.imwrite(str(folder / name), textured_image(*size))
    config = load_config(get_preset("rekd-fast"), overrides=["max_side_px=0"])
    extractor = Extractor.from_pretrained("rekd-fast", device="cuda", config=config)
    with small_memory(extractor, gpu), caplog.at_level(logging.INFO):
        summary = extract_images(extractor, folder, tmp_path / "features.h5")
    assert summary.names == ["a.png", "c.png"]
    assert (
        f"not enough memory for {width}x{height} px; set a smaller max_side_px"
        in summary.skipped["b.png"]
    )
    with FeatureStore(tmp_path / "features.h5") as store:
        assert store.names() == ["a.png", "c.png"]


@contextlib.contextmanager
def small_memory(extractor, gpu):
    """One GiB beyond what is in use; the pretended GPU has it for small images."""
    if gpu == "real":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
        return
    detect = BatchDetector.detect

    def detect_small(batches, images):
        if images.numel() > 1_000_000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return detect(batches, images)

    with mock.patch.object(BatchDetector, "detect", detect_small):
        yield


def test_a_batch_gives_the_features_of_each_image(gpu):
    size = (240, 320) if gpu == "real" else (64, 80)
    extractor = small_extractor("cuda")
    pictures = [textured_image(*size, seed=seed) for seed in range(3)]
    pictures.insert(1, np.full(size, 90, np.uint8))
    alone = [extractor(picture) for picture in pictures]
    for _ in range(3):  # as it is, captured, and replayed
        for got, expected in zip(extractor.extract_all(pictures), alone, strict=True):
            assert abs(len(got) - len(expected)) <= 0.01 * len(expected)
            if len(expected):
                distance, index = partners(expected.keypoints, got.keypoints)
                found = distance < 0.02
                assert found.float().mean() > 0.99
                alike = (expected.descriptors[found] * got.descriptors[index[found]]).sum(dim=1)
                assert (alike > 0.999).float().mean() > 0.98


@pytest.mark.gpu
@NO_GPU
def test_levels_are_captured_as_graphs_that_give_what_the_steps_give():
    extractor = small_extractor("cuda")
    batches = extractor._extraction._batches
    images = torch.rand(2, 1, 120, 160, device="cuda")
    step = batches._find_in_level
    with torch.inference_mode():
        expected = batches._find_packed(images)
        for number in range(4):
            other = torch.rand_like(images)
            assert torch.allclose(step(images), expected, atol=1e-4)
            assert not torch.allclose(step(other), expected, atol=1e-4)
            assert len(step._graphs) == min(number + 1, 1)
        for side in range(60, 160, 5):  # other shapes and dropped constants leave it as it is
            for _ in range(2):
                step(torch.rand(1, 1, side, side + 3, device="cuda"))
        assert torch.allclose(step(images), expected, atol=1e-4)


@pytest.mark.gpu
@NO_GPU
def test_a_gpu_starts_fewer_than_200_kernels_an_image():
    extractor = small_extractor("cuda")
    pictures = [textured_image(240, 320, seed=seed) for seed in range(8)]
    for _ in range(3):
        extractor.extract_all(pictures)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        extractor.extract_all(pictures)
    starts = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync")
    count = sum(event.count for event in profile.key_averages() if event.key.startswith(starts))
    assert 10 < count / 8 < 200


def test_float16_descriptors_are_close(gpu):
    picture = textured_image(*((240, 320) if gpu == "real" else (64, 80)))
    exact, half = (
        small_extractor("cuda", f"descriptor.autocast={value}")(picture)
        for value in ("false", "true")
    )
    assert torch.equal(exact.keypoints.xy, half.keypoints.xy)
    assert (1 - (exact.descriptors * half.descriptors).sum(dim=1)).max() < 1e-3


def small_extractor(device, *overrides):
    overrides = ["detector.max_keypoints=300", "detector.levels_up=0", *overrides]
    config = load_config(get_preset("rekd-fast"), overrides=overrides)
    return Extractor.from_pretrained("rekd-fast", device=device, config=config)


def test_a_pretended_gpu_is_told_from_the_cpu():
    with pretended_gpu():
        there = torch.ones(2, device="cuda")
        here = torch.ones(2)
        assert (there.device.type, here.device.type) == ("cuda", "cpu")
        assert (there + 1).is_cuda
        assert is_there(there[:1].sum())
        assert not is_there(there.cpu())
        assert torch.nn.Linear(2, 2).to("cuda").weight.device.type == "cuda"
        for mixed in (lambda: there + here, lambda: torch.cat([there, here])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="can't convert cuda"):
            there.numpy()
