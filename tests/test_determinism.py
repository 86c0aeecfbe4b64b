"""The same photo gives the same features, whatever the machine's threads and instructions."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.weights import load_network, resolve_weights
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore

MOST_PX, LARGEST_PX = 1e-4, 1e-3
PROGRAM = """
import sys
from pathlib import Path
from rekd_hloc import Extractor
from rekd_hloc.sfm.extraction import extract_images
extractor = Extractor.from_pretrained(sys.argv[3], device="cpu")
extract_images(extractor, Path(sys.argv[1]), Path(sys.argv[2]))
"""
OLD_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["rekd-fast", "rekd"])
def test_threads_change_nothing_and_instruction_sets_next_to_nothing(tmp_path, preset):
    images = photos(tmp_path)
    runs = {
        "again": {"OMP_NUM_THREADS": "1"},
        "two threads": {"OMP_NUM_THREADS": "2"},
        "old instructions": {"OMP_NUM_THREADS": "1", **OLD_INSTRUCTIONS},
    }
    first = features(images, tmp_path / "first.h5", preset, {"OMP_NUM_THREADS": "1"})
    for name, environment in runs.items():
        other = features(images, tmp_path / f"{name}.h5", preset, environment)
        for image in first:
            report = compare(first[image], other[image])
            if name != "old instructions":
                assert report == {"only in one": 0, "px": 0.0, "px 99 %": 0.0, "descriptor": 0.0}
            assert report["only in one"] <= 0.005 * len(first[image])
            assert report["px 99 %"] <= MOST_PX
            assert report["px"] <= LARGEST_PX


@pytest.mark.parametrize("size", [(339, 452), (480, 640)])
@pytest.mark.parametrize("name", ["rekd-fast", "rekd"])
def test_maps_are_the_same_for_any_number_of_threads(name, size):
    network = load_network(resolve_weights(name), device=torch.device("cpu"))
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    before, maps = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                score, logits = network.level_maps(image)
            maps.append([score, *logits])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*maps, strict=True))


@pytest.mark.slow
def test_photos_on_several_threads_are_as_one_after_the_other(tmp_path):
    images = photos(tmp_path)
    extractor = Extractor.from_pretrained("rekd-fast", device="cpu")
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            out = tmp_path / f"{count}.h5"
            extract_images(extractor, images, out)
            with FeatureStore(out) as store:
                found.append({name: store.read(name) for name in store.names()})
    finally:
        torch.set_num_threads(before)
    for name in found[0]:
        report = compare(found[0][name], found[1][name])
        assert report == {"only in one": 0, "px": 0.0, "px 99 %": 0.0, "descriptor": 0.0}


def photos(tmp_path):
    """Two real photos of the demo, at a quarter of their area."""
    from rekd_hloc.demo import DEMO_IMAGES
    from rekd_hloc.images import read_color, write_image

    folder = tmp_path / "photos"
    for number, path in enumerate(sorted(DEMO_IMAGES.glob("*.jpg"))[:2]):
        write_image(folder / f"{number}.png", read_color(path)[::2, ::2].copy())
    return folder


def features(images, out, preset, environment):
    command = [sys.executable, "-c", PROGRAM, str(images), str(out), preset]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    with FeatureStore(out) as store:
        return {name: store.read(name) for name in store.names()}


def compare(a, b):
    """How far the keypoints of two extractions are apart, each from the nearest of the other."""
    xy_a, xy_b = (f.keypoints.xy.double().numpy() for f in (a, b))
    distance = np.linalg.norm(xy_a[:, None] - xy_b[None], axis=2)
    nearest = distance.argmin(axis=1)
    is_same = distance.min(axis=1) < 0.1
    rows = np.nonzero(is_same)[0]
    difference = (a.descriptors[rows] - b.descriptors[nearest[rows]]).abs()
    return {
        "only in one": int((~is_same).sum()) + abs(len(a) - len(b)),
        "px": float(distance.min(axis=1)[is_same].max()),
        "px 99 %": float(np.quantile(distance.min(axis=1)[is_same], 0.99)),
        "descriptor": float(difference.amax(dim=1).quantile(0.5)),
    }
