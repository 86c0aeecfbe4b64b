"""Descriptors that see several squares about a keypoint: patches, files, and the extractor."""

import json

import kornia.feature
import numpy as np
import pytest
import torch

from evaluation.extractors import registry
from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig
from rekd_hloc.features import image_extraction
from rekd_hloc.features.described import describe_keypoints
from rekd_hloc.features.descriptor.hardnet import (
    DESCRIPTOR_FORMAT,
    describe,
    load_hardnet,
    read_hardnet,
    save_descriptor,
)
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.descriptor.support_hardnet import (
    FIRST_LAYER,
    SupportHardNet,
    supports_of,
    with_supports,
)
from rekd_hloc.features.detector.mask import fill_ignored
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.weight_files import read_weights, write_weights
from tests.helpers import detector_weights, random_keypoints, textured_image


def random_hardnet(supports=(1.0, 2.0), seed=0):
    """A network with weights and batch statistics drawn from the seed, in eval mode."""
    network = SupportHardNet(supports=supports)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def random_patches(count=6, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, 32, 32, generator=generator)


@pytest.fixture
def saved(tmp_path):
    """A network of two supports, and its file."""
    network, path = random_hardnet(), tmp_path / "two.safetensors"
    save_descriptor(path, network, {"steps": 1})
    return network, path


@pytest.mark.parametrize("antialias", [True, False])
def test_each_channel_is_what_one_support_of_that_size_gives(antialias):
    image = torch.from_numpy(textured_image(90, 120, 3)).float() / 255
    keypoints = random_keypoints(40, (90, 120))
    options = {"oriented": True, "antialias": antialias}
    both = cut_patches(image, keypoints, patch_size_px=16.0, supports=(1.0, 2.0), **options)
    small = cut_patches(image, keypoints, patch_size_px=16.0, **options)
    large = cut_patches(image, keypoints, patch_size_px=32.0, **options)
    assert both.shape == (40, 2, 32, 32)
    assert torch.equal(both[:, :1], small)
    assert torch.equal(both[:, 1:], large)
    assert not torch.allclose(small, large, atol=0.05)
    with pytest.raises(ValueError, match=r"supports must be positive factors, got \(1.0, 0.0\)"):
        cut_patches(image, keypoints, patch_size_px=16.0, supports=(1.0, 0.0), **options)


def test_a_file_says_which_supports_its_network_sees(saved, tmp_path):
    network, path = saved
    loaded = load_hardnet(str(path))
    assert supports_of(loaded) == (1.0, 2.0)
    patches = random_patches()
    with torch.no_grad():
        assert torch.allclose(describe(loaded, patches, 4), network(patches), atol=1e-5)
    assert describe(loaded, patches[:0], 4).shape == (0, 128)
    assert not torch.allclose(
        describe(loaded, patches, 4), describe(loaded, patches.flip(1), 4), atol=0.05
    )
    wide = random_hardnet((1.0, 3.0))
    save_descriptor(tmp_path / "wide.safetensors", wide, {})
    assert supports_of(load_hardnet(str(tmp_path / "wide.safetensors"))) == (1.0, 3.0)
    torch.save(network.state_dict(), tmp_path / "two.pth")  # says nothing of its supports
    assert supports_of(load_hardnet(str(tmp_path / "two.pth"))) == (1.0, 2.0)


def test_files_of_one_support_say_nothing_new(tmp_path):
    save_descriptor(tmp_path / "one.safetensors", kornia.feature.HardNet(pretrained=False), {})
    metadata = read_weights(tmp_path / "one.safetensors")[1]
    assert set(metadata) == {"format", "architecture", "provenance"}
    loaded = load_hardnet(str(tmp_path / "one.safetensors"))
    assert isinstance(loaded, kornia.feature.HardNet)
    assert supports_of(loaded) == (1.0,)


