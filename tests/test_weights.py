import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rekd_hloc import weight_files
from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector.steerable import SteerableBackbone
from rekd_hloc.features.weights import (
    detector_provenance,
    learned_tensors,
    load_detector,
    parse_network_config,
    resolve_weights,
    save_detector,
)
from rekd_hloc.weight_files import read_weights, weights_hash, write_weights
from tests.helpers import SMALL_NETWORK, baked_network, detector_weights, random_network

CONFIG = NetworkConfig(group_order=4, fields=(1, 2, 3), inner_levels=2, pixel_range=51.0)


@pytest.fixture(scope="module")
def network():
    return random_network(CONFIG)


@pytest.fixture
def image():
    return torch.rand(1, 1, 30, 35, generator=torch.Generator().manual_seed(0))


def test_a_file_gives_back_the_function_the_architecture_and_the_provenance(
    network, image, tmp_path
):
    path = tmp_path / "new" / "w.safetensors"
    provenance = {"steps": 12, "validation": {"repeatability": 0.5}}
    save_detector(path, network, CONFIG, provenance)
    loaded, config = load_detector(path, tile_rows=7)
    assert config == CONFIG
    assert detector_provenance(path) == provenance
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        score, logits = network(image)
    got_score, got_logits = loaded(image)
    assert score.std() > 0.01
    torch.testing.assert_close(got_score, score, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got_logits, logits, atol=1e-4, rtol=1e-4)
    assert list(path.parent.iterdir()) == [path]


def test_training_goes_on_from_the_learned_part(network, image, tmp_path):
    path = tmp_path / "w.safetensors"
    save_detector(path, network, CONFIG, {})
    parts = learned_tensors(path)
    other = random_network(CONFIG, seed=9)
    assert isinstance(other.backbone, SteerableBackbone)
    other.backbone.load_learned_state(parts["backbone"])
    other.load_state_dict(parts["head"], strict=False)
    with torch.no_grad():
        torch.testing.assert_close(other(image)[0], network(image)[0])


def test_the_same_weights_make_the_same_bytes(network, tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        save_detector(path, network, CONFIG, {"steps": 1})
    assert weights_hash(paths[0]) == weights_hash(paths[1])
    assert len(weights_hash(paths[0])) == 12
    save_detector(paths[1], network, CONFIG, {"steps": 2})
    assert weights_hash(paths[0]) != weights_hash(paths[1])


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    broken = random_network(CONFIG)
    with torch.no_grad():
        broken.score_head.bias.fill_(float("nan"))
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="score_head.bias"):
        save_detector(path, broken, CONFIG, {})
    assert not path.exists()


def test_a_baked_network_cannot_be_baked(tmp_path):
    with pytest.raises(ValueError, match="FrozenBackbone"):
        save_detector(tmp_path / "w", baked_network(), SMALL_NETWORK, {})


def test_a_failed_write_leaves_the_old_file(network, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_detector(path, network, CONFIG, {})
    before = path.read_bytes()

    def full_disk(scratch, data):
        with scratch.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left for .*w.safetensors"):
        save_detector(path, network, CONFIG, {"steps": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rewritten(path, out, metadata=None, drop=()):
    with safe_open(str(path), framework="pt") as file:
        old = file.metadata()
        tensors = {k: file.get_tensor(k) for k in file.keys() if k not in drop}  # noqa: SIM118
    save_file(tensors, str(out), {**old, **(metadata or {})})
    return out


@pytest.mark.parametrize(
    ("metadata", "drop", "words"),
    [
        ({"format": "something else"}, (), ["something else", "rekd_hloc detector 1"]),
        ({"network": "no json"}, (), ["no architecture"]),
        ({"network": json.dumps({"group_order": 8})}, (), ["missing or unknown", "fields"]),
        (None, ("backbone.blocks.1.weight",), ["does not fit", "backbone.blocks.1.weight"]),
    ],
)
def test_a_file_that_is_odd_is_refused_by_name(metadata, drop, words, tmp_path):
    path = rewritten(detector_weights(), tmp_path / "odd.safetensors", metadata, drop)
    with pytest.raises(ValueError) as caught:
        load_detector(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_another_architecture_than_the_tensors(tmp_path):
    with safe_open(str(detector_weights()), framework="pt") as file:
        stated = json.loads(file.metadata()["network"])
    metadata = {"network": json.dumps({**stated, "group_order": 12})}
    path = rewritten(detector_weights(), tmp_path / "odd.safetensors", metadata)
    with pytest.raises(ValueError, match="does not fit its architecture"):
        load_detector(path)


@pytest.mark.parametrize("content", [b"", b"not a tensor", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        load_detector(path)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(detector_weights().read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_weights(path)


def test_names_and_paths_of_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    for name, kind in (("small", "detector"), ("hardnet", "descriptor"), ("order", "ranking")):
        metadata = {"format": f"rekd_hloc {kind} 1"}
        write_weights(tmp_path / f"{name}.safetensors", {"x": torch.zeros(1)}, metadata)
    other = tmp_path / "mine.bin"
    other.write_bytes(b"y")
    assert resolve_weights("small") == tmp_path / "small.safetensors"
    assert resolve_weights(str(other)) == other
    with pytest.raises(FileNotFoundError, match="no weights 'large': shipped are small; or"):
        resolve_weights("large")
    with pytest.raises(FileNotFoundError, match="gone"):
        load_detector(tmp_path / "gone")


def test_an_architecture_with_an_unknown_option_is_refused():
    stated = {**{name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}}
    assert parse_network_config({**stated, "fields": list(CONFIG.fields)}) == CONFIG
    with pytest.raises(ValueError, match="depth"):
        parse_network_config({**stated, "depth": 3})
    with pytest.raises(ValueError, match="multiple of 4"):
        parse_network_config({**stated, "group_order": 6})
