import importlib
import math
import sys
from dataclasses import replace
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

from rekd_hloc import plugin
from rekd_hloc.geometry import rotation_about, warp_points
from rekd_hloc.matching.adalam import match_adalam
from rekd_hloc.matching.match import MATCHERS
from rekd_hloc.plugin.confs import MAX_KEYPOINTS, matcher_confs, orientation_filter
from rekd_hloc.plugin.conversion import features_from_hloc, matches_from_hloc
from rekd_hloc.plugin.safe_matcher import SafeMatcher
from rekd_hloc.types import Matches
from tests.helpers import random_features
from tests.hloc_home import KINDS, fresh_hloc

NN = {"name": "nearest_neighbor", "do_mutual_check": True}
OURS = {name: conf["model"] for name, conf in matcher_confs().items()}
NUM_RIGHT, NUM_WRONG = 60, 25


@pytest.fixture(params=KINDS)
def hloc(request):
    with fresh_hloc(request.param) as kind:
        plugin.register()
        yield kind


def build(conf):
    matchers = importlib.import_module("hloc.matchers")
    dynamic_load = importlib.import_module("hloc.utils.base_model").dynamic_load
    return dynamic_load(matchers, conf["name"])(conf).eval()


def side(features, number, *, oris=None):
    """What hloc hands to a matcher: float32, a batch of one, degrees."""
    keypoints = features.keypoints
    width, height = features.image_size
    if oris is None:
        oris = torch.rad2deg(keypoints.angle)
    data = {
        "keypoints": keypoints.xy,
        "descriptors": features.descriptors.T,
        "scores": keypoints.score,
        "scales": keypoints.scale,
        "oris": oris,
        "image": torch.empty(1, height, width),
    }
    return {f"{key}{number}": value[None] for key, value in data.items()}


def rotated_pair(rotation_deg=40.0):
    """Image 1 is image 0 rotated; the last keypoints match, but rotate by other angles."""
    a = random_features(NUM_RIGHT + NUM_WRONG, seed=3)
    noise = torch.randn(len(a), generator=torch.Generator().manual_seed(0))
    rotation = torch.full((len(a),), rotation_deg) + 2 * noise
    rotation[NUM_RIGHT:] += torch.linspace(60, 300, NUM_WRONG)
    oris = torch.rad2deg(a.keypoints.angle)
    return side(a, 0, oris=oris) | side(a, 1, oris=(oris + rotation) % 360)


@torch.no_grad()
def run(conf, data):
    prediction = build(conf)(dict(data))
    return prediction["matches0"], prediction["matching_scores0"]


def test_without_filter_ours_are_hlocs_mutual_neighbours(hloc):
    data = side(random_features(70, seed=1), 0) | side(random_features(55, seed=2), 1)
    expected, expected_scores = run(NN, data)
    got, scores = run({"name": "rekd", "filter": "none"}, data)
    assert 10 < (got >= 0).sum() < 55
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(scores[got >= 0], expected_scores[got >= 0])
    assert bool((scores[got < 0] == 0).all())


def test_the_ratio_is_hlocs(hloc):
    generator = torch.Generator().manual_seed(0)
    a = random_features(80, seed=1)
    noise = torch.randn(80, 128, generator=generator) * torch.linspace(0, 0.4, 80)[:, None]
    b = type(a)(
        a.keypoints, torch.nn.functional.normalize(a.descriptors + noise, dim=1), a.image_size
    )
    data = side(a, 0) | side(b, 1)
    expected, _ = run({**NN, "ratio_threshold": 0.8}, data)
    got, _ = run({**OURS["NN-rekd-ratio"], "filter": "none"}, data)
    assert 5 < (got >= 0).sum() < 75
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("rotation_deg", [40.0, 179.0, 355.0])
@pytest.mark.parametrize("filter_name", ["density", "paper"])
def test_matches_that_rotate_otherwise_are_removed(hloc, rotation_deg, filter_name):
    data = rotated_pair(rotation_deg)
    identity = torch.arange(NUM_RIGHT + NUM_WRONG)[None]
    torch.testing.assert_close(run(NN, data)[0], identity)
    for conf in ({"name": "rekd"}, orientation_filter(NN)):
        matches, scores = run({**conf, "filter": filter_name}, data)
        torch.testing.assert_close(matches[:, :NUM_RIGHT], identity[:, :NUM_RIGHT])
        assert (matches[:, NUM_RIGHT:] >= 0).sum() <= 6
        assert bool((scores[matches < 0] == 0).all())
        assert bool((scores[matches >= 0] > 0.99).all())


def test_the_wrapper_on_neighbours_equals_our_own_matcher(hloc):
    data = rotated_pair()
    torch.testing.assert_close(run(OURS["orientation-filter"], data), run(OURS["NN-rekd"], data))


