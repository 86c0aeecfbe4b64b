import importlib

import pytest

from rekd_hloc import plugin
from rekd_hloc.config import PRESETS
from rekd_hloc.plugin.confs import (
    BUDGETS,
    MAX_KEYPOINTS,
    extractor_confs,
    matcher_confs,
    orientation_filter,
)
from tests.hloc_home import KINDS, fresh_hloc


@pytest.fixture(params=KINDS)
def hloc(request):
    with fresh_hloc(request.param) as kind:
        yield kind


def load(name):
    return importlib.import_module(f"hloc.{name}")


def test_every_conf_names_a_class_that_exists(hloc):
    plugin.register()
    dynamic_load = load("utils.base_model").dynamic_load
    for package, confs in (("extractors", extractor_confs()), ("matchers", matcher_confs())):
        for conf in confs.values():
            assert dynamic_load(load(package), conf["model"]["name"])


def test_conf_names_and_files_follow_hlocs_manner():
    confs = extractor_confs()
    assert set(confs) == {
        name for p in PRESETS for name in (p, *(f"{p}-n{n}" for n in (1500, 2048, 4096, 8000)))
    }
    assert confs["rekd"] == confs["rekd-n2048"]
    assert confs["rekd"]["output"] == "feats-rekd-n2048-r1600"
    assert confs["rekd-paper"]["output"] == "feats-rekd-paper-n1500"
    assert "resize_max" not in confs["rekd-paper"]["preprocessing"]
    assert confs["rekd-fast-n8000"]["model"] == {
        "name": "rekd",
        "preset": "rekd-fast",
        "max_keypoints": 8000,
    }
    by_output = {}
    for conf in [*confs.values(), *matcher_confs().values()]:
        assert by_output.setdefault(conf["output"], conf) == conf
    for preset, config in PRESETS.items():
        if config.max_side_px:
            assert confs[preset]["preprocessing"]["resize_max"] == config.max_side_px
    assert max(BUDGETS) <= MAX_KEYPOINTS == 2**15 - 1


def test_each_call_gives_confs_of_its_own():
    extractor_confs()["rekd"]["model"]["max_keypoints"] = 1
    matcher_confs()["orientation-filter"]["model"]["matcher"]["name"] = "broken"
    assert extractor_confs()["rekd"]["model"]["max_keypoints"] == 2048
    inner = matcher_confs()["orientation-filter"]["model"]["matcher"]
    assert inner["name"] == "nearest_neighbor"


def test_the_wrappers_conf_holds_the_matchers():
    inner = {"name": "lightglue", "features": "disk"}
    conf = orientation_filter(inner, tolerance_deg=20.0)
    assert conf == {"name": "orientation_filter", "matcher": inner, "tolerance_deg": 20.0}
    conf["matcher"]["features"] = "other"
    assert inner["features"] == "disk"
