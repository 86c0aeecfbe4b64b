"""What is computed in tiles is what is computed at once: maps, levels, keypoints, features."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rekd_hloc.config import (
    PAPER_DETECTOR,
    PRESETS,
    DetectorConfig,
    NetworkConfig,
    load_config,
)
from rekd_hloc.features.detector import paper_tiles, tiles
from rekd_hloc.features.detector.detect import make_detector
from rekd_hloc.features.detector.paper import iterate_paper_levels, paper_levels
from rekd_hloc.features.detector.pyramid import iterate_levels
from rekd_hloc.features.detector.resample import aligned_source, resize_region
from rekd_hloc.features.detector.tiles import Region, StoredPixels, iterate_tiles
from rekd_hloc.features.extractor import Extractor
from tests.helpers import (
    ROOT,
    SMALL_NETWORK,
    baked_network,
    fall_into_tiles,
    textured_image,
    textured_tensor,
)


@pytest.fixture
def small_tiles(monkeypatch):
    """Levels of more than a tile of 37 px fall into such tiles; returns those that were run."""
    monkeypatch.setattr(paper_tiles, "STRIP_ROWS", 11)
    return fall_into_tiles(monkeypatch)


def agree(tiled, whole):
    """The same keypoints in the same order, to rounding."""
    assert len(tiled) == len(whole)
    torch.testing.assert_close(tiled.xy, whole.xy, atol=1e-4, rtol=0)
    torch.testing.assert_close(tiled.score, whole.score, atol=1e-5, rtol=1e-5)
    assert torch.equal(tiled.scale, whole.scale)
    off = torch.remainder(tiled.angle - whole.angle + torch.pi, 2 * torch.pi) - torch.pi
    assert off.abs().max() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (74, 37), (75, 38)])
def test_tiles_cover_a_map_once(size):
    counts = torch.zeros(size)
    for tile in iterate_tiles(size, 37):
        counts[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert torch.equal(counts, torch.ones(size))


@pytest.mark.parametrize(
    ("source", "size"), [((40, 61), (33, 50)), ((33, 50), (40, 61)), ((1, 7), (5, 7))]
)
def test_a_part_is_resized_as_the_whole(source, size):
    maps = torch.rand(1, 3, *source, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(maps, size, mode="bilinear", align_corners=True)
    for tile in iterate_tiles(size, 13):
        needed = aligned_source(tile, size, source)
        part = needed.cut(maps, Region.whole(source))
        torch.testing.assert_close(
            resize_region(part, needed, source, tile, size),
            tile.cut(whole, Region.whole(size)),
            atol=1e-6,
            rtol=0,
        )


@pytest.mark.parametrize(
    "config",
    [
        SMALL_NETWORK,
        replace(SMALL_NETWORK, orientation_blur_px=2.0, inner_levels=2, blur_gain=0.0),
        NetworkConfig(group_order=4, norm_window_px=151, inner_factor=1.5),
    ],
    ids=["small", "pooled", "wide window"],
)
@pytest.mark.parametrize(
    "region", [Region(0, 30, 0, 40), Region(25, 61, 50, 83), Region(20, 21, 9, 10)]
)
def test_maps_of_a_part_are_those_of_the_whole(config, region):
    network = baked_network(config)
    image = textured_tensor(61, 83)[None, None]
    with torch.inference_mode():
        score, logits = network.level_maps(image)
        part = network.region_maps(StoredPixels(image), region)
    whole = Region.whole((61, 83))
    torch.testing.assert_close(part.score, region.cut(score, whole), atol=1e-5, rtol=1e-5)
    for level, partial in zip(logits, part.logits, strict=True):
        assert tuple(level.shape[2:]) == partial.size
        expected = partial.region.cut(level, Region.whole(partial.size))
        torch.testing.assert_close(partial.values, expected, atol=1e-4, rtol=1e-5)


def test_enlarged_levels_are_read_in_parts(monkeypatch):
    image = textured_tensor(41, 55)[None, None]
    whole = {level.number: level.image for level in iterate_levels(image, DetectorConfig())}
    monkeypatch.setattr(tiles, "WHOLE_PIXELS", 100)
    monkeypatch.setattr(tiles, "TILE_PX", 10)
    for level in iterate_levels(image, DetectorConfig()):
        size = level.pixels.size
        for tile in iterate_tiles(size, 19):
            expected = tile.cut(whole[level.number], Region.whole(size))
            torch.testing.assert_close(level.pixels.read(tile), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(41, 55), (3, 60), (1, 1)])
def test_levels_of_the_paper_s_protocol_are_made_in_parts(size, monkeypatch):
    grey = textured_tensor(*size)[None, None] * 0.9
    config = PAPER_DETECTOR
    rounded = (grey.double() * 255).round()
    whole = dict(iterate_paper_levels(rounded / rounded.max().clamp(min=1), config))
    monkeypatch.setattr(tiles, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(paper_tiles, "STRIP_ROWS", 7)
    for level in paper_levels(grey, config):
        expected = whole[level.number]
        assert level.pixels.size == tuple(expected.shape[2:])
        for tile in iterate_tiles(level.pixels.size, 19):
            part = tile.cut(expected, Region.whole(level.pixels.size))
            torch.testing.assert_close(level.pixels.read(tile), part, atol=1e-6, rtol=0)


def both_ways(detector, image, usable=None, *, oriented=True):
    """Keypoints from tiles, and from the whole."""
    tiled = detector.detect(image, usable, 12.0, oriented=oriented)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "WHOLE_PIXELS", 10**9)
        return tiled, detector.detect(image, usable, 12.0, oriented=oriented)


DETECTORS = {
    name: replace(config, border_px=3, levels_up=1, levels_down=1)
    for name, config in (("default", DetectorConfig()), ("paper", PAPER_DETECTOR))
}


@pytest.mark.parametrize("protocol", DETECTORS)
@pytest.mark.parametrize("budget", [30, pytest.param(5000, marks=pytest.mark.slow)])
def test_keypoints_are_those_of_the_whole(protocol, budget, small_tiles):
    config = replace(DETECTORS[protocol], max_keypoints=budget)
    tiled, whole = both_ways(make_detector(baked_network(), config), textured_tensor(61, 90))
    assert len(small_tiles) > 10
    assert len(whole) >= 30
    agree(tiled, whole)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", DETECTORS)
@pytest.mark.parametrize("oriented", [True, False])
def test_masks_and_their_patches_cross_tiles(protocol, oriented, small_tiles):
    image, usable = textured_tensor(61, 90), torch.ones(61, 90, dtype=torch.bool)
    usable[30:41, 32:45] = False
    config = replace(DETECTORS[protocol], max_keypoints=40)
    detector = make_detector(baked_network(), config)
    tiled, whole = both_ways(detector, image, usable, oriented=oriented)
    assert len(whole) > 15
    agree(tiled, whole)
    x, y = whole.xy.round().long().T
    assert usable[y, x].all()


SLOW_PRESETS = [
    pytest.param(name, marks=pytest.mark.slow) for name in PRESETS if name != "rekd-fast"
]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["rekd-fast", *SLOW_PRESETS])
def test_features_of_every_preset_are_those_of_the_whole(preset, small_tiles):
    image = textured_image(64, 80, seed=2)
    exact = ["detector.autocast=false", "descriptor.autocast=false"]
    config = load_config(PRESETS[preset], overrides=exact)
    extractor = Extractor.from_pretrained(preset, device="cpu", config=config)
    tiled = extractor(image)
    assert len(small_tiles) >= 10
    tiles.WHOLE_PIXELS = 10**9  # the fixture restores it
    whole = extractor(image)
    agree(tiled.keypoints, whole.keypoints)
    torch.testing.assert_close(tiled.descriptors, whole.descriptors, atol=1e-3, rtol=0)


def test_a_network_of_another_runtime_runs_on_the_whole(small_tiles):
    class Whole:
        device = torch.device("cpu")

        def level_maps(self, image):
            return baked_network().level_maps(image)

    config = DetectorConfig(levels_up=0, levels_down=1)
    image = textured_tensor(70, 90)
    other = make_detector(Whole(), config).detect(image)
    assert small_tiles == []
    agree(make_detector(baked_network(), config).detect(image), other)


MEMORY_OF_A_LARGE_IMAGE = """
import resource, sys
import cv2, numpy as np
from rekd_hloc import Extractor
from rekd_hloc.config import get_preset, load_config
from rekd_hloc.features.detector import tiles
preset, path, every = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = load_config(get_preset(preset), overrides=["max_side_px=0"])
iterate = tiles.iterate_tiles
tiles.iterate_tiles = lambda size: [*iterate(size)][::every]
features = Extractor.from_pretrained(preset, device="cpu", config=config)(path)
assert len(features) > 1000 and features.image_size == (11600, 8700)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""Runs one tile in so many: the peak is that of all tiles, the time is not."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
@pytest.mark.parametrize("preset", ["rekd-fast", "rekd", "rekd-paper"])
def test_a_hundred_megapixels_fit_into_four_gib(preset, tmp_path):
    import cv2
    import numpy as np

    coarse = np.random.default_rng(0).integers(0, 255, (435, 580, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    assert cv2.imwrite(str(path), cv2.resize(coarse, (11600, 8700), interpolation=cv2.INTER_CUBIC))
    command = [sys.executable, "-c", MEMORY_OF_A_LARGE_IMAGE, preset, str(path), "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) / 2**20 < 4
