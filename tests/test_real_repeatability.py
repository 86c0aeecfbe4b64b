"""How often a detector finds points again in real photos, on a wall whose cameras are known."""

import json
import math

import pytest
import torch

from rekd_hloc.types import Keypoints
from tests.test_scene_geometry import keypoints_at, some_places, through_the_wall
from tests.wall_scene import make_wall
from training import real_repeatability
from training.scenes.geometry import SceneGeometry
from training.scenes.real_pairs import RealPairs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_wall(tmp_path_factory.mktemp("wall"))


def measured(folders, turn_deg=0.0, factor=1.0, *, has_orientation=True):
    """The second photo has the keypoints of the first, some of them turned or scaled."""
    pairs = RealPairs(SceneGeometry.read(folders[0] / "sparse" / "0", folders[1]), [(0, 1)])
    xy = some_places(60)
    lifted = pairs.lift({0: keypoints_at(xy), 1: keypoints_at(through_the_wall(0, 1, xy))})
    truth = pairs.truth(lifted, (0, 1))
    carried = truth.a_in_b
    half = torch.arange(len(xy)) % 2
    others = Keypoints(
        truth.b.xy,
        carried.scale * factor**half,
        carried.angle + math.radians(turn_deg) * half,
        truth.b.score,
    )
    truth = pairs.truth(lifted | pairs.lift({1: others}), (0, 1))
    return real_repeatability.measure(truth, 60, has_orientation=has_orientation)


def test_points_found_again_with_their_angles_and_scales(folders):
    found = measured(folders, turn_deg=14, factor=1.4)
    assert found.repeatability == pytest.approx(1, abs=0.03)
    assert (found.right_angles, found.right_scales) == (1, 1)


def test_wrong_angles_and_scales_are_counted(folders):
    found = measured(folders, turn_deg=16, factor=1.45)
    assert found.repeatability == pytest.approx(1, abs=0.03)
    assert found.right_angles == pytest.approx(0.5, abs=0.1)
    assert found.right_scales == pytest.approx(0.5, abs=0.1)
    assert math.isnan(measured(folders, has_orientation=False).right_angles)


def test_methods_stand_in_one_table(folders, tmp_path, capsys):
    options = ["--model", str(folders[0] / "sparse" / "0"), "--images", str(folders[1])]
    options += ["--method", "sift", "--method", "orb", "--num-keypoints", "200"]
    assert real_repeatability.main([*options, "--max-pairs", "2", "--out", str(tmp_path)]) == 0
    assert "| orb |" in capsys.readouterr().out
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    of_sift = next(iter(methods["sift"]["scenes"].values()))
    assert of_sift["repeatability"] > 0.3
    assert of_sift["right_angles"] > 0.5


def test_models_and_photos_come_in_pairs(folders, tmp_path, caplog):
    model = str(folders[0] / "sparse" / "0")
    options = ["--model", model, "--model", model, "--images", str(folders[1])]
    assert real_repeatability.main([*options, "--method", "sift", "--out", str(tmp_path)]) == 2
    assert "must be as many, got 2 and 1" in caplog.text
