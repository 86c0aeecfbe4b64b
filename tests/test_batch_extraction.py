"""Several images of one size together: the features are those of each image alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.speed.launches import LaunchCounter
from evaluation.speed.pretended_gpu import pretended_gpu
from rekd_hloc.config import DetectorConfig, get_preset, load_config
from rekd_hloc.features import captured_graphs
from rekd_hloc.features.descriptor.batch_patches import cut_batch_patches
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.detector.batch_detector import BatchDetector, select_in_images
from rekd_hloc.features.detector.level_peaks import best_pixels
from rekd_hloc.features.detector.pyramid import select_within_budgets
from rekd_hloc.features.detector.surroundings import (
    measure_batch_surroundings,
    measure_surroundings,
)
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.grey_images import make_small
from rekd_hloc.geometry import angle_difference
from rekd_hloc.types import Keypoints
from tests.helpers import textured_image

SIZE = (72, 96)
NUM_LEVELS = 4


def images():
    """Two textures, one grey only, and one with a single spot."""
    flat, spot = (torch.full(SIZE, 0.4) for _ in range(2))
    spot[30:34, 50:54] = 0.9
    textures = [torch.from_numpy(textured_image(*SIZE, seed=s)).float() / 255 for s in (1, 2)]
    return [textures[0], flat, textures[1], spot]


def extractor(*overrides, device="cpu"):
    config = load_config(get_preset("rekd-fast"), overrides=list(overrides))
    return Extractor.from_pretrained("rekd-fast", device=device, config=config)


def assert_alike(got, expected):
    assert len(got) == len(expected)
    assert got.image_size == expected.image_size
    for name, tolerance in (("xy", 1e-4), ("scale", 0), ("score", 1e-6)):
        values = (getattr(part.keypoints, name) for part in (got, expected))
        torch.testing.assert_close(*values, atol=tolerance, rtol=0)
    off = angle_difference(got.keypoints.angle, expected.keypoints.angle)
    assert off.abs().max() < 1e-3
    assert (got.descriptors - expected.descriptors).abs().max() < 1e-3


def test_a_batch_gives_each_image_its_own_features():
    for overrides in (
        ["detector.max_keypoints=30"],
        ["detector.max_keypoints=30", "ranking=none", "detector.levels_up=0"],
        ["detector.subpixel=false", "detector.duplicate_radius_px=0", "detector.levels_up=0"],
    ):
        every = extractor(*overrides)
        small = [make_small(image, None, 0) for image in images()]
        with torch.inference_mode():
            together = every._extraction.together(torch.stack([part.grey for part in small]))
        found = [
            part.to_features(d.keypoints, d.descriptors)
            for part, d in zip(small, together, strict=True)
        ]
        alone = [every(image) for image in images()]
        assert len(alone[1]) == 0
        assert 0 < len(alone[3]) < len(alone[0])
        for got, expected in zip(found, alone, strict=True):
            if len(expected):
                assert_alike(got, expected)
        assert [len(part) for part in found] == [len(part) for part in alone]


def test_an_extractor_takes_images_of_several_sizes_and_masks_on_a_gpu():
    other = torch.from_numpy(textured_image(80, 70, seed=5)).float() / 255
    first, flat, second, _ = images()
    cpu = extractor("detector.max_keypoints=30")
    mask = torch.ones(SIZE)
    mask[:, :40] = 0
    expected = [*cpu.extract_all([first, other, flat, second]), cpu(first, mask)]
    with pretended_gpu():
        gpu = extractor("detector.max_keypoints=30", device="cuda")
        assert (cpu.batch_size, gpu.batch_size) == (1, 8)
        found = [*gpu.extract_all([first, other, flat, second]), gpu(first, mask)]
    for got, wanted in zip(found, expected, strict=True):
        assert len(got) == len(wanted)
        if len(wanted):
            assert_alike(got, wanted)


def test_fewer_than_200_launches_an_image_and_none_that_a_graph_forbids(monkeypatch):
    with pretended_gpu() as gpu:
        every = extractor("detector.levels_up=0", device="cuda")
        textures = [textured_image(64, 80, seed=s) for s in range(8)]
        expected = every.extract_all(textures)
        counter = LaunchCounter(gpu)
        monkeypatch.setattr(captured_graphs, "capture", counter.capture)
        with counter:
            found = every.extract_all(textures)  # the second time: captured
    for got, wanted in zip(found, expected, strict=True):
        assert torch.equal(got.keypoints.xy, wanted.keypoints.xy)
        assert torch.equal(got.descriptors, wanted.descriptors)
    assert counter.stages["network"].operators["graph"] == 3  # levels of these images
    assert 20 < sum(count.kernels for count in counter.stages.values()) / 8 < 200
    assert sum(count.waits for count in counter.stages.values()) / 8 < 4


def test_small_and_constant_images_have_no_keypoints():
    every = extractor()
    nothing = (torch.rand(2, 12, 20), torch.full((2, *SIZE), 0.3))
    for pictures in nothing:
        found = BatchDetector(every.detector).detect(pictures).split()
        assert [len(part) for part in found] == [0, 0]
        together = every._extraction.together(pictures)
        assert [part.descriptors.shape for part in together] == [(0, 128)] * 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_each_image_has_the_selection_of_one_alone(seed, budget, fill):
    config = DetectorConfig(
        max_keypoints=budget, levels_up=1, levels_down=NUM_LEVELS - 2, fill_budget=fill
    )
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 60, (1,), generator=generator))
    image = torch.randint(0, 3, (count,), generator=generator).sort().values
    # few in the coarse levels, whose budgets are filled by what finer ones have left
    level = torch.randint(0, NUM_LEVELS, (3, count), generator=generator).amin(dim=0)
    score = torch.randint(0, 6, (count,), generator=generator) / 7  # many are equal
    got = select_in_images(image, level, score, config, 3, NUM_LEVELS)
    expected = []
    for number in range(3):
        members = torch.nonzero(image == number)[:, 0]
        chosen = select_within_budgets(level[members] - config.levels_up, score[members], config)
        expected.append(members[chosen])
    assert torch.equal(got, torch.cat(expected))


def test_the_best_pixels_come_first_and_of_equal_ones_the_first():
    response = torch.tensor([[[0.5, 2.0, 0.5], [2.0, 0.0, 1e-30]], [[0.0] * 3, [0.0, 3.0, 0.0]]])
    is_peak = response > 0
    is_peak[0, 0, 0] = False
    pixel, is_there = best_pixels(response, is_peak, 4)
    assert pixel[0].tolist() == [1, 3, 2, 5]
    assert is_there.tolist() == [[True] * 4, [True, False, False, False]]
    assert pixel[1, 0] == 4


def test_patches_and_surroundings_of_a_batch_are_those_of_each_image():
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(3, 50, 70, generator=generator)
    image = torch.tensor([0] * 7 + [2] * 12)  # none in the second
    xy = torch.rand(19, 2, generator=generator) * torch.tensor([80.0, 60.0]) - 5
    scale = 2 ** (3 * torch.rand(19, generator=generator) - 1)
    angle = 6 * torch.rand(19, generator=generator)
    keypoints = Keypoints(xy, scale, angle, scale)
    options = {
        "patch_size_px": 64.0, "oriented": True, "antialias": True, "supports": (1.0, 2.0),
    }  # fmt: skip
    patches = cut_batch_patches(pictures, keypoints, image, **options)
    for with_directions in (True, False):
        signs = measure_batch_surroundings(
            pictures, image, xy, scale, with_directions=with_directions
        )
        for number in (0, 2):
            of_image = image == number
            alone = measure_surroundings(
                pictures[number], xy[of_image], scale[of_image], with_directions=with_directions
            )
            torch.testing.assert_close(signs[of_image], alone)
            cut = cut_patches(pictures[number], keypoints[of_image], **options)
            torch.testing.assert_close(patches[of_image], cut)
    assert cut_batch_patches(pictures, keypoints[:0], image[:0], **options).shape[0] == 0