def test_angles_below_zero_are_understood(hloc):
    data = rotated_pair()
    for key in ("oris0", "oris1"):
        data[key] = torch.where(data[key] > 180, data[key] - 360, data[key])
    torch.testing.assert_close(
        run(OURS["NN-rekd"], data)[0], run(OURS["NN-rekd"], rotated_pair())[0]
    )


def test_a_wider_tolerance_keeps_more(hloc):
    data = rotated_pair()
    narrow, wide = (
        run({**OURS["NN-rekd"], "tolerance_deg": width}, data)[0] for width in (10.0, 120.0)
    )
    assert (wide >= 0).sum() > (narrow >= 0).sum() >= NUM_RIGHT - 2


def test_the_wrapper_takes_a_whole_conf_and_nests(hloc):
    data = rotated_pair()
    whole = {"output": "any", "model": NN}
    nested = orientation_filter(orientation_filter(whole))
    torch.testing.assert_close(run(nested, data)[0], run(orientation_filter(NN), data)[0])


def test_without_filter_the_wrapper_only_catches_errors_and_needs_no_angles(hloc):
    data = {key: value for key, value in rotated_pair().items() if not key.startswith("oris")}
    safe = run(orientation_filter(NN, filter="none"), data)
    torch.testing.assert_close(safe, run(NN, data))
    assert (safe[0] >= 0).all()


def test_adalam_runs_on_any_kornia_and_leaves_no_trace(hloc):
    data = rotated_pair()
    matches, _ = run(OURS["adalam-rekd"], data)
    assert matches.shape == (1, NUM_RIGHT + NUM_WRONG)
    assert (matches[0, :NUM_RIGHT] == torch.arange(NUM_RIGHT)).sum() > NUM_RIGHT / 2
    helpers = sys.modules.get("kornia.utils.helpers")
    assert helpers is None or hasattr(helpers, "__file__")


def test_adalam_is_that_of_the_package(hloc):
    data = rotated_pair()
    matches, scores = run(OURS["adalam-rekd"], data)
    expected = match_adalam(features_from_hloc(data, 0), features_from_hloc(data, 1))
    assert matches_from_hloc({"matches0": matches}, len(matches[0])).index.tolist() == sorted(
        expected.index.tolist()
    )
    assert bool((scores[matches >= 0] > 0.99).all())


def test_adalam_is_no_filter_behind_another_matcher(hloc):
    with pytest.raises(ValueError, match="use density"):
        build(orientation_filter(NN, filter="adalam"))


def moved_pair(sigma_of_scale):
    """Image 1 is image 0 rotated by 40 degrees and twice as large; the last keypoints moved.

    Their rotations are right, so only neighbours tell them.
    """
    a = random_features(NUM_RIGHT + NUM_WRONG, seed=3)
    scale = sigma_of_scale * a.keypoints.scale
    oris = torch.rad2deg(a.keypoints.angle)
    xy = warp_points(rotation_about(math.radians(40), (320.0, 240.0), 2.0), a.keypoints.xy)
    xy[NUM_RIGHT:] = xy[NUM_RIGHT:].roll(7, dims=0)
    b = replace(a, keypoints=replace(a.keypoints, xy=xy, scale=2 * scale))
    a = replace(a, keypoints=replace(a.keypoints, scale=scale))
    return side(a, 0, oris=oris) | side(b, 1, oris=oris + 40)  # up to 400 degrees


@pytest.mark.parametrize("sigma_of_scale", [1.0, 1.6])
@pytest.mark.parametrize("name", ["NN-rekd-consensus", "consensus-filter"])
def test_consensus_reads_degrees_and_scales_of_any_features(hloc, name, sigma_of_scale):
    """SIFT's scales are sigmas: only their ratios, and they against distances, play a part."""
    matches, scores = run(OURS[name], moved_pair(sigma_of_scale))
    assert (matches[0, :NUM_RIGHT] == torch.arange(NUM_RIGHT)).sum() >= NUM_RIGHT - 2
    assert (matches[0, NUM_RIGHT:] >= 0).sum() <= 5
    assert bool((scores[matches >= 0] > 0.6).all())
    by_rotation, _ = run(OURS["NN-rekd"], moved_pair(sigma_of_scale))
    assert (by_rotation >= 0).all()


@pytest.mark.parametrize("name", ["NN-rekd-net", "network-filter"])
def test_the_network_that_ships_tells_right_from_wrong(hloc, name):
    matches, scores = run(OURS[name], moved_pair(1.0))
    right, wrong = matches[0, :NUM_RIGHT] >= 0, matches[0, NUM_RIGHT:] >= 0
    assert right.float().mean() > wrong.float().mean() + 0.5
    assert bool((scores[matches >= 0] > 0).all())


