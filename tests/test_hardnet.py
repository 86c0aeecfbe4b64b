"""Descriptor weights of every kind, and what a descriptor promises."""

import io
import urllib.error
import urllib.request

import kornia.feature
import numpy as np
import pytest
import torch
from torch import nn

from evaluation.speed.pretended_gpu import pretended_gpu
from rekd_hloc import weight_files
from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig
from rekd_hloc.features import precision
from rekd_hloc.features.descriptor import hardnet
from rekd_hloc.features.descriptor.hardnet import (
    DESCRIPTOR_FORMAT,
    describe,
    load_hardnet,
    resolve_hardnet,
    save_descriptor,
    unit_rows,
)
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.descriptor.support_hardnet import supports_of
from rekd_hloc.features.descriptor.tfeat import TFeat
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.weight_files import read_weights, write_weights
from tests.helpers import detector_weights, random_keypoints, textured_image


def used_network(network, seed=0):
    """The network with weights and batch statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.rand(t.shape, generator=generator) + 0.5
        if name.endswith("running_var")
        else torch.randn(t.shape, generator=generator) * 0.1
        for name, t in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    network.load_state_dict(state, strict=False)
    return network.eval()


def new_hardnet(seed=0):
    return used_network(kornia.feature.HardNet(pretrained=False), seed)


def patches(count=9, seed=0):
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def expected(network, given):
    with torch.no_grad():
        return nn.functional.normalize(network(given), dim=1)


def assert_same_descriptors(path, network, name="{}"):
    loaded = load_hardnet(name.format(path))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.allclose(describe(loaded, patches(), 4), expected(network, patches()), atol=1e-5)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network, and an empty folder of downloads, which is returned."""

    def refuse(address, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_own_format(tmp_path):
    network, path = new_hardnet(), tmp_path / "own.safetensors"
    save_descriptor(path, network, {"steps": 3, "data_hash": "abc"})
    _, metadata = read_weights(path)
    assert metadata["format"] == DESCRIPTOR_FORMAT
    assert metadata["architecture"] == "HardNet"
    assert '"steps": 3' in metadata["provenance"]
    assert_same_descriptors(path, network)
    assert resolve_hardnet(str(path)) == path


@pytest.mark.parametrize("wrapped", [False, True])
def test_kornia_checkpoints(tmp_path, wrapped):
    network, path = new_hardnet(), tmp_path / "HardNetPP.pth"
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    torch.save({"epoch": 9, "state_dict": state} if wrapped else state, path)
    assert_same_descriptors(path, network)


def test_shallow_network_with_foreign_tensors(tmp_path):
    network, path = used_network(TFeat()), tmp_path / "HardTFeat.pth"
    state = network.state_dict() | {"SIFT.gx.0.weight": torch.zeros(1, 1, 1, 3)}
    torch.save({"epoch": 1, "state_dict": state}, path)
    assert isinstance(load_hardnet(str(path)), TFeat)
    assert_same_descriptors(path, network)


@pytest.mark.parametrize("name", ["sosnet", "hynet"])
def test_peers_from_a_file_and_from_the_download_folder(tmp_path, offline, name):
    build = {"sosnet": kornia.feature.SOSNet, "hynet": kornia.feature.HyNet}[name]
    network, path = used_network(build(pretrained=False)), tmp_path / "peer.pth"
    torch.save(network.state_dict(), path)
    assert_same_descriptors(path, network, name + ":{}")
    assert_same_descriptors(path, network)  # recognised without being named
    with pytest.raises(FileNotFoundError, match=f"{name}.*descriptor.weights=default"):
        resolve_hardnet(name)
    file = {"sosnet": "sosnet_32x32_liberty.pth", "hynet": "HyNet_LIB.pth"}[name]
    offline.mkdir(parents=True)
    path.rename(offline / file)
    assert_same_descriptors(name, network)


def test_official_weights_offline_say_what_to_do(offline):
    with pytest.raises(FileNotFoundError) as caught:
        load_hardnet("official")
    text = str(caught.value)
    for part in ("official", str(offline), "no route to host", "https://", "=default"):
        assert part in text
    assert not list(offline.glob("*"))


def test_official_weights_are_downloaded_once(offline, monkeypatch):
    network, buffer, asked = new_hardnet(), io.BytesIO(), []
    torch.save({"state_dict": network.state_dict()}, buffer)

    def serve(address, timeout):
        asked.append(address)
        return io.BytesIO(buffer.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    assert_same_descriptors("official", network)
    assert_same_descriptors("official", network)
    assert len(asked) == 1
    assert "HardNetPP" in asked[0]
    assert [p.suffix for p in offline.iterdir()] == [".pth"]


def test_a_broken_download_leaves_nothing_that_counts(offline, monkeypatch):
    class Short(io.BytesIO):
        length = 17

    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: Short(b"half"))
    with pytest.raises(FileNotFoundError, match="ended early"):
        resolve_hardnet("official")
    assert not list(offline.glob("*.pth"))


def test_default_missing_from_an_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"hardnet\.safetensors.*default, official"):
        resolve_hardnet("default")


