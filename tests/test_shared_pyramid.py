"""Levels of one pyramid: each size is computed once, and gives what each level alone would."""

from dataclasses import replace

import pytest
import torch

from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig
from rekd_hloc.features import onnx_graphs
from rekd_hloc.features.detector.detect import Detector, make_detector
from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.orientation import read_logits
from rekd_hloc.features.detector.pyramid import iterate_levels
from rekd_hloc.features.detector.resample import size_at
from rekd_hloc.features.detector.shared_pyramid import LevelMaps, pyramid_network
from rekd_hloc.features.detector.tiles import (
    PyramidPixels,
    Region,
    StoredPixels,
)
from rekd_hloc.features.weights import detector_config, load_detector, load_network, save_detector
from rekd_hloc.weight_files import read_weights
from tests.helpers import (
    SMALL_NETWORK,
    assert_equivariant,
    baked_network,
    descriptor_weights,
    detector_weights,
    fall_into_tiles,
    random_network,
    textured_tensor,
    without_shape_checks,
)

SHARED = replace(
    SMALL_NETWORK, shared_pyramid=True, inner_factor=2.0**0.25, orientation_blur_px=1.0
)
CONFIG = DetectorConfig(max_keypoints=200, levels_up=1, levels_down=2, border_px=4)


def close(got, expected):
    for one, other in zip([got[0], *got[1]], [expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


class Counted(Rekd):
    """Knows the sizes that its backbone ran on."""

    @classmethod
    def of(cls, network):
        network.__class__ = cls
        network.sizes = []
        return network

    def inner_maps(self, image, level=0):
        self.sizes.append(tuple(image.shape[2:]))
        return super().inner_maps(image, level)


@torch.no_grad()
def test_each_size_is_computed_once_and_every_level_has_the_maps_of_its_own():
    network = Counted.of(baked_network(SHARED))
    image = textured_tensor(66, 123)[None, None]  # 61.5 is rounded one way alone
    level_maps = LevelMaps(network, CONFIG)
    expected_sizes = [
        size_at((66, 123), CONFIG.factor ** (quarter / 2)) for quarter in range(-2, 7)
    ]
    for level in iterate_levels(image, CONFIG, level_maps.inner_scales):
        assert isinstance(level.pixels, PyramidPixels)
        inner = (baked_network(SHARED).inner_maps(part.image) for part in level.pixels.images)
        close(level_maps.compute(level.pixels), network.join_maps(inner, level.pixels.size))
    assert network.sizes == expected_sizes


@torch.no_grad()
def test_the_image_s_own_level_is_what_training_sees():
    """One level of a crop, which the steerable form computes, is level 0 of the crop's pyramid."""
    image = textured_tensor(61, 84)[None, None]
    config = replace(CONFIG, levels_up=0)
    level_maps = LevelMaps(baked_network(SHARED), config)
    first = next(iterate_levels(image, config, level_maps.inner_scales))
    maps = level_maps.compute(first.pixels)
    close(maps, random_network(SHARED).level_maps(image))
    close(maps, baked_network(SHARED).level_maps(image))
    assert maps[0].std() > 0.01


@torch.no_grad()
def test_maps_are_kept_for_the_next_level_alone():
    network = baked_network(SHARED)
    level_maps = LevelMaps(network, CONFIG)
    for level in iterate_levels(
        textured_tensor(90, 121)[None, None], CONFIG, level_maps.inner_scales
    ):
        level_maps.compute(level.pixels)
        assert list(level_maps._kept) == [level.pixels.images[2].size]


@torch.no_grad()
def test_another_factor_shares_nothing_and_changes_nothing():
    network = Counted.of(baked_network(SHARED))
    config = replace(CONFIG, factor=1.3)
    image = textured_tensor(90, 121)
    keypoints = Detector(network, config).detect(image)
    assert len(network.sizes) == 3 * 4
    assert len(keypoints) > 20


@pytest.mark.parametrize(
    "region", [Region(0, 30, 0, 40), Region(25, 61, 50, 83), Region(20, 21, 9, 10)]
)
@pytest.mark.parametrize("with_levels", [True, False])
@torch.no_grad()
def test_maps_of_a_part_are_those_of_the_whole(region, with_levels):
    network = baked_network(SHARED)
    image = textured_tensor(61, 83)[None, None]
    pixels = StoredPixels(image)
    if with_levels:
        config = replace(CONFIG, levels_up=0)
        pixels = next(iterate_levels(image, config, network.inner_scales)).pixels
    part = network.region_maps(pixels, region)
    score, logits = network.level_maps(image)
    whole = Region.whole((61, 83))
    torch.testing.assert_close(part.score, region.cut(score, whole), atol=1e-5, rtol=1e-5)
    for level, partial in zip(logits, part.logits, strict=True):
        assert tuple(level.shape[2:]) == partial.size
        expected = partial.region.cut(level, Region.whole(partial.size))
        torch.testing.assert_close(partial.values, expected, atol=1e-4, rtol=1e-5)
    draw = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    low = torch.tensor([region.left, region.top])
    high = torch.tensor([region.right, region.bottom]) - 1
    xy = low + draw * (high - low)
    got, expected = part.read_logits(xy), read_logits(logits, xy, (83, 61), align_corners=False)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_logits_are_read_as_the_network_resizes_them():
    network = baked_network(SHARED)
    image = textured_tensor(40, 57)[None, None]
    _, everywhere = network(image)
    _, logits = network.level_maps(image)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(57.0), indexing="ij")
    xy = torch.stack([x, y], dim=-1).reshape(-1, 2)
    read = read_logits(logits, xy, (57, 40), align_corners=False)
    torch.testing.assert_close(read.T.view(-1, 40, 57), everywhere[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_keypoints_from_tiles_are_those_of_the_whole(monkeypatch):
    detector = Detector(baked_network(SHARED), CONFIG)
    image = textured_tensor(90, 121)
    whole = detector.detect(image)
    ran = fall_into_tiles(monkeypatch)
    tiled = detector.detect(image)
    assert len(ran) > 20
    assert len(whole) == len(tiled) > 50
    torch.testing.assert_close(tiled.xy, whole.xy, atol=1e-4, rtol=0)
    torch.testing.assert_close(tiled.score, whole.score, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_maps_turn_with_the_image():
    network = baked_network(SHARED)

    def rotate(maps):
        return maps.rot90(1, (2, 3))

    image = textured_tensor(48, 60)[None, None]
    assert_equivariant(lambda x: network(x)[0], image, rotate, rotate, 1e-4)


def test_the_file_says_so_and_other_files_stay_as_they_were(tmp_path):
    assert detector_config(detector_weights(SHARED)) == SHARED
    path = tmp_path / "plain.safetensors"
    save_detector(path, random_network(SMALL_NETWORK), SMALL_NETWORK, {})
    assert "shared_pyramid" not in read_weights(path)[1]["network"]
    assert pyramid_network(load_detector(path)[0]) is None
    assert pyramid_network(load_detector(detector_weights(SHARED))[0]) is not None


def test_the_protocol_of_the_paper_is_refused():
    with pytest.raises(ValueError, match="protocol must be default with weights of a shared"):
        make_detector(baked_network(SHARED), replace(CONFIG, protocol="paper"))


@torch.no_grad()
def test_another_runtime_computes_each_size_once_too():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    network = load_network(detector_weights(SHARED), runtime="onnx")
    image = textured_tensor(45, 61)[None, None]
    level_maps, expected = LevelMaps(network, CONFIG), LevelMaps(baked_network(SHARED), CONFIG)
    levels = list(iterate_levels(image, CONFIG, level_maps.inner_scales))
    assert len(levels) == 4
    for level in levels:
        close(level_maps.compute(level.pixels), expected.compute(level.pixels))


@pytest.mark.slow
def test_the_exported_graph_has_the_maps_of_one_level():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    weights = detector_weights(replace(SHARED, group_order=4, norm_window_px=9))
    descriptor = DescriptorConfig(weights=str(descriptor_weights()))
    graph = onnx_graphs._graphs_of(ExtractConfig(weights=str(weights), descriptor=descriptor))[0]
    with without_shape_checks():
        data = onnx_graphs.encode_graph(graph)
        assert onnx_graphs.compare_with_torch(graph, data) < 1e-5
