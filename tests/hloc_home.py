"""Fixtures that let one test run against the stand-in of hloc and against the real one."""

import contextlib
import importlib.util
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import kornia.feature
import pytest
import torch

from rekd_hloc import weight_files
from rekd_hloc.config import NetworkConfig
from rekd_hloc.features import weights
from rekd_hloc.features.descriptor import hardnet
from rekd_hloc.features.detector.network import build_frozen
from rekd_hloc.matching.match_network import MatchJudge, MatchNetwork, save_match_network
from rekd_hloc.plugin.import_hook import ImportHook

DOUBLE = str(Path(__file__).parent / "hloc_double")
REAL_MARKS = [
    pytest.mark.hloc,
    # hloc asks its data loaders for pinned memory and five workers wherever it runs
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]
KINDS = ["double", pytest.param("real", marks=REAL_MARKS)]


@contextlib.contextmanager
def fresh_hloc(kind):
    """No module of hloc is loaded and no hook is in place; afterwards all is as it was."""
    saved_path, saved_finders = list(sys.path), list(sys.meta_path)
    saved = {name: sys.modules.pop(name) for name in _loaded()}
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, ImportHook)]
    sys.path[:] = ([DOUBLE] if kind == "double" else []) + [p for p in sys.path if p != DOUBLE]
    importlib.invalidate_caches()
    try:
        if importlib.util.find_spec("hloc") is None:
            pytest.skip("hloc is not importable: pip install --no-deps a clone of its repository")
        yield kind
    finally:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(saved)
        sys.path[:], sys.meta_path[:] = saved_path, saved_finders


def write_random_weights(folder, *, seed=0):
    """Shipped names with a small untrained network behind each."""
    torch.manual_seed(seed)
    config = NetworkConfig(group_order=4, fields=(1, 1, 1))
    network = build_frozen(config)
    torch.nn.init.constant_(network.score_head.bias, 0.5)
    metadata = {"format": weights.DETECTOR_FORMAT, "network": json.dumps(asdict(config))}
    for name in ("rekd", "rekd-fast", "rekd-c36"):
        weight_files.write_weights(folder / f"{name}.safetensors", network.state_dict(), metadata)
    descriptor = kornia.feature.HardNet(pretrained=False)
    for name in ("hardnet", "hardnet-half"):
        hardnet.save_descriptor(folder / f"{name}.safetensors", descriptor, {})
    ranking = "ranking-linear.safetensors"
    shutil.copy(weight_files.PRETRAINED / ranking, folder / ranking)
    judge = MatchJudge(MatchNetwork(width=8, edge_width=8, num_heads=2, num_layers=2), 0.0)
    save_match_network(folder / "match-network.safetensors", judge, {})


@contextlib.contextmanager
def random_weights(folder):
    """The presets find the weights of :func:`write_random_weights` for a while."""
    before = weight_files.PRETRAINED
    weight_files.PRETRAINED = folder
    try:
        yield folder
    finally:
        weight_files.PRETRAINED = before


def _loaded():
    return [name for name in sys.modules if name == "hloc" or name.startswith("hloc.")]
