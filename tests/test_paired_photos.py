"""Tracks of photos that no model joins: by verified matches, and by aligning photos of one view."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import textured_image
from tests.wall_scene import NUM_POINTS, VIEWS, make_wall
from training.scenes.frame_errors import FrameErrors
from training.scenes.joined_tracks import make_joined_tracks
from training.scenes.matched_tracks import SceneConfig
from training.scenes.pair_maps import (
    HomographyMap,
    LocalMaps,
    align_photos,
    verify_matches,
)
from training.scenes.paired_photos import read_matched
from training.track_batches import SITE, TrackSet
from training.track_cache import generate_scene_tracks
from training.track_report import main
from training.tracks import TrackConfig

TRACKS = TrackConfig(patch_size_px=24.0, size_factors=(1.0,))


def keypoints_at(xy, scale=1.0, angle=0.0):
    count = len(xy)
    return Keypoints(
        torch.as_tensor(np.asarray(xy)).float(), torch.full((count,), scale),
        torch.full((count,), angle), torch.ones(count),
    )  # fmt: skip


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """A folder with features and right matches of all pairs, and the photos."""
    out, photos = make_wall(tmp_path_factory.mktemp("wall"))
    index = torch.arange(NUM_POINTS)[:, None].repeat(1, 2)
    with MatchStore.resume(out / "matches.h5", {"by": "test"}) as store:
        for a in range(len(VIEWS)):
            for b in range(a):
                matches = Matches(index, torch.ones(NUM_POINTS))
                store.write(f"v{b}.png", f"v{a}.png", matches, NUM_POINTS)
    return out, photos


def make(source, features, images, placed_share=0.0):
    return make_joined_tracks(
        features, source, images, TRACKS, np.random.default_rng(0),
        max_tracks=1000, placed_share=placed_share,
    )  # fmt: skip


def alike(a, b):
    return np.corrcoef(a.reshape(-1).astype(float), b.reshape(-1).astype(float))[0, 1]


def test_keypoints_are_joined_through_verified_matches(wall):
    tracks = make(wall[0], wall[0] / "features.h5", wall[1])[0]
    oriented = ~tracks.is_upright
    lengths = np.diff(tracks.start)[oriented]
    assert len(lengths) > 0.6 * NUM_POINTS
    assert (lengths >= len(VIEWS) - 1).mean() > 0.5
    same = [
        alike(tracks.patches[i], tracks.patches[j - 1])
        for i, j in zip(tracks.start[:-1], tracks.start[1:], strict=True)
    ]
    assert np.median(same) > 0.9
    # in pixels of the first photo, where scales are 1
    assert tracks.side == pytest.approx(np.full(len(tracks), 24.0))
    assert tracks.position[:, 0].max() > 200
    # the two photos that are rotated by 80 and 170 degrees give no upright patches
    assert np.diff(tracks.start)[~oriented].max() == 3


def test_rolls_are_added_up(wall):
    photos = read_matched(wall[0] / "features.h5", wall[0], wall[1])
    rolls = np.array(photos.rolls())
    expected = np.array([roll for roll, _ in VIEWS])
    assert np.abs((rolls - expected + math.pi) % (2 * math.pi) - math.pi).max() < 0.02


def test_each_photo_has_a_frame_and_all_one_site(wall, tmp_path):
    with (
        FeatureStore(wall[0] / "features.h5") as old,
        FeatureStore.resume(tmp_path / "features.h5", {"by": "test"}) as store,
    ):
        for number, name in enumerate(old.names()):
            features = old.read(name)
            rows = torch.arange(0 if number else NUM_POINTS // 2, NUM_POINTS)
            keypoints, descriptors = features.keypoints[rows], features.descriptors[rows]
            store.write(name, Features(keypoints, descriptors, features.image_size))
    scenes = SceneConfig(
        folders=(str(tmp_path),), images=(str(wall[1]),), models=(str(wall[0]),), placed_share=0.0
    )
    folders = generate_scene_tracks(tmp_path / "cache", scenes, TRACKS, seed=0, quiet=True)
    assert len(folders) == 2
    assert generate_scene_tracks(tmp_path / "cache", scenes, TRACKS, seed=0, quiet=True) == folders
    assert {(folder / SITE).read_text() for folder in folders} == {str(wall[1].resolve())}
    tracks = TrackSet(tmp_path / "none", folders)
    assert len(set(tracks.frame)) == 2
    assert len(set(tracks.site)) == 1


def test_matches_without_a_geometry_are_left_out():
    rng = np.random.default_rng(0)
    assert verify_matches(rng.uniform(0, 99, (10, 2)), rng.uniform(0, 99, (10, 2)), 99, 99) is None
    wrong = rng.uniform(0, 900, (60, 2)), rng.uniform(0, 900, (60, 2))
    assert verify_matches(*wrong, 900, 900) is None


def two_planes(count, seed=0):
    """Points of two walls that meet in an edge, and the places of both photos' pixels."""
    rng = np.random.default_rng(seed)
    xyz = np.column_stack([rng.uniform(-1, 1, (count, 2)), np.zeros(count)])
    xyz[:, 2] = 4 + 0.8 * np.abs(xyz[:, 0])
    shifted = xyz + [0.5, 0.02, 0.1]
    return tuple(p[:, :2] / p[:, 2:] * 800 + 400 for p in (xyz, shifted))


