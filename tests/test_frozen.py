import subprocess
import sys

import pytest
import torch

from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector.frozen import CPU_TILE_ROWS, HALO_PX, FrozenBackbone
from tests.helpers import ROOT, baked_network, detector_weights, random_network, textured_image


def image_of(height, width):
    return torch.from_numpy(textured_image(height, width)).float()[None, None] / 255


@pytest.mark.parametrize("tile_rows", [1, 5, 16, 39])
def test_strips_give_the_whole_s_values(tile_rows):
    backbone = baked_network().backbone
    image = (image_of(40, 33) - 0.5) * 8
    features, logits = backbone(image)
    backbone.tile_rows = tile_rows
    strip_features, strip_logits = backbone(image)
    assert features.std() > 0.1
    torch.testing.assert_close(strip_features, features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(strip_logits, logits, atol=1e-5, rtol=1e-5)


def test_a_processor_takes_strips_by_itself(monkeypatch):
    backbone = baked_network().backbone
    image = (image_of(2 * CPU_TILE_ROWS + 9, 20) - 0.5) * 8
    automatic = backbone(image)
    heights = []
    run = FrozenBackbone._run
    monkeypatch.setattr(
        FrozenBackbone,
        "_run",
        lambda self, strip: heights.append(strip.shape[2]) or run(self, strip),
    )
    for maps, same in zip(automatic, backbone(image), strict=True):
        torch.testing.assert_close(maps, same)
    assert heights == [CPU_TILE_ROWS + HALO_PX, CPU_TILE_ROWS + 2 * HALO_PX, 9 + HALO_PX]
    backbone.tile_rows = 0
    for maps, whole in zip(automatic, backbone(image), strict=True):
        torch.testing.assert_close(maps, whole, atol=1e-5, rtol=1e-5)
    assert heights[3:] == [image.shape[2]]


def test_the_halo_is_the_network_s_reach():
    backbone = baked_network().backbone
    image = torch.zeros(1, 1, 31, 31)
    before = backbone(image)[1]
    image[..., 15, 15] = 10
    rows = (backbone(image)[1] - before).abs().amax(dim=(0, 1, 3)).nonzero()[:, 0]
    assert rows.min() == 15 - HALO_PX
    assert rows.max() == 15 + HALO_PX


def test_the_whole_network_equals_its_steerable_form():
    config = NetworkConfig(group_order=36, pixel_range=51.0, orientation_blur_px=1.0)
    steerable, baked = random_network(config), baked_network(config)
    image = image_of(48, 40)
    with torch.no_grad():
        score, logits = steerable(image)
    baked_score, baked_logits = baked(image)
    assert (score > 0).any()
    assert (baked_score - score).abs().max() < 1e-5 * score.max()
    assert (baked_logits - logits).abs().max() < 1e-5 * logits.abs().max()


def test_the_norm_is_folded_with_one_value_for_each_field():
    backbone = FrozenBackbone(group_order=4, fields=(2, 1, 1))
    kernel = torch.ones(8, 1, 5, 5)
    norm = {
        "weight": torch.tensor([1.0, 2.0]),
        "bias": torch.tensor([0.5, 0.0]),
        "running_mean": torch.tensor([0.0, 3.0]),
        "running_var": torch.tensor([1.0, 4.0]),
    }
    backbone.set_block(0, kernel, norm)
    torch.testing.assert_close(
        backbone.blocks[0].weight[::4, 0, 0, 0], torch.ones(2), atol=1e-4, rtol=0
    )
    expected = torch.tensor([0.5] * 4 + [-3.0] * 4)
    torch.testing.assert_close(backbone.blocks[0].bias, expected, atol=1e-4, rtol=0)


def test_autocast_gives_float32_scores_close_to_the_exact_ones():
    network = baked_network()
    image = image_of(48, 48)
    exact, exact_levels = network.level_maps(image)
    with torch.autocast("cpu", torch.bfloat16):
        score, levels = network.level_maps(image)
    assert score.dtype == torch.float32
    assert levels[0].dtype == torch.float32
    assert not torch.equal(score, exact)  # the convolutions did run in bfloat16
    assert (score - exact).norm() < 0.02 * exact.norm()
    assert (levels[0] - exact_levels[0]).norm() < 0.05 * exact_levels[0].norm()


def test_logits_at_whole_pixels_are_the_sum_of_the_levels_reads():
    from rekd_hloc.features.detector.orientation import read_logits

    network = baked_network()
    image = image_of(41, 58)
    _, logits = network(image)
    _, levels = network.level_maps(image)
    xy = torch.tensor([[0.0, 0.0], [57.0, 40.0], [13.0, 22.0]])
    read = read_logits(levels, xy, (58, 41))
    expected = torch.stack([logits[0, :, int(y), int(x)] for x, y in xy])
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=1e-4)


def test_inference_imports_neither_e2cnn_nor_scipy():
    program = (
        "import sys, pathlib, torch\n"
        "from rekd_hloc.config import DetectorConfig\n"
        "from rekd_hloc.features.detector.detect import Detector\n"
        "from rekd_hloc.features.weights import load_detector\n"
        "network, _ = load_detector(pathlib.Path(sys.argv[1]))\n"
        "detector = Detector(network, DetectorConfig(levels_up=0, levels_down=0))\n"
        "image = torch.rand(50, 50, generator=torch.Generator().manual_seed(0))\n"
        "assert len(detector.detect(image)) > 0\n"
        "assert 'e2cnn' not in sys.modules and 'scipy' not in sys.modules\n"
        "print('done')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(detector_weights())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "done\n", run.stderr
