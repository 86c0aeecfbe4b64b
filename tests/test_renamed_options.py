"""Files of version 0.1, whose configurations have other names of options."""

import json
from dataclasses import asdict, replace

import h5py
import pytest

from rekd_hloc.config import PRESETS, config_hash, config_tree
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.renamed_options import (
    MERGED,
    RENAMED,
    config_of_version_0_1,
    new_name,
    translate_config,
)
from rekd_hloc.sfm.database import stored_patch_size_px
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.hdf5 import Hdf5File
from rekd_hloc.storage.journal import Record
from rekd_hloc.storage.provenance import stored_config
from tests.helpers import random_features

# what version 0.1 stored as "config" and "config_hash"
STORED = {
    "rekd": (
        '{"descriptor": {"antialias": true, "batch_size": 0, "oriented": true, "support": 64.0, '
        '"weights": "default"}, "detector": {"autocast": false, "border_px": 15, '
        '"duplicate_radius_px": 0.8, "factor": 1.4142135623730951, "fill_budget": true, '
        '"levels_down": 5, "levels_up": 2, "max_keypoints": 2048, "min_relief": 0.001, '
        '"nms_window_px": 9, "normalise_by_max": false, "orientation_level": "own", '
        '"orientation_peak": "circular", "orientation_read": "bilinear", '
        '"orientation_shift_px": 0.0, "pyramid": "area", "score_threshold": 0.0, '
        '"subpixel": true, "tile_rows": -1}, "max_side_px": 1600, "weights": "rekd"}',
        "2d4d108a7957",
    ),
    "rekd-paper": (
        '{"descriptor": {"antialias": false, "batch_size": 0, "oriented": false, '
        '"support": 64.0, "weights": "default"}, "detector": {"autocast": false, '
        '"border_px": 15, "duplicate_radius_px": 0.0, "factor": 1.4142135623730951, '
        '"fill_budget": false, "levels_down": 5, "levels_up": 2, "max_keypoints": 1500, '
        '"min_relief": 0.0, "nms_window_px": 15, "normalise_by_max": true, '
        '"orientation_level": "original", "orientation_peak": "argmax", '
        '"orientation_read": "nearest", "orientation_shift_px": -1.0, "pyramid": "paper", '
        '"score_threshold": 0.0, "subpixel": false, "tile_rows": -1}, "max_side_px": 0, '
        '"weights": "rekd-c36"}',
        "02591488f1bb",
    ),
}


def provenance_then(preset):
    config, digest = STORED[preset]
    return {"preset": preset, "config": config, "config_hash": digest, "masks": "none"}


def unranked(preset):
    """Today's preset without the ranking that version 0.1 did not have."""
    return replace(PRESETS[preset], ranking="none")


def provenance_now(preset):
    config = unranked(preset)
    text = json.dumps(config_tree(config), sort_keys=True)
    return {
        "preset": preset, "config": text, "config_hash": config_hash(config), "masks": "none",
    }  # fmt: skip


def write_then(path, preset, names=("a.jpg",)):
    """A file as version 0.1 wrote it."""
    with FeatureStore.resume(path, {"config": "other"}) as store:
        for name in names:
            store.write(name, random_features(20))
    with h5py.File(path, "r+") as file:
        for key in list(file.attrs):
            del file.attrs[key]
        file.attrs.update(provenance_then(preset))


@pytest.mark.parametrize("preset", STORED)
def test_a_stored_configuration_is_todays_preset(preset):
    assert translate_config(json.loads(STORED[preset][0])) == config_tree(unranked(preset))
    today = config_tree(unranked(preset))
    assert translate_config(today) == today
    assert config_of_version_0_1(today) == json.loads(STORED[preset][0])


def test_a_mixture_that_no_protocol_stands_for_stays_as_it_is():
    stored = json.loads(STORED["rekd"][0])
    stored["detector"]["orientation_peak"] = "argmax"
    translated = translate_config(stored)
    assert translated["detector"]["orientation_peak"] == "argmax"
    assert "protocol" not in translated["detector"]
    assert "min_prominence" in translated["detector"]


def test_every_old_name_has_a_new_one_that_exists():
    sections = [asdict(PRESETS["rekd"])[name] for name in ("detector", "descriptor")]
    for option in (*RENAMED, *MERGED):
        assert not any(option in section for section in sections)
        assert any(new_name(option) in section for section in sections)
    assert new_name("border_px") is None


@pytest.mark.parametrize("preset", STORED)
def test_a_file_is_read_and_gone_on_with(tmp_path, preset):
    path = tmp_path / "features.h5"
    write_then(path, preset)
    with FeatureStore(path) as store:
        assert len(store.read("a.jpg")) == 20
        assert stored_patch_size_px(store) == 64.0
        assert stored_config(store.provenance) == config_tree(unranked(preset))
    with FeatureStore.resume(path, provenance_now(preset)) as store:
        assert "a.jpg" in store
        store.write("b.jpg", random_features(20))
    with FeatureStore(path) as store:
        assert store.names() == ["a.jpg", "b.jpg"]
        assert store.provenance == provenance_then(preset)
    other = "rekd-paper" if preset == "rekd" else "rekd"
    with pytest.raises(ValueError, match=r"descriptor\.antialias \w+ in features\.h5"):
        FeatureStore.resume(path, provenance_now(other))


def test_a_killed_run_is_gone_on_with(tmp_path):
    path = tmp_path / "features.h5"
    file = Hdf5File.resume(path, provenance_then("rekd"))
    file.append(Record("a.jpg", {"keypoints": random_features(3).keypoints.xy.numpy()}))
    file.release()
    with FeatureStore.resume(path, provenance_now("rekd")) as store:
        assert "a.jpg" in store


def test_matches_of_the_file_are_gone_on_with(tmp_path):
    features, out = tmp_path / "features.h5", tmp_path / "matches.h5"
    write_then(features, "rekd", ("a.jpg", "b.jpg", "c.jpg"))
    match_images(features, out, [("a.jpg", "b.jpg")])
    with FeatureStore.resume(features, provenance_now("rekd")) as store:
        store.write("d.jpg", random_features(20))
    summary = match_images(features, out, [("a.jpg", "b.jpg"), ("a.jpg", "d.jpg")])
    assert summary.num_resumed == 1
    with MatchStore(out) as store:
        assert len(store.pairs()) == 2
