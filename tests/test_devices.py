"""Devices by name: those of this machine, and a line for every other."""

import contextlib
from unittest import mock

import pytest
import torch

from evaluation.speed.pretended_gpu import KINDS, pretended_gpu
from rekd_hloc.cli.main import main
from rekd_hloc.config import get_preset, load_config
from rekd_hloc.devices import choose_device, exact_device
from rekd_hloc.features.detector import tiles
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.matching.match import match
from tests.helpers import textured_image

QUICK = {("mps", "tiles"), ("cuda", "whole")}
"""Of the pretended devices and ways; the others are marked slow."""


@pytest.fixture
def no_gpu():
    with contextlib.ExitStack() as stack:
        for name in ("cuda", "backends.mps", "xpu"):
            stack.enter_context(mock.patch(f"torch.{name}.is_available", return_value=False))
        yield


@pytest.mark.parametrize(
    "name",
    ["meta", "mps", "xpu", "cuda", "cuda:7", "mps:3", "hpu", "vulkan", "tpu9", "", "cuda:x", "GPU"],
)
def test_what_is_not_here_or_cannot_compute_is_refused(name, no_gpu):
    with pytest.raises(ValueError, match="; use auto or cpu$") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)


def test_a_number_that_the_machine_lacks_is_refused():
    """torch itself says so: as a RuntimeError, or as a failed assertion without CUDA."""
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=2),
        mock.patch("torch.ones", side_effect=RuntimeError("CUDA error: invalid device ordinal")),
        pytest.raises(ValueError, match="no device 'cuda:7' here; use auto, cuda, cuda:0, cuda:1 "),
    ):
        choose_device("cuda:7")


@pytest.mark.parametrize("kind", KINDS)
def test_auto_takes_the_accelerator_that_is_there(kind, no_gpu):
    assert choose_device("auto").type == "cpu"
    with pretended_gpu(kind):
        assert choose_device("auto").type == choose_device(kind).type == kind


def test_float64_is_computed_where_it_can_be():
    kinds = ("cpu", "cuda", "mps", "xpu")
    assert [exact_device(torch.device(k)).type for k in kinds] == ["cpu", "cuda", "cpu", "cpu"]


@pytest.mark.parametrize("name", ["meta", "xpu", "mps"])
def test_the_command_line_refuses_in_one_line(name, tmp_path, capsys, no_gpu):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert main(["extract", str(tmp_path), str(tmp_path / "f.h5"), "--device", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rekd-hloc: error: device '{name}'")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "whole_pixels"),
    [
        pytest.param(
            kind,
            pixels,
            marks=[] if (kind, way) in QUICK else pytest.mark.slow,
            id=f"{kind}-{way}",
        )
        for kind in KINDS
        for way, pixels in (("whole", 10**9), ("tiles", 1500))
    ],
)
def test_features_on_a_pretended_device_are_those_of_the_cpu(kind, whole_pixels, monkeypatch):
    monkeypatch.setattr(tiles, "WHOLE_PIXELS", whole_pixels)
    monkeypatch.setattr(tiles, "TILE_PX", 37)
    image, mask = textured_image(60, 80, seed=3), torch.ones(60, 80)
    mask[:4, :4] = 0
    config = load_config(get_preset("rekd-fast"), overrides=["detector.levels_down=1"])
    cpu = Extractor.from_pretrained("rekd-fast", device="cpu", config=config)(image, mask)
    with pretended_gpu(kind):
        extractor = Extractor.from_pretrained("rekd-fast", config=config)
        assert extractor.device.type == kind
        features = extractor(image, mask)
        matches = match(features.to(kind), features.to(kind))
    assert len(cpu) > 10
    assert len(features) == len(cpu)
    torch.testing.assert_close(features.keypoints.xy, cpu.keypoints.xy, atol=1e-3, rtol=0)
    torch.testing.assert_close(features.descriptors, cpu.descriptors, atol=1e-2, rtol=0)
    assert len(matches) == len(cpu)


def test_a_pretended_device_without_float64_refuses_it():
    with pretended_gpu("mps"):
        there = torch.ones(2, device="mps")
        assert there.device.type == "mps"
        for spoil in (there.double, lambda: torch.zeros(1, dtype=torch.float64).to("mps")):
            with pytest.raises(TypeError, match="float64"):
                spoil()
