import time

import pytest

from rekd_hloc.sfm.alignment import read_reference
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.report import (
    NUM_WEAKEST,
    Stopwatch,
    describe_errors,
    describe_models,
    describe_pairs,
    describe_run,
    peak_memory_mib,
)
from tests.synthetic_scene import make_scene


def test_stages_are_measured_even_when_they_fail():
    watch = Stopwatch()
    with watch.stage("a"):
        time.sleep(0.02)
    with pytest.raises(KeyError), watch.stage("b"):
        raise KeyError
    first = watch.seconds["a"]
    assert first >= 0.02
    with watch.stage("a"):
        time.sleep(0.01)
    assert watch.seconds["a"] >= first + 0.01
    assert list(watch.seconds) == ["a", "b"]


def test_pairs_are_summed_and_the_weakest_come_first():
    counts = {(f"{i}", f"{i + 1}"): (100 - i, 2 * i) for i in range(20)}
    record = describe_pairs(counts)
    assert record["num_pairs"] == 20
    assert record["num_verified"] == 19
    assert record["num_matches"] == sum(range(81, 101))
    assert record["num_inliers"] == 2 * sum(range(20))
    assert record["median_inliers"] == 19.0
    assert len(record["weakest"]) == NUM_WEAKEST
    assert record["weakest"][0] == {"images": ["0", "1"], "matches": 100, "inliers": 0}
    assert record["weakest"][1]["inliers"] == 2
    assert describe_pairs({})["weakest"] == []
    assert describe_pairs({})["median_matches"] == 0.0


def test_models_are_described_by_the_largest(tmp_path):
    scene = make_scene(tmp_path, num_images=4, num_points=20)
    model = pycolmap.Reconstruction(str(scene.reference))
    record = describe_models([model, model], [*scene.names, "missing"])
    assert record["num_registered"] == 4
    assert record["num_models"] == 2
    assert record["num_points3D"] == 20
    assert record["num_observations"] == 80
    assert record["mean_track_length"] == 4.0
    assert record["unregistered"] == ["missing"]
    assert record["models"] == [{"num_registered": 4, "num_points3D": 20}] * 2
    assert record["num_in_other_models"] == 0
    smaller = pycolmap.Reconstruction(str(scene.reference))
    smaller.deregister_frame(smaller.images[min(smaller.reg_image_ids())].frame_id)
    assert describe_models([smaller, model], scene.names)["num_in_other_models"] == 1
    nothing = describe_models([], ["a"])
    assert nothing["num_registered"] == nothing["num_points3D"] == nothing["num_models"] == 0
    assert nothing["unregistered"] == ["a"]
    errors = describe_errors([model], read_reference(scene.reference))
    assert errors["num_compared"] == 4
    assert errors["rotation_error_deg"]["max"] < 1e-5
    assert errors["center_error_rel"]["max"] < 1e-9
    two = dict(list(read_reference(scene.reference).items())[:2])
    failed = describe_errors([model], two)
    assert failed["rotation_error_deg"] is None
    assert "has 2 of them" in failed["alignment_failure"]


def test_weights_are_those_of_the_provenance():
    record = describe_run({"detector_weights": "abc", "config": "{}", "preset": "rekd"})
    assert record["weights"] == {"detector": "abc"}
    assert {"torch", "pycolmap", "rekd_hloc", "python"} <= set(record["versions"])


def test_peak_memory_grows_with_what_is_used():
    before = peak_memory_mib()
    block = bytearray(b"x" * (64 << 20))
    assert peak_memory_mib() >= before
    assert peak_memory_mib() > len(block) >> 20