def test_a_scene_with_depth_has_local_maps():
    xy_a, xy_b = two_planes(400)
    forth, back = verify_matches(xy_a, xy_b, 800, 800)
    assert isinstance(forth, LocalMaps)
    other_a, other_b = two_planes(100, seed=1)
    for pair_map, of, to in ((forth, other_a, other_b), (back, other_b, other_a)):
        carried, is_seen = pair_map.carry(keypoints_at(of))
        error = np.linalg.norm(carried.xy.numpy() - to, axis=1)[is_seen]
        assert is_seen.mean() > 0.6
        assert np.median(error) < 0.3
        assert error.max() < 3
    far = forth.carry(keypoints_at([[-300.0, -300.0]]))[1]
    assert not far.any()


def test_local_maps_carry_scale_and_angle():
    rng = np.random.default_rng(0)
    turned = 1.5 * np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    xy = rng.uniform(0, 500, (300, 2))
    local = LocalMaps(xy, xy @ turned.T + 40, 50.0)
    carried, is_seen = local.carry(keypoints_at(xy[:20], scale=2.0, angle=0.3))
    assert is_seen.mean() > 0.7
    seen = torch.from_numpy(is_seen)
    assert carried.scale[seen].numpy() == pytest.approx(3.0, rel=1e-3)
    assert carried.angle[seen].numpy() == pytest.approx(1.0, abs=1e-3)
    assert local.roll() == pytest.approx(0.7, abs=1e-3)


def test_a_homography_reaches_as_far_as_its_matches():
    flat = HomographyMap(np.eye(3), np.array([[10.0, 10.0]]), 5.0)
    assert flat.carry(keypoints_at([[12.0, 12.0], [20.0, 20.0]]))[1].tolist() == [True, False]
    everywhere = HomographyMap(np.eye(3), np.zeros((0, 2)), 0.0)
    assert everywhere.carry(keypoints_at([[12.0, 12.0], [20.0, 20.0]]))[1].all()


def moved_photo(exponent=0.4):
    """A photo, and a darker one moved by a known map."""
    photo = cv2.GaussianBlur(textured_image(240, 300, 1), (0, 0), 1.5).astype(np.float32) / 255
    b_from_a = np.array([[1.004, 0.002, 1.5], [-0.003, 0.998, -2.0], [0, 0, 1]])
    moved = cv2.warpAffine(photo, b_from_a[:2], (300, 240), borderMode=cv2.BORDER_REFLECT)
    return photo, 0.7 * moved**exponent, b_from_a


