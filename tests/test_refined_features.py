"""A features file refined by its images: positions, what is copied, what stays, what is refused."""

import shutil

import cv2
import h5py
import numpy as np
import pytest

from rekd_hloc.refinement.track_alignment import State
from rekd_hloc.sfm import refined_features
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.refined_features import RefineOptions, refine_features
from rekd_hloc.sfm.refined_record import MIN_UNCERTAINTY_PX
from rekd_hloc.sfm.verification import verify
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.hdf5 import Hdf5File
from tests.store_helpers import files
from tests.warped_views import NUM_POINTS, SIZE, make_foreign, make_views


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    return make_views(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def refined(views, tmp_path_factory):
    """The refined file and its summary; only to be read."""
    path = tmp_path_factory.mktemp("refined") / "r.h5"
    return path, run(views, path)


@pytest.fixture
def changeable(views, tmp_path):
    """The same views in a place of their own."""
    shutil.copytree(views.images.parent, tmp_path / "views")
    folder = tmp_path / "views"
    return type(views)(folder / "images", folder / "f.h5", folder / "m.h5", views.names, views.maps)


def run(views, output, **options):
    features = options.pop("features", views.features)
    return refine_features(features, views.matches, views.images, output, **options)


def states(path, name):
    with FeatureStore(path) as store:
        return store.read_array(name, "refinement")


def test_the_keypoints_of_a_point_come_together(views, refined):
    path, summary = refined
    assert views.spread(views.features) > 0.5
    assert views.spread(path) < 0.08
    assert summary.num_keypoints == 3 * NUM_POINTS
    assert summary.num_in_tracks == 3 * summary.num_tracks
    assert summary.num_refined + summary.num_refused == 2 * summary.num_tracks
    assert summary.num_refined > 0.9 * summary.num_in_tracks * 2 / 3
    assert 0.3 < summary.median_shift_px < 1.0
    assert [level.scale for level in summary.levels] == [1.0]
    assert summary.levels[0].num_refined == summary.num_refined
    assert summary.skipped == {}


def test_what_is_not_refined_keeps_its_position(views, refined):
    with FeatureStore(views.features) as before, FeatureStore(refined[0]) as after:
        for name in views.names:
            state = after.read_array(name, "refinement")
            xy, moved = (store.read_keypoints(name).xy.numpy() for store in (before, after))
            stays = state != State.REFINED
            np.testing.assert_array_equal(xy[stays], moved[stays])
            assert (xy[~stays] != moved[~stays]).any(axis=1).all()
            covariance = after.read_array(name, "covariances")
            assert covariance.shape == (NUM_POINTS, 2, 2)
            assert covariance.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(covariance).all(axis=(1, 2)), stays)


def test_all_else_is_copied(views, refined):
    with h5py.File(views.features) as before, h5py.File(refined[0]) as after:
        assert set(after) == set(before)
        assert set(before.attrs.items()) <= set(after.attrs.items())
        for name in views.names:
            assert set(after[name]) == {*before[name], "covariances", "refinement"}
            for key in set(before[name]) - {"keypoints"}:
                np.testing.assert_array_equal(before[name][key], after[name][key])


def test_the_uncertainty_of_an_image_is_that_of_its_keypoints(views, refined):
    with h5py.File(refined[0]) as file:
        roots = [(file[n]["refinement"][:] == State.ROOT).all() for n in views.names]
        for name, all_roots in zip(views.names, roots, strict=True):
            known = file[name]["keypoints"].attrs["uncertainty"]
            assert known == 1.0 if all_roots else MIN_UNCERTAINTY_PX <= known < 0.6


def test_a_finished_file_is_not_touched(views, refined):
    before = refined[0].stat().st_mtime_ns
    again = run(views, refined[0])
    assert refined[0].stat().st_mtime_ns == before
    assert again.num_resumed == 3
    assert again.num_refined == refined[1].num_refined
    assert again.levels == refined[1].levels
    assert files(refined[0].parent) == ["r.h5"]


