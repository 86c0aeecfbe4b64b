"""What the tests of stored features and matches share."""

import os

import h5py
import numpy as np
import pytest
import torch

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.journal import Record
from rekd_hloc.types import Features, Matches
from tests.helpers import random_features

MADE_WITH = {"config": '{"detector": {"border_px": 15, "max": 100}}', "weights": "abc"}


NAMES = ["a.jpg", "sub/a.jpg", "other/a.jpg", "with space.png", "über/straße 日本.jpg"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Tests survive no power cut, and a busy disk takes a second for each call."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(found: Features, expected: Features, descriptor_atol: float = 0.0):
    a, b = found.keypoints, expected.keypoints
    for x, y in ((a.xy, b.xy), (a.scale, b.scale), (a.score, b.score)):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    turn = torch.remainder(a.angle - b.angle + torch.pi, 2 * torch.pi) - torch.pi
    assert turn.abs().max() < 2e-6 if len(b) else len(a) == 0
    assert ((a.angle >= 0) & (a.angle < 2 * torch.pi)).all()
    torch.testing.assert_close(
        found.descriptors, expected.descriptors, rtol=0, atol=descriptor_atol
    )
    assert found.image_size == expected.image_size


def random_matches(count, num_a=60, num_b=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randperm(num_a, generator=generator)[:count].sort().values
    b = torch.randperm(num_b, generator=generator)[:count]
    return Matches(torch.stack([a, b], dim=1), torch.rand(count, generator=generator) * 2 - 1)


def assert_same_matches(found: Matches, expected: Matches):
    assert found.index.tolist() == expected.index.tolist()
    torch.testing.assert_close(found.score, expected.score, rtol=0, atol=2e-7)


def interrupted(path):
    """What a kill leaves: the journal, and no file or the old one."""
    store = FeatureStore.resume(path, MADE_WITH)
    store.write("killed.jpg", random_features(4))
    store._file.release()


def small_record(number):
    rng = np.random.default_rng(number)
    arrays = {"keypoints": rng.random((number, 2)), "name": np.array([number])}
    return Record(f"sub/{number}.jpg", arrays, {"keypoints": {"uncertainty": 0.5}})


def write_group(path, name, **arrays):
    with h5py.File(path, "a") as file:
        group = file.create_group(name)
        for key, value in arrays.items():
            group.create_dataset(key, data=value)


def plain(count=3, **more):
    """Datasets of a detector without scale and angle, as float16, which is hloc's default."""
    rng = np.random.default_rng(0)
    return {
        "keypoints": rng.uniform(0, 90, (count, 2)).astype(np.float16),
        "descriptors": rng.normal(size=(256, count)).astype(np.float16),
        "image_size": np.array([100, 90]),
        **more,
    }