def test_photos_of_one_view_are_aligned_across_exposures():
    photo, darker, b_from_a = moved_photo()
    found = align_photos(photo, darker)
    corners = np.array([[20, 20, 1], [280, 20, 1], [20, 220, 1], [280, 220, 1]])
    assert np.abs(corners @ (found - b_from_a).T).max() < 0.3


def test_photos_of_different_views_are_not_aligned():
    others = [textured_image(240, 300, seed).astype(np.float32) / 255 for seed in (1, 2)]
    assert align_photos(*others) is None


def test_a_file_of_pairs_joins_photos_of_one_view(tmp_path):
    photo, darker, b_from_a = moved_photo()
    rng = np.random.default_rng(0)
    xy = rng.uniform(20, 220, (50, 2))
    places = {"a.png": xy, "b.png": xy @ b_from_a[:2, :2].T + b_from_a[:2, 2]}
    with FeatureStore.resume(tmp_path / "features.h5", {"by": "test"}) as store:
        for name, image in (("a.png", photo), ("b.png", darker)):
            cv2.imwrite(str(tmp_path / name), np.rint(image * 255).astype(np.uint8))
            features = Features(keypoints_at(places[name]), torch.randn(50, 128), (300, 240))
            store.write(name, features)
    (tmp_path / "pairs.txt").write_text("a.png b.png\n")
    (tracks,) = make(tmp_path / "pairs.txt", tmp_path / "features.h5", tmp_path)
    assert (~tracks.is_upright).sum() > 40
    same = [alike(tracks.patches[i], tracks.patches[i + 1]) for i in tracks.start[:-1]]
    assert np.median(same) > 0.9


def test_errors_are_measured_and_put_on():
    rng = np.random.default_rng(0)
    expected = keypoints_at(rng.uniform(0, 99, (500, 2)), scale=3.0, angle=5.9)
    errors = FrameErrors(
        rng.normal(0, [0.5, 0.1], (500, 2)), rng.normal(0, 0.2, 500), rng.normal(0, 0.3, 500)
    )
    measured = FrameErrors.measure(expected, errors.apply(expected))
    assert measured.offset == pytest.approx(errors.offset, abs=1e-4)
    assert measured.log_scale == pytest.approx(errors.log_scale, abs=1e-4)
    assert measured.angle == pytest.approx(errors.angle, abs=1e-4)
    drawn = measured.draw(rng, 4000)
    assert drawn.offset.std(axis=0) == pytest.approx([0.5, 0.1], rel=0.1)
    assert measured.spread()[1:] == pytest.approx([0.2, 0.3], rel=0.1)
    few = FrameErrors.join([]).draw(rng, 4000)
    assert few.offset.std() == pytest.approx(0.7, rel=0.1)


def test_a_report_counts_positives_and_measures_errors(wall, tmp_path, capsys):
    path = tmp_path / "features.h5"
    with (
        FeatureStore(wall[0] / "features.h5") as old,
        FeatureStore.resume(path, {"by": "test"}) as store,
    ):
        for name in old.names():
            features = old.read(name)
            unit = torch.nn.functional.normalize(features.descriptors, dim=1)
            store.write(name, Features(features.keypoints, unit, features.image_size))
    for source in (wall[0] / "sparse" / "0", wall[0]):
        assert main([str(path), str(source), str(wall[1])]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["num_photos"] == len(VIEWS)
        assert report["num_pairs"] == 10
        assert report["num_keypoints"] == len(VIEWS) * NUM_POINTS
        assert report["num_seen"] >= report["num_positives"] > 5 * NUM_POINTS
        assert report["num_matched"] < 0.1 * report["num_positives"]  # random descriptors
        assert 0.4 * NUM_POINTS < report["num_tracks"] <= NUM_POINTS
        assert report["offset"] < 0.1
        assert report["angle_deg"] < 1
