"""What the interactive part of a report page shows, and that it works in a real browser."""

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.config import MatchConfig
from rekd_hloc.geometry import TWO_PI
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches
from rekd_hloc.viz.explorer import dropped_matches, keypoint_choice, pair_matches, photos, scene
from rekd_hloc.viz.explorer.frame import PageFrame
from rekd_hloc.viz.explorer.packing import NO_POINT, contract, encode_record, pack, pack_share
from rekd_hloc.viz.page import write_html_report
from rekd_hloc.viz.run_files import RunFiles, read_model
from tests.helpers import textured_image
from tests.synthetic_scene import SIZE, make_scene

ODD = "a<b>&\"'.jpg"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reconstruction of five images, the photo of one of which is missing."""
    folder = tmp_path_factory.mktemp("run")
    made = make_scene(folder, num_images=5, num_points=120)
    (folder / "images").mkdir()
    for seed, name in enumerate(made.names[:-1]):
        done, data = cv2.imencode(".jpg", textured_image(SIZE[1], SIZE[0], seed))
        assert done
        (folder / "images" / name).write_bytes(data.tobytes())
    reconstruct_from_files(made.features, made.matches, None, folder / "images", folder / "out")
    return folder


@pytest.fixture(scope="module")
def record(run):
    return scene.describe_scene(RunFiles.read(run / "out", run / "images"), None)


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed["data"]), f"<{packed['kind']}").astype(np.int64)


def test_numbers_survive_packing():
    assert unpack(pack(np.array([0, 300, -5, np.nan]), "u1")).tolist() == [0, 255, 0, 0]
    assert unpack(pack(np.array([NO_POINT]), "u4")).tolist() == [NO_POINT]
    assert unpack(pack_share(np.array([0, 0.5, 1, 2]), "u2")).tolist() == [0, 32768, 65535, 65535]


def test_near_coordinates_keep_their_detail_and_far_ones_their_order():
    near = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(contract(near), 0.5 + near / 4)
    far = contract(np.array([-1e9, -3.0, 3.0, 50.0, 1e9]))
    assert (np.diff(far) > 0).all()
    assert far[0] >= 0
    assert far[-1] <= 1


def test_no_name_closes_the_script_of_the_record():
    names = ["</script><img src=x onerror=alert(1)>", "<!--", ODD, "caf\udce9.jpg"]
    text = encode_record({"names": names})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"names": names}


def test_images_have_the_figures_of_the_model(run, record):
    model = read_model(run / "out", None).model
    report = json.loads((run / "out" / "report.json").read_text())
    assert sum(image["observations"] for image in record["images"]) == report["num_observations"]
    errors = [image["error"] * image["observations"] for image in record["images"]]
    mean = sum(errors) / report["num_observations"]
    assert mean == pytest.approx(report["mean_reprojection_error_px"], abs=1e-3)
    assert sum(record["tracks"]) == record["points"]["total"] == model.num_points3D()
    assert [image["photo"] is None for image in record["images"]] == [False] * 4 + [True]
    assert all(image["size"] == SIZE for image in record["images"])


def test_keypoints_belong_to_their_points(run, record):
    model = read_model(run / "out", None).model
    lengths = unpack(record["points"]["length"])
    row = unpack(record["keypoints"]["row"])
    used = row[row != NO_POINT]
    assert np.bincount(used, minlength=len(lengths)).tolist() == lengths.tolist()
    first = record["images"][0]
    xy = unpack(record["keypoints"]["xy"]).reshape(-1, 2)[: first["shown"]] / 65535 * SIZE
    seen = [p.xy for p in model.find_image_with_name(first["name"]).points2D if p.has_point3D()]
    np.testing.assert_allclose(xy[row[: first["shown"]] != NO_POINT], seen, atol=0.02)


def test_pairs_have_counts_matches_and_rotations(record):
    pairs = record["pairs"]
    matches, inliers = unpack(pairs["matches"]), unpack(pairs["inliers"])
    assert (np.diff(inliers) <= 0).all()
    assert unpack(pairs["drawn"]).tolist() == matches.tolist()
    assert unpack(pairs["inlier"]).sum() == inliers.sum()
    histogram = unpack(pairs["histogram"]).reshape(len(matches), pairs["kinds"], pairs["bins"])
    counts = np.round(histogram / 255 * unpack(pairs["highest"])[:, None, None])
    np.testing.assert_allclose(counts.sum((1, 2)), matches, atol=2)
    assert set(unpack(pairs["dropped"])) == {pair_matches.NOT_COUNTED}  # another matcher's
    assert record["filter"] == {"name": "", "tolerance": None, "drops": False}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """A run of our matcher: in each pair but one 40 matches agree on a rotation, 15 do not.

    The features of that one are others than those that were matched.
    """
    folder = tmp_path_factory.mktemp("filtered")
    rng = np.random.default_rng(3)
    rows = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(55, 64))), dim=1).float()
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    features = {name: _turned(rows, turn, rng) for name, turn in zip(names, range(4), strict=True)}
    with FeatureStore.resume(folder / "features.h5", {"method": "synthetic"}) as store:
        for name in names:
            store.write(name, features[name])
    config = MatchConfig(ratio=0.95)
    pairs = [("a.jpg", "b.jpg"), ("a.jpg", "c.jpg"), ("c.jpg", "d.jpg")]
    match_images(folder / "features.h5", folder / "matches.h5", pairs, config)
    with FeatureStore(folder / "features.h5") as store, MatchStore(folder / "matches.h5") as kept:
        export_database(folder / "database.db", None, store, kept, pairs)
    with FeatureStore.resume(folder / "features.h5", {"method": "synthetic"}) as store:
        store.write("d.jpg", features["d.jpg"][torch.arange(54, -1, -1)])
    report = {"configuration": {"matching": asdict(config)}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder, features


def _turned(descriptors, turn, rng):
    """The same keypoints in an image rotated by ``turn`` radians, 15 of them by any angle."""
    angle = torch.tensor([*(1 + turn + rng.normal(0, 0.02, 40)), *rng.uniform(0, 6.28, 15)])
    ones = torch.ones(55)
    xy = torch.tensor(rng.uniform(10, 90, (55, 2))).float()
    return Features(Keypoints(xy, ones, angle.float() % TWO_PI, ones), descriptors, (100, 100))


def dropped_of(folder):
    record = scene.describe_scene(RunFiles.read(folder, folder), None)
    pairs = record["pairs"]
    count = len(unpack(pairs["matches"]))
    histogram = unpack(pairs["histogram"]).reshape(count, pairs["kinds"], pairs["bins"])
    names = [image["name"][0] for image in record["images"]]
    sides = zip(unpack(pairs["a"]), unpack(pairs["b"]), strict=True)
    found = {names[a] + names[b]: row for row, (a, b) in enumerate(sides)}
    return record, {name: unpack(pairs["dropped"])[row] for name, row in found.items()}, {
        name: histogram[row] / 255 * unpack(pairs["highest"])[row] for name, row in found.items()
    }  # fmt: skip


def test_the_histogram_has_what_the_filter_dropped(filtered):
    folder, features = filtered
    record, dropped, histogram = dropped_of(folder)
    assert record["filter"]["drops"]
    with MatchStore(folder / "matches.h5") as store:
        for pair in (("a.jpg", "b.jpg"), ("a.jpg", "c.jpg")):
            key = pair[0][0] + pair[1][0]
            assert 5 < dropped[key] == 55 - len(store.read(*pair)) <= 15
            gone = np.setdiff1d(np.arange(55), store.read(*pair).index[:, 0].numpy())
            a, b = (features[name].keypoints.angle[gone] for name in pair)
            bins = ((b - a).double() % TWO_PI / TWO_PI * 36).long().numpy()
            np.testing.assert_allclose(histogram[key][2], np.bincount(bins, minlength=36), atol=0.6)
    assert dropped["cd"] == pair_matches.NOT_COUNTED
    assert not histogram["cd"][2].any()


def test_matches_that_others_led_to_hide_nothing(filtered):
    folder, _ = filtered
    pair = ("a.jpg", "b.jpg")
    with (
        FeatureStore(folder / "features.h5") as features,
        MatchStore(folder / "matches.h5") as store,
    ):
        left = store.read(*pair)
        free = np.setdiff1d(np.arange(55), left.index[:, 0].numpy())
        added = torch.from_numpy(np.stack([free, np.roll(free, 1)], axis=1))
        more = Matches(torch.cat([left.index, added]), torch.ones(len(left) + len(added)))
        of_guided = dropped_matches.DroppedMatches(
            features, 1.0, dropped_matches.LEAST_KNOWN_GUIDED
        )
        expected = of_guided.rotations(pair, left)
        np.testing.assert_array_equal(of_guided.rotations(pair, more), expected)
        assert dropped_matches.DroppedMatches(features, 1.0).rotations(pair, more) is None


def test_the_search_for_what_was_dropped_has_a_budget(filtered, monkeypatch):
    monkeypatch.setattr(dropped_matches, "MAX_COMPARISONS", 55 * 55)
    _, dropped, _ = dropped_of(filtered[0])
    assert sorted(dropped.values())[1:] == [pair_matches.NOT_COUNTED] * 2


@pytest.mark.parametrize("matching", [{}, {"filter": "adalam", "ratio": 1.0}, {"filter": "paper"}])
def test_of_another_matcher_nothing_is_said_to_be_dropped(filtered, tmp_path, matching):
    folder = shutil.copytree(filtered[0], tmp_path / "run")
    (folder / "report.json").write_text(json.dumps({"configuration": {"matching": matching}}))
    record, dropped, _ = dropped_of(folder)
    assert not record["filter"]["drops"]
    assert set(dropped.values()) == {pair_matches.NOT_COUNTED}


def test_what_is_too_much_is_thinned_evenly(run, monkeypatch):
    monkeypatch.setattr(scene, "MAX_POINTS", 60)
    monkeypatch.setattr(keypoint_choice, "ALL_KEYPOINTS", 100)
    monkeypatch.setattr(scene, "ALL_KEYPOINTS", 100)
    monkeypatch.setattr(pair_matches, "ALL_MATCHES", 200)
    monkeypatch.setattr(pair_matches, "MAX_DRAWN_PAIRS", 4)
    monkeypatch.setattr(pair_matches, "MAX_FAILED", 0)
    record = scene.describe_scene(RunFiles.read(run / "out", run / "images"), None)
    lengths = unpack(record["points"]["length"])
    assert len(lengths) == 60 < record["points"]["total"]
    row = unpack(record["keypoints"]["row"])
    assert 80 <= len(row) <= 100
    used = row[row != NO_POINT]
    tracked = record["points"]["tracked"]
    assert np.bincount(used, minlength=60)[:tracked].tolist() == lengths[:tracked].tolist()
    assert record["pairs"]["numDrawn"] == 4
    drawn = unpack(record["pairs"]["drawn"])
    assert (drawn <= 50).all()
    share = unpack(record["pairs"]["inlier"]).mean()
    total = (
        unpack(record["pairs"]["inliers"])[:4].sum() / unpack(record["pairs"]["matches"])[:4].sum()
    )
    assert share == pytest.approx(total, abs=0.03)


def test_photos_fit_together(run, monkeypatch):
    names = RunFiles.read(run / "out", run / "images").names
    large = photos.shrink_photos(run / "images", names)
    monkeypatch.setattr(photos, "ALL_BYTES", 30_000)
    small = photos.shrink_photos(run / "images", [*names, "../secret.jpg"])
    assert small.keys() == large.keys() == set(names[:-1])
    assert sum(len(url) for url, _ in small.values()) < 4 / 3 * 30_000 + 200
    assert {size for _, size in small.values()} == {SIZE}


def test_cameras_stand_upright_in_the_frame():
    angle = np.linspace(0, 5, 7)
    tilt = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    poses = {}
    for k, turn in enumerate(angle):
        ahead = np.array([np.cos(turn), np.sin(turn), 0.0])
        right = np.cross(ahead, [0, 0, 1.0])
        rotation = np.stack([right, np.cross(ahead, right), ahead])
        roll = np.radians(20 if k == 0 else 0)
        lean = np.array(
            [[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
        )
        poses[str(k)] = Pose(lean @ rotation @ tilt.T, tilt @ (-3 * ahead))
    frame = PageFrame.choose(np.zeros((0, 3)), poses)
    assert abs(frame.roll_deg(poses["0"])) == pytest.approx(20, abs=4)
    assert abs(frame.roll_deg(poses["3"])) < 4
    heights = [frame.apply(pose.centre[None])[0, 2] for pose in poses.values()]
    assert np.ptp(heights) < 0.2


def browse(page, tmp_path, *options):
    """The document after the page's scripts, and what they complained of."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
    command += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += ["--virtual-time-budget=60000", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    complaints = re.findall(r".*CONSOLE.*", done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace"), complaints


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_works_in_a_browser(run, tmp_path, width):
    out = shutil.copytree(run / "out", tmp_path / "out")
    page = write_html_report(out, run / "images", title=ODD)
    name = RunFiles.read(out, run / "images").names[0]
    text = page.read_text(encoding="utf-8").replace(f'"{name}"', encode_record({"": ODD})[4:-1])
    page.write_text(text, encoding="utf-8")
    document, complaints = browse(page, tmp_path, f"--window-size={width},900")
    assert complaints == []
    assert 'data-ready="yes"' in document
    assert 'data-view="webgl"' in document
    assert "a&lt;b&gt;&amp;\"'.jpg</button>" in document
    body = re.search(r'<div class="scroll" id="table">.*?</table>', document, re.DOTALL)[0]
    assert body.count("<tr") == 6
    assert "<b>&" not in document
    assert re.search(r"inliers of \d+ matches", document)
    assert re.search(r"Point with \d+ observations", document)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_reader_orbits_zooms_picks_and_sorts(run, tmp_path):
    out = shutil.copytree(run / "out", tmp_path / "out")
    page = write_html_report(out, run / "images", title="x")
    actions = Path(__file__).with_name("explorer_actions.js").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    script = f'<script type="module">{actions}</script></body>'
    page.write_text(text.replace("</body>", script), encoding="utf-8")
    document, complaints = browse(page, tmp_path, "--window-size=1400,900")
    assert complaints == []
    told = json.loads(html.unescape(re.search(r'data-told="([^"]*)"', document)[1]))
    assert told.pop("cameras") >= 3
    assert told.pop("spots") >= 5
    assert told == dict.fromkeys(told, True)