@pytest.mark.parametrize("stated", ["[1.0]", "[1.0, -2.0]", "[1.0, NaN]", "two", "7", '["a", 2]'])
def test_supports_that_do_not_fit_the_tensors_are_refused(saved, tmp_path, stated):
    tensors = saved[0].state_dict()
    metadata = {"format": DESCRIPTOR_FORMAT, "supports": stated}
    write_weights(tmp_path / "odd.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=r"odd\.safetensors states supports"):
        load_hardnet(str(tmp_path / "odd.safetensors"))


def test_a_support_that_was_never_seen_changes_nothing():
    tensors = with_supports(read_hardnet("hardnet-0.1"), 2)
    assert tensors[FIRST_LAYER].shape == (32, 2, 3, 3)
    network = SupportHardNet(supports=(1.0, 2.0))
    network.load_state_dict(tensors)
    patches = random_patches()
    described = describe(network.eval(), patches, 6)
    before = describe(load_hardnet("hardnet-0.1"), patches[:, :1], 6)
    torch.testing.assert_close(described, before, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="2 supports, and 1 are asked for.*tracks.supports"):
        with_supports(tensors, 1)


def test_light_does_not_matter_in_either_channel():
    network, patches = random_hardnet(), random_patches()
    dimmed = patches * torch.tensor([0.5, 0.2])[:, None, None] + 0.1
    with torch.no_grad():
        assert torch.allclose(network(dimmed), network(patches), atol=1e-4)


def config_of(descriptor):
    return ExtractConfig(
        weights=str(detector_weights()),
        detector=DetectorConfig(max_keypoints=30, levels_up=0, levels_down=1, border_px=4),
        descriptor=DescriptorConfig(weights=str(descriptor), patch_size_px=16.0),
    )


def test_the_extractor_cuts_what_the_network_asks_for(saved):
    network, path = saved
    image = textured_image(60, 80)
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config_of(path))
    features = extractor(image)
    assert len(features.keypoints) > 10
    patches = cut_patches(
        torch.from_numpy(image).float() / 255,
        features.keypoints,
        patch_size_px=16.0,
        oriented=True,
        antialias=True,
        supports=(1.0, 2.0),
    )
    with torch.no_grad():
        assert torch.allclose(features.descriptors, network(patches), atol=1e-4)
    assert len(extractor(np.full((60, 80), 90, np.uint8)).keypoints) == 0


def test_a_mask_keeps_out_the_patch_and_is_filled_in_the_wider_square(saved, monkeypatch):
    image, mask = textured_image(60, 80), np.ones((60, 80), np.uint8)
    mask[:, :20] = 0
    config = config_of(saved[1])
    seen = []

    def describe(network, grey, *arguments):
        seen.append(grey)
        return describe_keypoints(network, grey, *arguments)

    monkeypatch.setattr(image_extraction, "describe_keypoints", describe)
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    keypoints = extractor(image, mask).keypoints
    half = config.descriptor.patch_size_px / 2 * keypoints.scale
    reach = half * (keypoints.angle.cos().abs() + keypoints.angle.sin().abs())
    assert len(keypoints) > 0
    assert (keypoints.xy[:, 0] - reach > 18.5).all()
    assert (keypoints.xy[:, 0] - 2 * reach < 18.5).any()  # whose wider square touches it
    grey = torch.from_numpy(image).float() / 255
    assert torch.equal(seen[0], fill_ignored(grey, torch.from_numpy(mask) > 0))
    assert not torch.equal(seen[0], grey)


def test_another_detector_s_keypoints_are_described_alike(saved):
    extractor = registry.load_extractor(
        "sift+rekd-hardnet", 20, overrides=[f"descriptor.weights={saved[1]}"]
    )
    features = extractor(torch.from_numpy(textured_image(90, 120)).float() / 255)
    assert features.descriptors.shape == (len(features.keypoints), 128)
    assert len(features.keypoints) > 5
    assert json.dumps(extractor.provenance)