def test_other_shipped_weights_have_names(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    save_descriptor(
        tmp_path / "hardnet-old.safetensors", kornia.feature.HardNet(pretrained=False), {}
    )
    assert resolve_hardnet("hardnet-old") == tmp_path / "hardnet-old.safetensors"
    with pytest.raises(FileNotFoundError, match="one of default, hardnet-old, official"):
        resolve_hardnet("hardnet-new")


def test_files_that_are_no_descriptor(tmp_path):
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth is not a weights file"):
        load_hardnet(str(text))
    other = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match=r"other\.pth does not hold.*HardNet"):
        load_hardnet(str(other))
    torch.save([1, 2], other)
    with pytest.raises(ValueError, match=r"other\.pth does not hold"):
        load_hardnet(str(other))
    detector = tmp_path / "detector.safetensors"
    write_weights(detector, {"a": torch.zeros(1)}, {"format": "rekd_hloc detector 1"})
    with pytest.raises(ValueError, match="format 'rekd_hloc detector 1', a descriptor has"):
        load_hardnet(str(detector))
    torch.save(new_hardnet().state_dict(), other)
    with pytest.raises(ValueError, match=r"SOSNet"):
        load_hardnet(f"sosnet:{other}")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_hardnet(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("build", [new_hardnet, lambda: used_network(TFeat())])
def test_descriptors_are_unit_vectors_whatever_the_batch(tmp_path, build):
    path = tmp_path / "weights.pth"
    torch.save(build().state_dict(), path)
    network, given = load_hardnet(str(path)), patches(23)
    whole = describe(network, given, 100)
    assert whole.shape == (23, 128)
    assert torch.allclose(whole.norm(dim=1), torch.ones(23), atol=1e-5)
    assert whole.std(dim=0).max() > 1e-3  # not one vector for all
    for batch_size in (0, 1, 7):
        assert torch.allclose(describe(network, given, batch_size), whole, atol=1e-5)
    order = torch.arange(22, -1, -1)
    assert torch.allclose(describe(network, given[order], 5), whole[order], atol=1e-5)


def test_light_does_not_matter(tmp_path):
    path = tmp_path / "own.safetensors"
    save_descriptor(path, new_hardnet(), {})
    network, given = load_hardnet(str(path)), patches()
    darker = describe(network, 0.3 * given + 0.2, 8)
    assert torch.allclose(darker, describe(network, given, 8), atol=1e-4)


def test_flat_patches_give_finite_unit_vectors(tmp_path):
    flat = torch.tensor([0.0, 1.0, 0.3, 1 / 3])[:, None, None, None].expand(4, 1, 32, 32)
    untrained = kornia.feature.HardNet(pretrained=False).eval()
    shallow = used_network(TFeat())
    for network in (untrained, new_hardnet(), shallow):
        got = describe(network, flat, 2)
        assert torch.isfinite(got).all()
        assert torch.allclose(got.norm(dim=1), torch.ones(4), atol=1e-5)


def test_no_patch_gives_no_descriptor():
    assert describe(new_hardnet(), torch.zeros(0, 1, 32, 32), 512).shape == (0, 128)


def test_saving_keeps_the_network(tmp_path):
    network = new_hardnet().to(memory_format=torch.channels_last)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    save_descriptor(tmp_path / "own.safetensors", network, {})
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert_same_descriptors(tmp_path / "own.safetensors", network)


class NarrowNetwork(nn.Module):
    """64 numbers from a patch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32 * 32, 64)

    def forward(self, patches):
        return self.layer(patches.flatten(1))


def test_a_descriptor_of_another_width_is_added_by_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(hardnet.ARCHITECTURES, "Narrow", NarrowNetwork)
    torch.save(NarrowNetwork().state_dict(), tmp_path / "narrow.pth")
    network = load_hardnet(str(tmp_path / "narrow.pth"))
    assert isinstance(network, NarrowNetwork)
    assert describe(network, patches()[:0], 8).shape == (0, 64)
    config = ExtractConfig(
        weights=str(detector_weights()),
        detector=DetectorConfig(max_keypoints=30, levels_up=0, levels_down=1, border_px=4),
        descriptor=DescriptorConfig(weights=str(tmp_path / "narrow.pth")),
    )
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    image, blank = textured_image(60, 80), np.full((60, 80), 90, np.uint8)
    with FeatureStore.resume(tmp_path / "f.h5", extractor.provenance) as store:
        for name, pixels in (("a.png", image), ("b.png", image), ("blank.png", blank)):
            store.write(name, extractor(pixels))
    pairs = [("a.png", "b.png"), ("a.png", "blank.png")]
    summary = match_images(tmp_path / "f.h5", tmp_path / "m.h5", pairs)
    count = summary.num_matches["a.png", "b.png"]
    assert count > 10
    assert summary.num_matches["a.png", "blank.png"] == 0
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.read("a.png").descriptors.shape == (count, 64)
        assert store.read("blank.png").descriptors.shape == (0, 64)


@pytest.mark.parametrize("name", ["default", "hardnet-half"])
def test_float16_leaves_descriptors_within_a_thousandth(name):
    network = load_hardnet(name)
    picture = torch.from_numpy(textured_image(150, 200, seed=4)).float() / 255
    places = random_keypoints(60, (200, 150))
    patches = cut_patches(
        picture, places, patch_size_px=64, oriented=True, antialias=True,
        supports=supports_of(network),
    )  # fmt: skip
    exact = describe(network, patches, 0)
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        half = network(patches)
    assert half.dtype == torch.float16
    distance = 1 - (exact * unit_rows(half.float())).sum(dim=1)
    assert distance.max() < 1e-3
    assert distance.max() > 1e-7


def test_a_gpu_is_asked_for_float16_on_request_only(monkeypatch):
    asked = []
    plain = precision._autocast

    def note(device, *, enabled, kind=torch.bfloat16):
        asked.append((enabled, kind))
        return plain(device, enabled=False)

    monkeypatch.setattr(precision, "_autocast", note)
    monkeypatch.setattr(hardnet, "has_fast_bfloat16", lambda: True)
    network = load_hardnet("default")
    for kind in ("cuda", "cpu"):
        with pretended_gpu():
            patches = torch.rand(2, len(supports_of(network)), 32, 32).to(kind)
            for autocast in (False, True):
                describe(network.to(kind), patches, 0, autocast=autocast)
    assert asked == [
        (False, torch.bfloat16), (True, torch.float16),
        (False, torch.bfloat16), (True, torch.bfloat16),
    ]  # fmt: skip