def test_a_killed_run_goes_on(views, refined, tmp_path, monkeypatch):
    write, written, verified = FeatureStore.write_record, [], []

    def write_one(store, record):
        if written:
            raise KeyboardInterrupt
        write(store, record)
        written.append(record.group)

    monkeypatch.setattr(FeatureStore, "write_record", write_one)
    monkeypatch.setattr(Hdf5File, "close", Hdf5File.release)  # as a kill leaves it
    with pytest.raises(KeyboardInterrupt):
        run(views, tmp_path / "r.h5")
    monkeypatch.undo()
    assert files(tmp_path) == ["r.h5.journal", "r.h5.verified.db"]
    monkeypatch.setattr(
        refined_features, "export_database", lambda *_, **__: verified.append("again")
    )
    summary = run(views, tmp_path / "r.h5")
    assert summary.num_resumed == 1
    assert verified == []
    assert files(tmp_path) == ["r.h5"]
    for name in views.names:
        with FeatureStore(tmp_path / "r.h5") as one, FeatureStore(refined[0]) as other:
            xy, expected = (s.read_keypoints(name).xy.numpy() for s in (one, other))
            np.testing.assert_array_equal(xy, expected)


def test_a_missing_and_a_changed_image_keep_their_keypoints(changeable, tmp_path):
    views, out = changeable, tmp_path / "r.h5"
    (views.images / "v0.png").rename(tmp_path / "away.png")
    cv2.imwrite(str(views.images / "v1.png"), np.zeros((50, 60), np.uint8))
    summary = run(views, out)
    assert set(summary.skipped) == {"v0.png", "v1.png"}
    assert "no file" in summary.skipped["v0.png"]
    assert "60x50 px" in summary.skipped["v1.png"]
    assert summary.num_refined == 0
    assert views.spread(out) == views.spread(views.features)

    (tmp_path / "away.png").rename(views.images / "v0.png")  # the same command sees it
    summary = run(views, out)
    assert set(summary.skipped) == {"v1.png"}
    assert summary.num_refined > 0.9 * NUM_POINTS
    assert not states(out, "v1.png").any()


def test_an_image_that_changed_is_known_by_its_stamp(changeable, tmp_path):
    from rekd_hloc.sfm.extraction import extract_images
    from tests.sift_extractor import SiftExtractor

    features = tmp_path / "sift.h5"
    extract_images(SiftExtractor(40), changeable.images, features)
    grey = cv2.imread(str(changeable.images / "v2.png"), 0)
    cv2.imwrite(str(changeable.images / "v2.png"), 255 - grey)
    summary = run(changeable, tmp_path / "r.h5", features=features, pairs=[])
    assert list(summary.skipped) == ["v2.png"]
    assert "has changed" in summary.skipped["v2.png"]


def test_a_damaged_image_is_named(changeable, tmp_path):
    (changeable.images / "v1.png").write_bytes(b"no image")
    summary = run(changeable, tmp_path / "r.h5")
    assert list(summary.skipped) == ["v1.png"]
    assert run(changeable, tmp_path / "r.h5").skipped == summary.skipped  # also when resumed


def test_no_image_at_all_is_a_mistake(views, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="none of the 3 images of"):
        refine_features(views.features, views.matches, tmp_path / "empty", tmp_path / "r.h5")
    with pytest.raises(FileNotFoundError, match="no image folder"):
        refine_features(views.features, views.matches, tmp_path / "x", tmp_path / "r.h5")
    assert files(tmp_path) == ["empty"]


@pytest.mark.parametrize("half", [False, True])
def test_features_of_any_extractor(half, views, tmp_path):
    """Upright, with a scale from their spacing; these views are rotated by 29 and 57 degrees."""
    features = make_foreign(views, tmp_path / "foreign.h5", half=half, more={"extra": [1.0, 2.0]})
    summary = run(views, tmp_path / "r.h5", features=features)
    assert summary.num_refined > 0.5 * NUM_POINTS
    with h5py.File(tmp_path / "r.h5") as file:
        group = file["v0.png"]
        assert group["keypoints"].dtype == (np.float32 if half else np.float64)
        assert group["descriptors"].dtype == np.float16
        assert group["extra"][:].tolist() == [1.0, 2.0]
        assert "oris" not in group
        assert group["keypoints"].attrs["uncertainty"] <= 2.0


