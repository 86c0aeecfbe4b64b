"""ONNX Runtime and OpenVINO in the place of torch's convolutions."""

import copy
import dataclasses
import importlib.util
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from rekd_hloc.cli.main import main
from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig, config_hash
from rekd_hloc.features import weights
from rekd_hloc.features.descriptor.hardnet import describe, load_hardnet
from rekd_hloc.features.descriptor.support_hardnet import SupportHardNet
from rekd_hloc.features.descriptor.tfeat import TFeat
from rekd_hloc.features.detector.network import DetectorNetwork, TiledNetwork
from rekd_hloc.features.detector.tiles import Region, StoredPixels
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.runtimes import RuntimeLayers, compute_with
from rekd_hloc.features.weights import load_network
from rekd_hloc.storage.provenance import refuse_other
from tests.helpers import ROOT, descriptor_weights, detector_weights, textured_image

CONFIG = ExtractConfig(
    weights=str(detector_weights()),
    detector=DetectorConfig(max_keypoints=60, levels_up=0, levels_down=1, border_px=4),
    descriptor=DescriptorConfig(weights=str(descriptor_weights())),
)
CPU = torch.device("cpu")


PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(params=sorted(PACKAGES))
def runtime(request):
    for package in ("onnx", PACKAGES[request.param]):
        if importlib.util.find_spec(package) is None:  # to import openvino would send an event
            pytest.skip(f"{package} is not installed")
    return request.param


def image_of(height, width):
    return torch.from_numpy(textured_image(height, width)).float()[None, None] / 255


@pytest.mark.parametrize("tile_rows", [0, 16])
def test_a_detector_has_the_maps_of_torch_at_any_size(runtime, tile_rows):
    network = load_network(detector_weights(), tile_rows=tile_rows, runtime=runtime)
    plain = load_network(detector_weights(), tile_rows=tile_rows)
    assert isinstance(network, DetectorNetwork)
    for size in ((40, 33), (1, 9), (21, 64)):
        score, logits = network.level_maps(image_of(*size))
        expected, expected_logits = plain.level_maps(image_of(*size))
        assert score.std() > 0.01 or size[0] == 1
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)


def test_a_detector_runs_on_parts(runtime):
    network = load_network(detector_weights(), runtime=runtime)
    assert isinstance(network, TiledNetwork)
    image, region = image_of(50, 60), Region(10, 30, 20, 50)
    part = network.region_maps(StoredPixels(image), region)
    whole, _ = load_network(detector_weights()).level_maps(image)
    torch.testing.assert_close(part.score, whole[:, :, 10:30, 20:50], atol=1e-4, rtol=1e-4)


def test_features_are_those_of_torch_and_files_go_on(runtime):
    config = dataclasses.replace(CONFIG, runtime=runtime)
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    plain = Extractor.from_pretrained("rekd", device="cpu", config=CONFIG)
    image = textured_image(90, 120)
    got, expected = extractor(image), plain(image)
    assert len(got) == len(expected) > 30
    torch.testing.assert_close(got.keypoints.xy, expected.keypoints.xy, atol=1e-3, rtol=0)
    torch.testing.assert_close(got.descriptors, expected.descriptors, atol=1e-4, rtol=0)
    assert extractor.provenance == plain.provenance
    sent = pickle.loads(pickle.dumps(extractor))
    assert torch.equal(sent(image).descriptors, got.descriptors)


def test_any_number_of_patches_and_supports(runtime):
    torch.manual_seed(0)
    network = SupportHardNet(supports=(1.0, 2.0)).eval().requires_grad_(False)
    network.features = nn.Sequential(
        *(layer for layer in network.features if isinstance(layer, nn.Conv2d | nn.ReLU))
    )
    replaced = compute_with(copy.deepcopy(network), runtime, CPU)
    assert isinstance(replaced.features, RuntimeLayers)
    for count in (0, 1, 70):
        patches = torch.rand(count, 2, 32, 32)
        got = describe(replaced, patches, 0)
        torch.testing.assert_close(got, describe(network, patches, 0), atol=1e-5, rtol=0)
    assert got.std() > 0.01


def test_a_weight_that_was_changed_is_seen(runtime):
    patches = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    network = load_hardnet(str(descriptor_weights()))
    before = describe(compute_with(copy.deepcopy(network), runtime, CPU), patches, 0)
    with torch.no_grad():
        network.features[4].weight[0] += 0.1
    after = describe(compute_with(network, runtime, CPU), patches, 0)
    assert (after - before).abs().max() > 1e-3


def test_the_threads_change_nothing(runtime):
    patches = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            network = compute_with(load_hardnet(str(descriptor_weights())), runtime, CPU)
            found.append(describe(network, patches, 0))
        finally:
            torch.set_num_threads(1)
    assert torch.equal(*found)


