"""A network of another runtime in the place of Rekd."""

import torch

from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig
from rekd_hloc.features import weights
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.detector.network import DetectorNetwork
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.weights import load_network
from tests.helpers import baked_network, descriptor_weights, detector_weights, textured_image

CONFIG = DetectorConfig(max_keypoints=40, levels_up=0, levels_down=1, border_px=4)


class CountingNetwork:
    """Runs Rekd, without being a module of torch."""

    device = torch.device("cpu")

    def __init__(self):
        self.num_runs = 0

    def level_maps(self, image):
        self.num_runs += 1
        return baked_network().level_maps(image)


def test_a_detector_needs_a_device_and_maps_only():
    image = torch.from_numpy(textured_image(60, 80)).float() / 255
    network = CountingNetwork()
    assert isinstance(network, DetectorNetwork)
    assert isinstance(baked_network(), DetectorNetwork)
    keypoints = Detector(network, CONFIG).detect(image)
    expected = Detector(baked_network(), CONFIG).detect(image)
    assert network.num_runs == 2
    assert torch.equal(keypoints.xy, expected.xy)
    assert torch.equal(keypoints.angle, expected.angle)


def test_a_runtime_is_added_by_one_line(tmp_path, monkeypatch):
    network = CountingNetwork()
    monkeypatch.setitem(weights.RUNTIMES, ".toy", lambda path, rows, device: network)
    path = tmp_path / "network.toy"
    path.write_bytes(b"what the runtime reads")
    config = ExtractConfig(
        weights=str(path),
        detector=CONFIG,
        descriptor=DescriptorConfig(weights=str(descriptor_weights())),
    )
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    assert len(extractor(textured_image(60, 80))) > 10
    assert network.num_runs == 2
    assert isinstance(load_network(detector_weights()), DetectorNetwork)
