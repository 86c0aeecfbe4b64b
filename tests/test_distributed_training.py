import json
import os
import socket
import subprocess
import sys

import cv2
import pytest
import torch

from tests.helpers import ROOT, textured_image
from training.common.checkpoint import load_checkpoint
from training.common.distributed import (
    Process,
    any_process,
    average_over_processes,
    choose_process_device,
)
from training.pair_cache import draw_share
from training.pair_config import PairConfig
from training.pairs import ImageSet
from training.train_detector import main

SMOKE = ROOT / "configs" / "train_rekd_smoke.yaml"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(24):
        grey = textured_image(140, 150, seed=number)
        assert cv2.imwrite(str(folder / f"p{number}.png"), cv2.merge([grey, grey, grey]))
    return folder


def arguments(images, output):
    """Every step is logged, and every loss has a part in the gradient."""
    options = "batch_size=4 steps=3 validate_every=1 num_validation_pairs=1 orientation_focus=0.8 "
    options += "similarity_weight=500 peakiness_weight=500 tensorboard=false device=cpu"
    places = [f"images=[{images}]", f"output={output}"]
    return ["--quiet", "--config", str(SMOKE), *places, *options.split()]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_joint_batch(images, tmp_path):
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "training.train_detector"]
    runs = [
        subprocess.Popen(
            [*command, *arguments(images, tmp_path / "two")],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    try:
        assert main(arguments(images, tmp_path / "one")) == 0
        outputs = [run.communicate(timeout=300)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    assert [run.returncode for run in runs] == [0, 0], outputs
    one, two = log_lines(tmp_path / "one"), log_lines(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3]  # and only one process wrote
    for expected, got in zip(one, two, strict=True):
        for name in ("keypoint", "orientation", "similarity", "peakiness"):
            assert got[name] == pytest.approx(expected[name], rel=1e-4), (name, got["step"])
    expected, got = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    for part in ("backbone", "head"):
        assert got[part].keys() == expected[part].keys()
        for name, tensor in expected[part].items():
            assert torch.allclose(got[part][name], tensor, atol=2e-4), name


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_together_are_the_joint_batch(images, count):
    source = ImageSet(sorted(images.glob("*.png")), PairConfig(crop_px=64))
    joint = source.batch(0, 7, 6)
    shares = [
        draw_share(source, Process(rank, count, CPU), seed=0, step=7, batch_size=6)
        for rank in range(count)
    ]
    for name in ("image_a", "image_b", "b_from_a", "angle"):
        assert torch.equal(torch.cat([getattr(s, name) for s in shares]), getattr(joint, name))


def test_a_batch_that_cannot_be_shared_is_refused(images):
    source = ImageSet(sorted(images.glob("*.png")), PairConfig(crop_px=64))
    with pytest.raises(ValueError, match="multiple of the 4 processes, got 6"):
        draw_share(source, Process(0, 4, CPU), seed=0, step=0, batch_size=6)


def test_one_process_agrees_with_itself():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    average = average_over_processes(values)
    assert torch.equal(average, values)
    assert not average.requires_grad
    assert any_process(True, CPU)
    assert not any_process(False, CPU)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    assert choose_process_device("cpu", 1) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_process_device("auto", 0) == CPU
    with pytest.raises(ValueError, match="'cuda' asked for, but torch sees no CUDA"):
        choose_process_device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_process_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="no device 'tpu9'"):
        choose_process_device("tpu9", 0)
    with pytest.raises(ValueError, match="GPU number 2, torch sees 2"):
        choose_process_device("auto", 2)
