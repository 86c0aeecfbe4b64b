"""What must hold on a GPU: the processor's features, exact quarter turns, errors that help.

Run them with ``make gpu`` where torch sees a CUDA device; everywhere else they are skipped.
"""

import logging
import math

import cv2
import pytest
import torch

from rekd_hloc.config import DetectorConfig, NetworkConfig, get_preset, load_config
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.geometry import angle_difference
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import assert_equivariant, baked_network, textured_image

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def partners(a, b):
    """For each keypoint of a the nearest of b that has its scale: distance and index."""
    exactly = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(a.xy.double(), b.xy.double(), compute_mode=exactly)
    other_scale = (a.scale[:, None] / b.scale[None, :]).log().abs() > 1e-3
    return distance.masked_fill(other_scale, torch.inf).min(dim=1)


@pytest.mark.parametrize("preset", ["rekd-fast", "rekd", "rekd-upright", "rekd-paper"])
def test_features_are_those_of_the_processor(preset):
    image = textured_image(360, 480, seed=3)
    config = load_config(get_preset(preset), overrides=["detector.max_keypoints=600"])
    cpu, gpu = (
        Extractor.from_pretrained(preset, device=device, config=config)(image)
        for device in ("cpu", "cuda")
    )
    assert gpu.descriptors.device.type == "cpu"
    assert len(cpu) > 300
    assert abs(len(cpu) - len(gpu)) <= 0.01 * len(cpu)
    distance, index = partners(cpu.keypoints, gpu.keypoints)
    found = distance < 0.02
    assert found.float().mean() > 0.99  # others are exchanged at the end of a budget
    off = angle_difference(cpu.keypoints.angle[found], gpu.keypoints.angle[index[found]])
    # two peaks of nearly one height may change places
    assert (off.abs() < math.radians(1)).float().mean() > 0.99
    alike = (cpu.descriptors[found] * gpu.descriptors[index[found]]).sum(dim=1)
    assert (alike > 0.999).float().mean() > 0.98


@pytest.mark.parametrize("order", [8, 16, 36])
@pytest.mark.parametrize("size", [(41, 41), (44, 44), (36, 53), (300, 257)])
def test_quarter_turns_are_exact(order, size):
    network = baked_network(NetworkConfig(group_order=order, pixel_range=51.0)).cuda()
    image = torch.from_numpy(textured_image(*size, 1)).float()[None, None].cuda() / 255

    def turn(maps):
        return torch.rot90(maps, 1, (2, 3))

    def act(maps):
        return turn(maps.roll(order // 4, dims=1))

    with torch.inference_mode():
        assert_equivariant(lambda x: network(x)[0], image, turn, turn, 1e-4)
        assert_equivariant(lambda x: network(x)[1].softmax(dim=1), image, turn, act, 1e-4)


def test_keypoints_turn_with_the_image():
    detector = Detector(baked_network().cuda(), DetectorConfig(levels_up=1, levels_down=2))
    image = torch.from_numpy(textured_image(121, 150)).float() / 255
    plain, turned = detector.detect(image).to("cpu"), detector.detect(torch.rot90(image, 1))
    turned = turned.to("cpu")
    assert len(plain) == len(turned) > 100
    x, y = plain.xy.T
    expected = torch.stack([y, 150 - 1 - x], dim=1)
    exactly = "donot_use_mm_for_euclid_dist"
    distance, partner = torch.cdist(expected, turned.xy, compute_mode=exactly).min(dim=1)
    assert distance.max() < 2e-3
    off = angle_difference(turned.angle[partner], plain.angle - math.pi / 2)
    assert off.abs().max() < 0.01


def test_the_same_image_gives_the_same_features_twice():
    extractor = Extractor.from_pretrained("rekd-fast", device="cuda")
    image = textured_image(300, 400)
    first, second = extractor(image), extractor(image)
    assert torch.equal(first.keypoints.xy, second.keypoints.xy)
    assert torch.equal(first.keypoints.angle, second.keypoints.angle)
    assert torch.equal(first.descriptors, second.descriptors)


def test_bfloat16_finds_most_of_the_keypoints():
    image = textured_image(360, 480, seed=3)
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


def test_an_image_beyond_the_memory_is_skipped_and_the_others_are_kept(tmp_path, caplog):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a.png", (200, 240)), ("b.png", (3000, 4000)), ("c.png", (200, 240))):
        assert cv2.imwrite(str(photos / name), textured_image(*size))
    config = load_config(get_preset("rekd-fast"), overrides=["max_side_px=0"])
    extractor = Extractor.from_pretrained("rekd-fast", device="cuda", config=config)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    try:
        with caplog.at_level(logging.INFO):
            summary = extract_images(extractor, photos, tmp_path / "features.h5")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert summary.names == ["a.png", "c.png"]
    assert (
        "not enough memory for 4000x3000 px; set a smaller max_side_px" in summary.skipped["b.png"]
    )
    with FeatureStore(tmp_path / "features.h5") as store:
        assert store.names() == ["a.png", "c.png"]
