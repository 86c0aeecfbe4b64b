"""Networks as ONNX graphs: what they give, what they say, and what they replace."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rekd_hloc.cli.main import main
from rekd_hloc.config import DescriptorConfig, ExtractConfig, NetworkConfig
from rekd_hloc.features import onnx_graphs
from rekd_hloc.features.descriptor.hardnet import describe, load_hardnet, save_descriptor
from rekd_hloc.features.descriptor.support_hardnet import SupportHardNet
from rekd_hloc.features.detector.resample import FRACTION, shrink_side
from rekd_hloc.features.onnx_graphs import encode_graph, export_onnx
from rekd_hloc.features.weights import load_detector
from rekd_hloc.weight_files import weights_hash
from tests.helpers import detector_weights, textured_image, without_shape_checks

ARCHITECTURE = NetworkConfig(group_order=4, inner_levels=2, pixel_range=51.0, norm_window_px=9)
"""As small as it may be, and with each part that the shipped ones have."""
SIZES = [(2, 2), (9, 40), (70, 33), (121, 96)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "hardnet.safetensors"
    save_descriptor(path, SupportHardNet(supports=(1.0, 2.0)), {})
    return ExtractConfig(
        weights=str(detector_weights(dataclasses.replace(ARCHITECTURE, orientation_blur_px=1.0))),
        descriptor=DescriptorConfig(weights=str(path)),
    )


@pytest.fixture
def fast_export(monkeypatch):
    """Bytes in the place of graphs, and no comparison: what is tested is the files."""
    monkeypatch.setattr(onnx_graphs, "_require_exporter", lambda: None)
    monkeypatch.setattr(onnx_graphs, "encode_graph", lambda graph: b"\x08\0" + graph.name.encode())
    monkeypatch.setattr(onnx_graphs, "compare_with_torch", lambda graph, data: 1e-6)


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    require_packages()
    folder = tmp_path_factory.mktemp("graphs") / "new"
    with without_shape_checks():
        differences = export_onnx(config, folder)
    assert list(differences) == [
        str(folder / name) for name in ("score.onnx", "orientation.onnx", "descriptor.onnx")
    ]
    assert max(differences.values()) < 1e-4
    return folder


def require_packages():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def open_graph(graph):
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_maps_of_any_size_are_those_of_torch(config, folder, size):
    network, _ = load_detector(Path(config.weights))
    image = torch.from_numpy(textured_image(*size)).float()[None, None] / 255
    expected = dict(zip(("score", "orientation"), network(image), strict=True))
    for name, maps in expected.items():
        (got,) = open_graph(folder / f"{name}.onnx").run(None, {"image": image.numpy()})
        assert np.ptp(got) > 0.1 or size == (2, 2)
        np.testing.assert_allclose(got, maps.numpy(), atol=1e-4 * float(maps.abs().max()))


def test_any_number_of_patches_is_described_as_by_torch(config):
    require_packages()
    graph = onnx_graphs._graphs_of(config)[2]
    with without_shape_checks():
        data = encode_graph(graph)
        assert encode_graph(graph) == data
    assert b".py" not in data
    session = open_graph(data)
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 7):
        patches = torch.rand(count, 2, 32, 32, generator=generator)
        patches[-1] = 0.5  # flat
        (got,) = session.run(None, {"patches": patches.numpy()})
        expected = describe(load_hardnet(config.descriptor.weights), patches, 0)
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    said = session.get_modelmeta().custom_metadata_map
    assert said["format"] == "rekd_hloc onnx 1"
    assert said["supports"] == "[1.0, 2.0]"
    assert said["patch_size_px"] == "64.0"
    assert said["weights"] == weights_hash(Path(config.descriptor.weights))
    assert onnx_graphs.compare_with_torch(graph, data) < 1e-5
    with torch.no_grad():
        graph.module.network.features[0].weight[0] *= 1.05
    assert onnx_graphs.compare_with_torch(graph, data) > 1e-4


@pytest.mark.slow
def test_graphs_of_maps_name_their_axes_and_no_file_of_their_maker(folder):
    for name in ("score", "orientation"):
        session = open_graph(folder / f"{name}.onnx")
        assert session.get_inputs()[0].name == "image"
        assert session.get_inputs()[0].shape == [1, 1, "height", "width"]
        assert [item.name for item in session.get_outputs()] == [name]
        assert b".py" not in (folder / f"{name}.onnx").read_bytes()
    assert session.get_modelmeta().custom_metadata_map["bins"] == "4"


@pytest.mark.slow
def test_a_weight_that_was_changed_is_seen_in_each_map(config, folder):
    for number in range(2):
        graph = onnx_graphs._graphs_of(config)[number]  # both have one network
        data = (folder / f"{graph.name}.onnx").read_bytes()
        with without_shape_checks():
            assert onnx_graphs.compare_with_torch(graph, data) < 1e-5
            with torch.no_grad():
                graph.module.network.backbone.blocks[2].weight[0] *= 1.05
            assert onnx_graphs.compare_with_torch(graph, data) > 1e-4


def test_a_graph_that_differs_from_torch_is_not_written(config, fast_export, tmp_path, monkeypatch):
    wrong = {"orientation": 2e-4}
    monkeypatch.setattr(
        onnx_graphs, "compare_with_torch", lambda graph, data: wrong.get(graph.name, 0)
    )
    with pytest.raises(RuntimeError, match="orientation.onnx differs from torch by 2.0e-04"):
        export_onnx(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["score.onnx"]


def test_files_of_others_stay(config, fast_export, tmp_path):
    other = tmp_path / "score.onnx"
    other.write_bytes(b"\x08\0 of another")
    with pytest.raises(FileExistsError, match="score.onnx is there and holds something else"):
        export_onnx(config, tmp_path)
    assert other.read_bytes() == b"\x08\0 of another"
    export_onnx(config, tmp_path, overwrite=True)
    assert other.read_bytes() == b"\x08\0score"
    export_onnx(config, tmp_path)  # what is there is the same
    photo = tmp_path / "photos" / "orientation.onnx"
    photo.parent.mkdir()
    photo.write_bytes(b"\xff\xd8\xff a photo")
    with pytest.raises(FileExistsError, match="is a JPEG image"):
        export_onnx(config, photo.parent, overwrite=True)
    assert list(photo.parent.iterdir()) == [photo]


def test_without_the_extra_one_line_names_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export-onnx", str(tmp_path / "out"), "--conf", "rekd-fast"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == ("rekd-hloc: error: export to ONNX needs onnx: pip install 'rekd-hloc[onnx]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("factor", [1.2, 1.2**2, 2**0.25, 2**0.5, 2.0])
def test_sides_in_integers_are_those_in_floats(factor):
    sides = np.arange(1, 1 << 16, 7)
    in_integers = np.maximum(sides * int(np.ceil(FRACTION / factor)) // FRACTION, 1)
    assert in_integers.tolist() == [shrink_side(int(side), factor) for side in sides]


@pytest.mark.slow
@pytest.mark.parametrize("conf", ["rekd", "rekd-fast", "rekd-lite", "rekd-upright", "rekd-c36"])
def test_each_preset_can_be_exported(conf, tmp_path, capsys):
    require_packages()
    with without_shape_checks():
        assert main(["export-onnx", str(tmp_path), "--conf", conf, "--quiet", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert len(files) == 3
    assert max(files.values()) < 1e-4