@pytest.mark.parametrize("name", ["consensus", "density"])
def test_a_filter_may_guide(hloc, name):
    """Keypoints that moved look more like some right ones than their true partners do."""
    data = moved_pair(1.0)
    noise = torch.randn(data["descriptors1"].shape, generator=torch.Generator().manual_seed(0))
    data["descriptors1"] = data["descriptors1"] + 0.03 * noise
    data["descriptors1"][..., NUM_RIGHT:] = data["descriptors0"][..., :NUM_WRONG]
    data["descriptors1"] = torch.nn.functional.normalize(data["descriptors1"], dim=1)
    conf = orientation_filter(NN, filter=name)
    (few, _), (more, scores) = run(conf, data), run({**conf, "guided": True}, data)
    right = torch.arange(NUM_WRONG)
    assert (few[0, :NUM_WRONG] == right).sum() == 0
    assert bool((more[few >= 0] == few[few >= 0]).all())
    assert bool((scores[more >= 0] > 0).all())
    if name == "consensus":
        assert (more[0, :NUM_WRONG] == right).sum() > 0.8 * NUM_WRONG
        ours, _ = run(OURS["NN-rekd-guided"], data)
        assert torch.equal(ours, more)


@pytest.mark.parametrize(
    "name",
    ["NN-rekd-consensus", "consensus-filter", "NN-rekd-net", "network-filter", "NN-rekd-guided"],
)
def test_filters_by_frames_need_scales_too(hloc, name, caplog):
    data = {key: value for key, value in rotated_pair().items() if key != "scales0"}
    assert_no_match(build(OURS[name])(data), NUM_RIGHT + NUM_WRONG)
    assert len(caplog.records) == 1
    assert "have no scales; extract with" in caplog.text


def test_a_matcher_that_is_added_to_the_package_runs_in_hloc(hloc, monkeypatch):
    class Backwards:
        provenance = {"made": "by hand"}
        needs = ("scales",)

        def __init__(self, config):
            self.config = config

        def __call__(self, a, b):
            index = torch.arange(len(a))
            return Matches(torch.stack([index, len(b) - 1 - index], dim=1), torch.ones(len(a)))

    monkeypatch.setitem(MATCHERS, "density", Backwards)
    data = rotated_pair()
    count = NUM_RIGHT + NUM_WRONG
    matches, _ = run({"name": "rekd"}, data)
    assert matches[0].tolist() == list(range(count))[::-1]
    without = {key: value for key, value in data.items() if not key.startswith("scales")}
    assert_no_match(build({"name": "rekd"})(without), count)


@pytest.mark.parametrize("option", [{"tolerance": 3.0}, {"ratio": 2.0}])
def test_a_wrong_option_is_refused_before_the_run(hloc, option):
    for conf in ({"name": "rekd"}, orientation_filter(NN)):
        with pytest.raises(ValueError, match=next(iter(option))):
            build({**conf, **option})


EMPTY, ONE = random_features(0), random_features(1)
SOME = random_features(20)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("first", "second"),
    [(EMPTY, SOME), (SOME, EMPTY), (EMPTY, EMPTY), (ONE, SOME), (SOME, ONE), (ONE, ONE)],
)
def test_too_few_keypoints_give_no_match_and_one_warning(hloc, name, first, second, caplog):
    model = build(OURS[name])
    for _ in range(3):
        prediction = model(side(first, 0) | side(second, 1))
        assert_no_match(prediction, len(first))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "fewer than 2 keypoints" in caplog.text
    assert "leave it out of the pairs" in caplog.text


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("keys", [("oris0",), ("oris1",), ("oris0", "oris1")])
def test_missing_orientations_give_no_match_and_one_warning(hloc, name, keys, caplog):
    data = {key: value for key, value in rotated_pair().items() if key not in keys}
    model = build(OURS[name])
    for _ in range(3):
        assert_no_match(model(dict(data)), NUM_RIGHT + NUM_WRONG)
    assert len(caplog.records) == 1
    assert "have no oris" in caplog.text
    assert "extract with" in caplog.text


def test_adalam_needs_scales_too(hloc, caplog):
    data = {key: value for key, value in rotated_pair().items() if key != "scales1"}
    assert_no_match(build(OURS["adalam-rekd"])(data), NUM_RIGHT + NUM_WRONG)
    assert "have no scales" in caplog.text
    assert (run(OURS["NN-rekd"], data)[0] >= 0).sum() >= NUM_RIGHT


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("descriptors0", lambda x: x * 3),
        ("descriptors1", lambda x: x.clone().fill_(float("nan"))),
        ("descriptors1", lambda x: x[:, :64]),
        ("oris0", lambda x: x[:, :-1]),
        ("oris1", lambda x: x * float("nan")),
        ("keypoints1", lambda x: x[:, :-1]),
    ],
)
def test_broken_features_never_raise(hloc, key, change, caplog):
    data = rotated_pair()
    data[key] = change(data[key])
    model = build(OURS["NN-rekd"])
    for _ in range(2):
        assert_no_match(model(dict(data)), data["keypoints0"].shape[1])
    assert len(caplog.records) == 1
    assert "Error: " in caplog.text


