"""Files of torch from strangers: nothing in them is run, and no message says how to run it."""

import collections
import os
import pickle

import pytest
import torch

from rekd_hloc.features.convert import convert_checkpoint
from rekd_hloc.features.descriptor.hardnet import load_hardnet
from rekd_hloc.features.tensor_files import load_tensors
from tests.helpers import ROOT
from training.common.checkpoint import load_checkpoint


class Program:
    """What is run where a file is unpickled without care."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def readers(path, folder):
    yield lambda: load_tensors(path, "a checkpoint")
    yield lambda: convert_checkpoint(path, folder / "out.safetensors")
    yield lambda: load_hardnet(str(path))
    yield lambda: load_checkpoint(path)


def save_plainly(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_plainly])
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"state_dict": {"a": p}}, lambda p: [p]])
def test_a_program_in_a_file_is_not_run(save, wrap, tmp_path):
    path, marker = tmp_path / "weights.pth", tmp_path / "marker"
    save(wrap(Program(marker)), path)
    for read in readers(path, tmp_path):
        with pytest.raises(ValueError, match=r"weights\.pth holds more than tensors") as error:
            read()
        text = str(error.value)
        assert "mkdir" in text
        assert "is not run" in text
        assert "weights_only" not in text
        assert len(text.splitlines()) == 1
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no archive", bytes(1000)])
def test_a_damaged_file_is_named(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    for read in readers(path, tmp_path):
        with pytest.raises(ValueError, match=r"weights\.pth is not a .*damaged") as error:
            read()
        assert "weights_only" not in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_classes_of_others_are_refused_and_plain_values_read(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(collections.UserDict(a=torch.ones(2)), path)
    with pytest.raises(ValueError, match="UserDict"):
        load_tensors(path, "a checkpoint")
    torch.save({"a": torch.ones(2), "step": 3}, path)
    assert load_tensors(path, "a checkpoint")["step"] == 3
    with pytest.raises(FileNotFoundError, match=r"no file .*other\.pth"):
        load_tensors(tmp_path / "other.pth", "a checkpoint")


def test_torch_reads_files_in_one_place():
    found = [
        path.name
        for package in ("rekd_hloc", "evaluation", "training", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if "torch.load(" in path.read_text(encoding="utf-8")
    ]
    assert found == ["tensor_files.py"]