def test_a_database_that_is_verified_is_taken(views, refined, tmp_path):
    database = tmp_path / "database.db"
    with FeatureStore(views.features) as features, MatchStore(views.matches) as matches:
        pairs = matches.pairs(features.names())
        export_database(database, views.images, features, matches, pairs)
    verify(database, pairs, 0)
    summary = run(views, tmp_path / "r.h5", verified=database)
    assert summary.num_refined == refined[1].num_refined


def test_only_the_pairs_that_are_named_count(views, tmp_path):
    summary = run(views, tmp_path / "r.h5", pairs=[("v0.png", "v1.png")])
    assert summary.num_in_tracks == 2 * summary.num_tracks
    assert not states(tmp_path / "r.h5", "v2.png").any()


@pytest.mark.slow
def test_other_inputs_are_refused_or_replaced(views, refined, tmp_path):
    out = tmp_path / "r.h5"
    shutil.copy(refined[0], out)
    with pytest.raises(ValueError, match="refined_pairs .* in r.h5, .* now.*--overwrite"):
        run(views, out, pairs=[("v0.png", "v1.png")])
    with pytest.raises(ValueError, match="refined_seed 0 in r.h5, 1 now"):
        run(views, out, options=RefineOptions(seed=1))
    assert run(views, out).num_resumed == 3
    assert run(views, out, pairs=[("v0.png", "v1.png")], redo=True).num_resumed == 0
    assert run(views, out, overwrite=True).num_resumed == 0


def test_a_run_that_failed_does_not_stand_in_the_way(views, tmp_path):
    shutil.copy(views.matches, tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["v0.png/v1.png/matches0"][3] = 1000
    out = tmp_path / "r.h5"
    with pytest.raises(ValueError, match="name keypoint 1000 of 'v1.png'"):
        refine_features(views.features, tmp_path / "m.h5", views.images, out)
    assert run(views, out).num_refined > 0
    assert files(tmp_path) == ["m.h5", "r.h5"]


def test_files_of_others_are_never_replaced(views, tmp_path):
    other = make_foreign(views, tmp_path / "other.h5")
    before = other.read_bytes()
    with pytest.raises(ValueError, match="made by another program"):
        run(views, other)
    with pytest.raises(ValueError, match="made by another program"):
        run(views, other, redo=True)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff photo")
    for path in (views.features, views.matches):
        with pytest.raises(ValueError, match="is also an input"):
            run(views, path, overwrite=True)
    with pytest.raises((FileExistsError, ValueError), match="photo.jpg"):
        run(views, tmp_path / "photo.jpg", overwrite=True)
    shutil.copy(views.matches, tmp_path / "m2.h5")
    with pytest.raises(FileExistsError, match="holds matches"):
        run(views, tmp_path / "m2.h5", overwrite=True)
    assert other.read_bytes() == before
    assert files(tmp_path) == ["m2.h5", "other.h5", "photo.jpg"]


def test_features_where_matches_would_be(views, tmp_path):
    with pytest.raises(ValueError, match="holds no matches"):
        refine_features(views.features, views.features, views.images, tmp_path / "r.h5")


def test_nothing_to_do_is_done_where_nothing_can_be_written(views, refined, monkeypatch):
    import os

    access = os.access
    place = refined[0].parent.resolve()
    monkeypatch.setattr(
        os, "access", lambda p, mode: access(p, mode) and not (mode & os.W_OK and place in
                                                               (p, getattr(p, "parent", None)))
    )  # fmt: skip
    assert run(views, refined[0]).num_resumed == 3


def test_an_empty_image_and_an_image_without_matches(views, tmp_path):
    features = make_foreign(views, tmp_path / "foreign.h5")
    with h5py.File(features, "r+") as file:
        group = file.create_group("empty.png")
        group["keypoints"], group["image_size"] = np.zeros((0, 2)), np.array(SIZE)
    shutil.copytree(views.images, tmp_path / "images")
    shutil.copy(views.images / "v0.png", tmp_path / "images" / "empty.png")
    out = tmp_path / "r.h5"
    summary = refine_features(features, views.matches, tmp_path / "images", out)
    assert summary.names == ["empty.png", *views.names]
    assert states(out, "empty.png").shape == (0,)