def put_matcher(monkeypatch, forward):
    """A matcher ``made_up`` among hloc's."""
    base = importlib.import_module("hloc.utils.base_model").BaseModel
    module = ModuleType("hloc.matchers.made_up")
    members = {
        "_init": lambda self, conf: None,
        "_forward": lambda self, data: forward(data),
        "__module__": module.__name__,
    }
    module.MadeUp = type("MadeUp", (base,), members)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return orientation_filter({"name": "made_up"})


def test_a_matcher_that_raises_is_caught(hloc, monkeypatch, caplog):
    def fail(data):
        raise RuntimeError(f"out of memory {len(caplog.records)}")

    model = build(put_matcher(monkeypatch, fail))
    for _ in range(3):
        assert_no_match(model(rotated_pair()), NUM_RIGHT + NUM_WRONG)
    assert len(caplog.records) == 1
    assert "made_up" in caplog.text
    assert "out of memory" in caplog.text


def test_an_prediction_of_another_length_is_not_used(hloc, monkeypatch, caplog):
    wrong = {"matches0": torch.zeros(1, 128, dtype=torch.int64)}
    model = build(put_matcher(monkeypatch, lambda data: wrong))
    assert_no_match(model(rotated_pair()), NUM_RIGHT + NUM_WRONG)
    assert "(1, 128)" in caplog.text


def test_a_matcher_that_changes_its_argument_does_no_harm(hloc, monkeypatch):
    def careless(data):
        count = data["keypoints0"].shape[1]
        for key in list(data):
            data[key] = None
        return {"matches0": torch.arange(count)[None]}

    prediction = build(put_matcher(monkeypatch, careless))(rotated_pair())
    assert (prediction["matches0"][0, :NUM_RIGHT] >= 0).all()
    assert (prediction["matches0"][0, NUM_RIGHT:] >= 0).sum() <= 6
    assert set(prediction) == {"matches0"}


def test_an_index_that_hloc_cannot_store_is_dropped_with_a_warning(caplog):
    safe_matcher = SafeMatcher("any", [])
    partner = torch.tensor([[MAX_KEYPOINTS, MAX_KEYPOINTS + 1, -1]])
    data = {"keypoints0": torch.zeros(1, 3, 2), "keypoints1": torch.zeros(1, 40_000, 2)}
    prediction = safe_matcher.run(lambda data: {"matches0": partner}, data)
    assert prediction["matches0"].tolist() == [[MAX_KEYPOINTS, -1, -1]]
    assert prediction["matches0"].short().tolist() == prediction["matches0"].tolist()
    assert str(MAX_KEYPOINTS) in caplog.text


def write_features(path, features, *, oris=True):
    with h5py.File(path, "a") as file:
        for name, item in features.items():
            group = file.create_group(name)
            group["keypoints"] = item.keypoints.xy.numpy().astype(np.float64)
            group["descriptors"] = item.descriptors.T.numpy().astype(np.float16)
            group["scales"] = item.keypoints.scale.numpy()
            group["image_size"] = np.array(item.image_size)
            if oris:
                group["oris"] = torch.rad2deg(item.keypoints.angle).numpy()


@pytest.mark.parametrize("oris", [True, False])
def test_hlocs_loop_ends_and_writes_a_row_for_each_keypoint(hloc, tmp_path, oris):
    features = {"d/a.jpg": SOME, "d/b.jpg": SOME, "none.jpg": EMPTY}
    write_features(tmp_path / "f.h5", features, oris=oris)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("d/a.jpg d/b.jpg\nd/a.jpg none.jpg\nnone.jpg d/b.jpg\n")
    match_features = importlib.import_module("hloc.match_features")
    conf = match_features.confs["NN-rekd"]
    out = match_features.main(conf, pairs, tmp_path / "f.h5", matches=tmp_path / "m.h5")
    with h5py.File(out) as file:
        rows = {key: file[key]["matches0"][()] for key in ("d-a.jpg/d-b.jpg", "d-a.jpg/none.jpg")}
        rows["none.jpg/d-b.jpg"] = file["none.jpg/d-b.jpg"]["matches0"][()]
    assert [len(row) for row in rows.values()] == [20, 20, 0]
    assert rows["d-a.jpg/none.jpg"].tolist() == [-1] * 20
    expected = list(range(20)) if oris else [-1] * 20
    assert rows["d-a.jpg/d-b.jpg"].tolist() == expected


def assert_no_match(prediction, count):
    assert prediction["matches0"].tolist() == [[-1] * count]
    assert prediction["matching_scores0"].tolist() == [[0.0] * count]