def test_several_threads_describe_at_once(runtime):
    network = compute_with(load_hardnet(str(descriptor_weights())), runtime, CPU)
    parts = [torch.rand(30, 1, 32, 32) for _ in range(6)]
    expected = [describe(network, part, 0) for part in parts]
    with ThreadPoolExecutor(3) as pool:
        for got, alone in zip(
            pool.map(lambda p: describe(network, p, 0), parts), expected, strict=True
        ):
            assert torch.equal(got, alone)


def test_files_do_not_record_the_runtime():
    for name in ("onnx", "openvino"):
        assert config_hash(dataclasses.replace(CONFIG, runtime=name)) == config_hash(CONFIG)


def test_files_record_low_precision_and_name_it(tmp_path):
    descriptor = dataclasses.replace(CONFIG.descriptor, autocast=True)
    low = dataclasses.replace(CONFIG, descriptor=descriptor)
    assert config_hash(low) != config_hash(CONFIG)
    stored, asked = (
        Extractor.from_pretrained("rekd", device="cpu", config=config).provenance
        for config in (CONFIG, low)
    )
    with pytest.raises(ValueError, match="descriptor.autocast false in f.h5, true now"):
        refuse_other(tmp_path / "f.h5", stored, asked)


@pytest.mark.parametrize(
    "options", [["runtime=tensorrt"], ["runtime=onnx", "descriptor.autocast=true"]]
)
def test_a_runtime_that_is_not_there_is_one_line(options, tmp_path, capsys):
    settings = [part for option in options for part in ("--set", option)]
    assert (
        main(["extract", str(tmp_path), str(tmp_path / "f.h5"), "--conf", "rekd", *settings]) == 2
    )
    error = capsys.readouterr().err.strip()
    assert error.startswith("rekd-hloc: error: ")
    assert "runtime" in error
    assert "torch" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_its_extra(name, package, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "onnx", sys)  # there, whether or not it is
    out = tmp_path / "f.h5"
    textured = tmp_path / "photos"
    textured.mkdir()
    arguments = ["extract", str(textured), str(out), "--conf", "rekd-fast", "--runtime", name]
    assert main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == (
        f"rekd-hloc: error: runtime {name} needs {package}: pip install 'rekd-hloc[{name}]'"
    )


QUIET = """
import socket, sys
from pathlib import Path
import torch
from torch import nn
from rekd_hloc.features.runtimes import compute_with

def refuse(*given):
    print("asked for", given, flush=True)
    raise OSError

socket.getaddrinfo = socket.socket.connect = refuse
layers = nn.Module()
layers.features = nn.Sequential(nn.Conv2d(1, 2, 3))
compute_with(layers, "openvino", torch.device("cpu")).features(torch.zeros(1, 1, 4, 4))
print([name for name in sys.modules if "telemetry" in name and "stub" not in name])
print(list(Path.home().iterdir()))
"""


def test_openvino_tells_nobody_and_leaves_nothing(tmp_path):
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    paths = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, "-c", QUIET]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    first, second = done.stdout.splitlines()
    assert "openvino_telemetry" not in first
    assert second == "[]"


def test_another_device_is_refused(runtime):
    with pytest.raises(ValueError, match="computes on a CPU, and the device is cuda"):
        compute_with(load_hardnet(str(descriptor_weights())), runtime, torch.device("cuda"))
    layers = RuntimeLayers(nn.Sequential(nn.ReLU()), runtime)
    with pytest.raises(ValueError, match="and the images are on meta"):
        layers(torch.zeros(1, 1, 2, 2, device="meta"))


def test_other_networks_are_refused(runtime, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="not TFeat; take runtime=torch: a layer is Tanh"):
        compute_with(TFeat(), runtime, CPU)
    with pytest.raises(ValueError, match="and HardNet, not ReLU; take runtime=torch"):
        compute_with(nn.ReLU(), runtime, CPU)
    monkeypatch.setitem(weights.RUNTIMES, ".toy", lambda path, rows, device: object())
    with pytest.raises(ValueError, match="toy has a runtime of its own"):
        load_network(tmp_path / "network.toy", runtime=runtime)


def test_low_precision_is_taken_where_it_is_fast(monkeypatch):
    network = load_hardnet(str(descriptor_weights()))
    patches = torch.rand(50, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = describe(network, patches, 0)
    for is_fast in (False, True):
        monkeypatch.setattr(
            "rekd_hloc.features.descriptor.hardnet.has_fast_bfloat16", lambda fast=is_fast: fast
        )
        low = describe(network, patches, 0, autocast=True)
        assert low.dtype == torch.float32
        assert torch.equal(low, exact) != is_fast
        assert float((low * exact).sum(1).min()) > 0.999
    assert np.allclose(low.norm(dim=1), 1, atol=1e-5)
