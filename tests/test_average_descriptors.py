"""The mean of descriptors, and what exported weights tell of the machine that made them."""

import json

import kornia
import pytest
import torch

from rekd_hloc.features.descriptor.hardnet import load_hardnet, read_hardnet, save_descriptor
from rekd_hloc.features.descriptor.support_hardnet import SupportHardNet, supports_of
from rekd_hloc.weight_files import read_weights, weights_hash
from training import descriptor_run
from training.average_descriptors import main


def write(path, seed, supports=(1.0,)):
    torch.manual_seed(seed)
    network = (
        kornia.feature.HardNet(pretrained=False)
        if len(supports) == 1
        else SupportHardNet(supports=supports)
    )
    network.features[1].running_mean.normal_()
    save_descriptor(path, network, {"identity": {"images": ["/home/me/photos"]}})
    return str(path)


@pytest.mark.parametrize("supports", [(1.0,), (1.0, 2.0)])
def test_each_tensor_is_the_mean(tmp_path, supports):
    names = [write(tmp_path / f"{seed}.safetensors", seed, supports) for seed in (0, 1, 2)]
    out = tmp_path / "mean.safetensors"
    assert main([*names, str(out)]) == 0
    mean, (a, b, c) = read_hardnet(str(out)), (read_hardnet(name) for name in names)
    for key in ("features.0.weight", "features.1.running_mean"):
        assert torch.allclose(mean[key], (a[key] + b[key] + c[key]) / 3, atol=1e-7)
    assert not torch.equal(mean["features.0.weight"], a["features.0.weight"])
    assert supports_of(load_hardnet(str(out))) == supports
    provenance = json.loads(read_weights(out)[1]["provenance"])
    assert provenance == {
        "mean_of": [weights_hash(tmp_path / f"{n}.safetensors") for n in range(3)]
    }


def test_what_cannot_be_averaged_is_named(tmp_path, caplog):
    one, two = (
        write(tmp_path / "1.safetensors", 0),
        write(tmp_path / "2.safetensors", 0, (1.0, 2.0)),
    )
    out = tmp_path / "mean.safetensors"
    assert main([one, str(out)]) == 2
    assert "two weights or more, got 1" in caplog.text
    assert main([one, two, str(out)]) == 2
    assert "other supports: (1.0,), (1.0, 2.0)" in caplog.text
    assert not out.exists()


def test_exported_weights_name_scenes_and_no_folders():
    identity = {
        "steps": 5,
        "validation_scenes": {"models": ["/home/me/out"], "images": ["/home/me/castle"]},
    }
    told = descriptor_run._with_names_of_folders(identity)
    assert told == {"steps": 5, "validation_scenes": {"images": ["castle"]}}
    assert descriptor_run._with_names_of_folders({"steps": 5}) == {"steps": 5}
