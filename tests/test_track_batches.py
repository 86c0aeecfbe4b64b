"""What a batch is made of: images, scenes, channels, and rows that must not be negatives."""

import numpy as np
import pytest
import torch

from tests.training_data import GENTLE, CornerDetector, rgb_image, write_images, write_tracks
from training.patch_augmentation import PatchAugmentation, augment_patches
from training.places import Places, show_same_point
from training.track_batches import BatchPlan, TrackSet
from training.track_cache import track_options
from training.tracks import TrackConfig, make_tracks

SIZES = (60, 60, 60, 5, 90, 90, 90)
"""Tracks of each file; those of the last three are of two scenes."""


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Tracks of four images and two scenes, one in five upright; every patch is one grey level."""
    folder = tmp_path_factory.mktemp("tracks")
    paths = [folder / f"{n}" for n in range(4)]
    paths += [folder / "scene_a" / "0", folder / "scene_a" / "1", folder / "scene_b" / "0"]
    for number, (path, count) in enumerate(zip(paths, SIZES, strict=True)):
        path.parent.mkdir(exist_ok=True)
        np.save(path.with_suffix(".npy"), np.full((2 * count, 32, 32), number, np.uint8))
        np.savez(
            path.with_suffix(".npz"),
            start=np.arange(0, 2 * count + 1, 2),
            place=np.arange(3 * count).reshape(count, 3).astype(np.float32),
            side=np.ones(count, np.float32),
            is_upright=np.arange(count) % 5 == 0,
        )
    return TrackSet(folder, [folder / "scene_a", folder / "scene_b"])


def drawn(tracks, seed, **options):
    rows = tracks.draw_tracks(np.random.default_rng(seed), BatchPlan(**options))
    assert len(np.unique(rows)) == len(rows) == options["batch_size"]
    return rows


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("rows_per_image", [0, 20])
def test_scenes_have_their_share(tracks, share, rows_per_image):
    for seed in range(5):
        rows = drawn(tracks, seed, batch_size=80, scene_share=share, rows_per_image=rows_per_image)
        assert tracks.is_scene[rows].sum() == 80 * share


def test_a_kind_that_has_too_few_tracks_leaves_its_rows_to_the_other(tracks):
    rows = drawn(tracks, 0, batch_size=300, scene_share=0.0, rows_per_image=50)
    assert (~tracks.is_scene[rows]).sum() == 185


def test_half_of_the_negatives_come_from_the_same_image(tracks):
    options = {"scene_share": 0.5, "rows_per_image": 40}
    files = []
    for seed in range(8):
        rows = drawn(tracks, seed, batch_size=80, **options)
        file, counts = np.unique(tracks.file[rows], return_counts=True)
        assert counts.tolist() == [40, 40]  # never the image that has 5 tracks
        assert tracks.is_upright[rows].sum() == 20
        files += file.tolist()
    assert len(set(files)) > 3


def test_rows_are_left_to_no_image_that_would_have_a_handful(tracks):
    rows = drawn(tracks, 0, batch_size=50, scene_share=0.0, rows_per_image=20)
    assert np.unique(tracks.file[rows], return_counts=True)[1].tolist() == [25, 25]


def test_points_are_excluded_by_frame_and_distance():
    position = torch.tensor([[0.0, 0, 0], [5, 0, 0], [0, 0, 0], [5, 0, 0]])
    frame = torch.tensor([0, 0, 1, 0])
    places = Places(frame, position, torch.tensor([10.0, 30, 10, 10]), frame)
    excluded = show_same_point(places, places, 0.2)
    expected = torch.eye(4, dtype=torch.bool)
    expected[[0, 1, 1, 3], [1, 0, 3, 1]] = True  # 5 < 0.2 * 30; and one position is one point
    assert torch.equal(excluded, expected)
    few = torch.tensor([1, 3])
    assert torch.equal(show_same_point(places[few], places, 0.2), expected[few])
    assert show_same_point(places, places, 0.0)[1, 3]


def test_two_models_of_one_scene_give_no_negatives_to_one_another(tracks, tmp_path):
    folders = [tmp_path / name for name in ("ours", "teacher", "elsewhere")]
    for folder, site in zip(folders, ("castle", "castle", "forest"), strict=True):
        folder.mkdir()
        np.save(folder / "0.npy", np.zeros((8, 32, 32), np.uint8))
        np.savez(
            folder / "0.npz",
            start=np.arange(0, 9, 2),
            place=np.arange(12).reshape(4, 3).astype(np.float32) * 100,
            side=np.ones(4, np.float32),
            is_upright=np.zeros(4, bool),
        )
        (folder / "site").write_text(site)
    places = TrackSet(tmp_path / "none", folders).places(np.arange(12))
    excluded = show_same_point(places, places, 0.1)
    assert excluded[:4, :4].sum() == excluded[8:, 8:].sum() == 4  # each its own point only
    assert excluded[:4, 4:8].all()
    assert not excluded[:8, 8:].any()
    rows = tracks.places(np.arange(len(tracks)))
    assert torch.equal(rows.frame, rows.site)  # without a note each frame is a site


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene_share": 1.5}, "scene_share must be in .0, 1., got 1.5"),
        ({"rows_per_image": 600}, r"rows_per_image must be in 0..batch_size \(512\), got 600"),
    ],
)
def test_compositions_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(**options)


def test_tracks_of_two_supports_hold_both_squares(tmp_path):
    one, two = (
        TrackConfig(warps=GENTLE, num_views=1, min_tracks=4, max_tracks=30, supports=supports)
        for supports in ((1.0,), (1.0, 2.0))
    )
    made = [
        make_tracks(rgb_image(2), CornerDetector(), config, np.random.default_rng(0))
        for config in (one, two)
    ]
    assert np.array_equal(made[0].patches, made[1].patches[:, 0])
    assert made[1].patches.shape == (len(made[0].patches), 2, 32, 32)
    middle = made[1].patches[:, 0].reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    shown = made[1].patches[:, 1, 8:24, 8:24]
    assert np.median(np.abs(middle - shown)) < 12  # the larger square shows the smaller one
    assert track_options(one).keys() == track_options(two).keys() - {"supports"}
    folder = write_images(tmp_path, 2)
    tracks = TrackSet(write_tracks(tmp_path / "tracks", folder, two), supports=two.supports)
    batch = tracks.batch(np.random.default_rng(0), BatchPlan(batch_size=8))
    assert batch.a.shape == batch.b.shape == (8, 2, 32, 32)
    assert len(batch.places) == 8


def test_both_channels_of_a_patch_are_augmented_alike():
    grey = np.full((60, 2, 32, 32), 128, np.uint8)
    augmentation = PatchAugmentation(max_gamma=1.0, shadow_share=1.0)
    augmented = augment_patches(np.random.default_rng(0), grey, augmentation, supports=(1.0, 2.0))
    near = augmented[:, 0].reshape(60, 16, 2, 16, 2).mean(axis=(2, 4))
    shown = augmented[:, 1, 8:24, 8:24]
    assert np.abs(near - shown).max() < 0.15  # the border of a shadow is as wide in either
    assert np.abs(near - shown).mean() < 0.01
    assert (augmented[:, 1].min(axis=(1, 2)) <= augmented[:, 0].min(axis=(1, 2)) + 1e-6).all()
    assert augmented.min() < 0.25


def test_supports_must_be_positive():
    with pytest.raises(ValueError, match=r"supports must be positive factors, got \(1.0, -2.0\)"):
        TrackConfig(supports=(1.0, -2.0))
