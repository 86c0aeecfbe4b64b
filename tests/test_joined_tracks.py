"""Tracks of a wall's keypoints that no match has joined."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Keypoints
from tests.wall_scene import FOCAL, NUM_POINTS, SIZE, VIEWS, camera, make_wall
from training.scenes.joined_tracks import make_joined_tracks
from training.scenes.matched_tracks import SceneConfig
from training.track_batches import TrackSet
from training.track_cache import generate_scene_tracks
from training.tracks import TrackConfig

TRACKS = TrackConfig(patch_size_px=24.0, size_factors=(1.0,))


def write_features(path, without=(), turned=()):
    """Keypoints at 40 other places of the wall than the model's points, in every photo.

    ``without`` are photos that have none; ``turned`` are photos with angles that are wrong.
    """
    rng = np.random.default_rng(7)
    xyz = np.column_stack([rng.uniform(-0.5, 0.5, (40, 2)), np.zeros(40)])
    with FeatureStore.resume(path, {"by": "test"}) as store:
        for number, (roll, distance) in enumerate(VIEWS):
            rotation, translation = camera(roll, distance)
            seen = xyz @ rotation.T + translation
            xy = seen[:, :2] / seen[:, 2:] * FOCAL + np.array(SIZE) / 2 - 0.5
            count = 0 if number in without else len(xy)
            angle = roll + (math.pi / 2 if number in turned else 0.0)
            keypoints = Keypoints(
                torch.from_numpy(xy[:count]).float(),
                torch.full((count,), 4.0 / distance),
                torch.full((count,), angle % (2 * math.pi)),
                torch.ones(count),
            )
            store.write(f"v{number}.png", Features(keypoints, torch.randn(count, 128), SIZE))


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    return make_wall(tmp_path_factory.mktemp("wall"))


def make(wall, path, *, placed_share=0.0, max_tracks=1000):
    return make_joined_tracks(
        path, wall[0] / "sparse" / "0", wall[1], TRACKS, np.random.default_rng(0),
        max_tracks=max_tracks, placed_share=placed_share,
    )  # fmt: skip


def oriented_lengths(parts):
    return np.concatenate([np.diff(part.start)[~part.is_upright] for part in parts])


def alike(a, b):
    """Correlation of two patches."""
    return np.corrcoef(a.reshape(-1).astype(float), b.reshape(-1).astype(float))[0, 1]


def test_keypoints_that_no_match_joined_become_tracks(wall, tmp_path):
    write_features(tmp_path / "f.h5")
    (tracks,) = make(wall, tmp_path / "f.h5")
    lengths = oriented_lengths([tracks])
    assert len(lengths) > 30
    assert (lengths == len(VIEWS)).mean() > 0.8  # some leave a photo
    same = [
        alike(tracks.patches[i], tracks.patches[j - 1])
        for i, j in zip(tracks.start[:-1], tracks.start[1:], strict=True)
    ]
    assert np.median(same) > 0.9
    assert np.abs(tracks.position[:, 2]).max() < 1e-3  # on the wall
    assert tracks.side == pytest.approx(np.full(len(tracks), 24 * 4 / FOCAL), rel=1e-3)


def test_a_keypoint_is_in_one_track_only(wall, tmp_path):
    write_features(tmp_path / "f.h5", without=(0,))
    parts = make(wall, tmp_path / "f.h5")
    assert len(oriented_lengths(parts)) <= 40
    positions = np.concatenate([part.position[~part.is_upright] for part in parts])
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    assert (distance + np.eye(len(distance)) > 1e-3).all()


def test_a_keypoint_is_placed_where_a_photo_has_none(wall, tmp_path):
    write_features(tmp_path / "f.h5", without=(2,))
    plain = oriented_lengths(make(wall, tmp_path / "f.h5"))
    (placed,) = make(wall, tmp_path / "f.h5", placed_share=1.0)
    assert plain.max() == len(VIEWS) - 1
    assert (oriented_lengths([placed]) == len(VIEWS)).mean() > 0.9
    third = placed.patches[placed.start[:-1] + 2][~placed.is_upright]
    first = placed.patches[placed.start[:-1]][~placed.is_upright]
    full = np.diff(placed.start)[~placed.is_upright] == len(VIEWS)
    same = [alike(a, b) for a, b in zip(first[full], third[full], strict=True)]
    assert np.median(same) > 0.7


def test_a_keypoint_of_another_angle_is_no_partner(wall, tmp_path):
    write_features(tmp_path / "f.h5", turned=(1,))
    (tracks,) = make(wall, tmp_path / "f.h5")
    assert oriented_lengths([tracks]).max() == len(VIEWS) - 1


def test_the_number_of_tracks_is_limited(wall, tmp_path):
    write_features(tmp_path / "f.h5")
    assert len(oriented_lengths(make(wall, tmp_path / "f.h5", max_tracks=7))) == 7


def test_features_without_keypoints_are_refused(wall, tmp_path):
    write_features(tmp_path / "f.h5", without=range(len(VIEWS)))
    with pytest.raises(ValueError, match="no keypoint of .* can be carried"):
        make(wall, tmp_path / "f.h5")


def test_the_cache_knows_the_model(wall, tmp_path):
    folder, photos = wall
    matched = SceneConfig(folders=(str(folder),), images=(str(photos),))
    carried = replace(matched, models=(str(folder / "sparse" / "0"),), placed_share=0.5)
    written = [
        generate_scene_tracks(tmp_path, scenes, TRACKS, seed=0, quiet=True)[0]
        for scenes in (matched, carried, carried, replace(carried, placed_share=0.0))
    ]
    assert written[1] == written[2]
    assert len(set(written)) == 3
    tracks = TrackSet(tmp_path / "none", [written[1]])
    assert len(tracks) > NUM_POINTS / 2


def test_models_must_be_as_many_as_folders():
    with pytest.raises(ValueError, match="models and scenes.folders must be as many, got 1 and 0"):
        SceneConfig(models=("a",))
