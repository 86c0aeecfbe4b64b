"""Tracks from a reconstruction of a wall."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features
from tests.wall_scene import FOCAL, NUM_POINTS, SIZE, VIEWS, make_wall
from training.places import show_same_point
from training.scenes.matched_tracks import SceneConfig, make_scene_tracks, scene_hash
from training.track_batches import BatchPlan, TrackSet
from training.track_cache import generate_scene_tracks
from training.tracks import TrackConfig

TRACKS = TrackConfig(patch_size_px=24.0, size_factors=(1.0,))
NO_LIMITS = SceneConfig()


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    return make_wall(tmp_path_factory.mktemp("wall"))


def tracks_of(wall, config=TRACKS, limits=NO_LIMITS):
    return make_scene_tracks(*wall, config, limits, np.random.default_rng(0))


def alike(a, b):
    """Correlation of two patches."""
    return np.corrcoef(a.reshape(-1).astype(float), b.reshape(-1).astype(float))[0, 1]


def test_patches_of_a_track_show_one_place_whatever_the_roll_and_distance(wall):
    (tracks,) = tracks_of(wall)  # all points are first seen in the first image
    assert (~tracks.is_upright).sum() == NUM_POINTS
    assert (np.diff(tracks.start)[~tracks.is_upright] == len(VIEWS)).all()
    first, last = tracks.start[:-1], tracks.start[1:] - 1
    patches = tracks.patches
    same = [alike(patches[i], patches[j]) for i, j in zip(first, last, strict=True)]
    assert np.median(same) > 0.95
    assert np.quantile(same, 0.1) > 0.85
    other = [alike(patches[i], patches[j]) for i, j in zip(first, last[::-1], strict=True)]
    assert np.median(np.abs(other)) < 0.5


def test_two_supports_are_cut_in_every_photo(wall):
    (one,), (two,) = tracks_of(wall), tracks_of(wall, replace(TRACKS, supports=(1.0, 2.0)))
    assert two.patches.shape == (len(one.patches), 2, 32, 32)
    assert np.array_equal(two.patches[:, 0], one.patches)
    first, last = two.start[:-1], two.start[1:] - 1
    wide = two.patches[:, 1]
    assert np.median([alike(wide[i], wide[j]) for i, j in zip(first, last, strict=True)]) > 0.9


def test_tracks_are_grouped_by_the_first_photo_that_shows_them(tmp_path):
    hidden = {(0, i) for i in range(20)} | {(1, i) for i in range(10)}
    parts = tracks_of(make_wall(tmp_path, hidden=hidden))
    assert [int((~part.is_upright).sum()) for part in parts] == [40, 10, 10]
    assert [len(part.patches) for part in parts] == [40 * 8, 10 * 6, 10 * 3]
    for part in parts:
        assert part.start[-1] == len(part.patches)
        oriented = np.flatnonzero(~part.is_upright)
        same = [
            alike(part.patches[part.start[k]], part.patches[part.start[k + 1] - 1])
            for k in oriented
        ]
        assert np.median(same) > 0.9
        # scales and distances differ from image to image, the square of the wall does not
        assert part.side == pytest.approx(np.full(len(part), 24 * 4 / FOCAL), rel=1e-5)


def test_a_photo_that_shows_a_point_twice_counts_once(tmp_path):
    (tracks,) = tracks_of(make_wall(tmp_path, merged=[(1, 4, 5)]))
    lengths = np.diff(tracks.start)[~tracks.is_upright]
    assert lengths[4] == len(VIEWS)
    assert lengths[5] == len(VIEWS) - 1
    patches = tracks.patches[tracks.start[4] : tracks.start[5]]
    assert min(alike(patches[0], patch) for patch in patches) > 0.8


def test_upright_patches_come_from_photos_of_one_roll_only(wall):
    (tracks,) = tracks_of(wall)
    upright = np.diff(tracks.start)[tracks.is_upright]
    assert len(upright) == NUM_POINTS
    assert (upright == 3).all()  # the images turned by 80 and 170 degrees are left out


def test_places_are_scene_points_and_sides_are_in_their_unit(wall):
    (tracks,) = tracks_of(wall)
    assert tracks.position.shape == (len(tracks), 3)
    assert np.abs(tracks.position[:, 2]).max() < 1e-6
    # 24 px of the first image, whose scale is 1, at a distance of 4
    assert tracks.side == pytest.approx(np.full(len(tracks), 24 * 4 / FOCAL), rel=1e-5)


def test_imprecise_points_are_left_out(tmp_path):
    wall = make_wall(tmp_path, np.where(np.arange(NUM_POINTS) < 20, 3.0, 0.5))
    (tracks,) = tracks_of(wall)
    assert (~tracks.is_upright).sum() == NUM_POINTS - 20
    (few,) = tracks_of(wall, limits=SceneConfig(max_tracks=10))
    assert (~few.is_upright).sum() == 10
    with pytest.raises(ValueError, match=r"no scene point .* under 0.1 px.*max_error_px"):
        tracks_of(wall, limits=SceneConfig(max_error_px=0.1))


def test_neighbours_of_one_scene_are_no_negatives_whoever_saw_them_first(wall, tmp_path):
    scenes = SceneConfig((str(wall[0]),), (str(wall[1]),))
    folders = generate_scene_tracks(tmp_path, scenes, TRACKS, seed=0, quiet=True)
    again = generate_scene_tracks(tmp_path, scenes, TRACKS, seed=0, quiet=True)
    assert again == folders
    assert (folders[0] / "site").read_text() == str(wall[1].resolve())
    other = generate_scene_tracks(
        tmp_path, scenes, replace(TRACKS, patch_size_px=20.0), seed=0, quiet=True
    )
    assert other != folders
    tracks = TrackSet(tmp_path / "none", folders)
    plan = BatchPlan(batch_size=40, images=200, upright_share=0.0, exclusion=1.0)
    drawn = tracks.draw_tracks(np.random.default_rng(0), plan)
    batch = tracks.batch(np.random.default_rng(0), plan)
    assert batch.a.shape == (40, 1, 32, 32)
    place = tracks.position[drawn]
    near = np.linalg.norm(place[:, None] - place[None], axis=2) < 24 * 4 / FOCAL
    assert near.sum() > len(drawn)
    assert np.array_equal(batch.is_excluded.numpy(), near)
    tracks.file = np.arange(len(tracks))  # as if each had another first image
    places = tracks.places(drawn)
    assert np.array_equal(show_same_point(places, places, plan.exclusion).numpy(), near)


def test_files_of_another_run_are_refused(wall, tmp_path):
    out, images = make_wall(tmp_path / "a")
    cv2.imwrite(str(images / "v2.png"), np.zeros((240, 300), np.uint8))
    with pytest.raises(ValueError, match=r"v2.png is 300x240, its features were made of 320x240"):
        tracks_of((out, images))
    (images / "v2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image .*v2.png"):
        tracks_of((out, images))
    out, images = make_wall(tmp_path / "b")
    (out / "features.h5").unlink()
    with (
        FeatureStore.resume(out / "features.h5", {}) as store,
        FeatureStore(wall[0] / "features.h5") as old,
    ):
        for name in old.names():
            features = old.read(name)
            few = torch.arange(NUM_POINTS - 1)
            short = Features(features.keypoints[few], features.descriptors[few], SIZE)
            store.write(name, short)
    with pytest.raises(
        ValueError, match="59 keypoints .* 60 in the model; both must be of one run"
    ):
        tracks_of((out, images))


def test_the_hash_follows_the_model(wall, tmp_path):
    out, _ = make_wall(tmp_path, np.full(NUM_POINTS, 0.7))
    assert scene_hash(out) != scene_hash(wall[0])
    with pytest.raises(FileNotFoundError, match="rekd-hloc reconstruct IMAGES"):
        scene_hash(tmp_path)


def test_folders_and_photos_must_be_as_many():
    with pytest.raises(ValueError, match=r"scenes.folders and scenes.images must be as many"):
        SceneConfig(("a",), ())
