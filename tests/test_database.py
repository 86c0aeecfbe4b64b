import json
import math
import shutil

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import check_camera, image_ids
from rekd_hloc.sfm.database import (
    CODE_NORM,
    SIFT_PATCH_SIZE,
    colmap_keypoints,
    export_database,
    quantise,
    remove_database,
    stored_patch_size_px,
)
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import random_features, textured_image
from tests.synthetic_scene import make_scene


def write_features(path, features, provenance=None):
    with FeatureStore.resume(path, provenance or {"method": "test"}) as store:
        for name, entry in features.items():
            store.write(name, entry)
    return FeatureStore(path)


def write_matches(path, matches, num_keypoints):
    with MatchStore.resume(path, {"method": "test"}) as store:
        for (a, b), index in matches.items():
            rows = torch.tensor(index, dtype=torch.int64).reshape(-1, 2)
            store.write(a, b, Matches(rows, torch.ones(len(rows))), num_keypoints)
    return MatchStore(path)


def write_image(path, width=64, height=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), textured_image(height, width))


def read_cameras(path):
    """Camera id and size of each image name."""
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        cameras = {}
        for name, image_id in image_ids(database).items():
            camera = database.read_camera(database.read_image(image_id).camera_id)
            cameras[name] = (camera.camera_id, camera.width, camera.height)
        return cameras


def test_colmap_rows_are_corner_based_with_the_patch_as_large_as_ours():
    keypoints = Keypoints(
        xy=torch.tensor([[0.0, 0.0], [10.25, 3.5]]),
        scale=torch.tensor([1.0, 2.0]),
        angle=torch.tensor([0.0, math.pi / 2]),
        score=torch.ones(2),
    )
    rows = colmap_keypoints(keypoints, patch_size_px=64.0)
    assert rows.dtype == np.float32
    expected = [[0.5, 0.5, 64 / 12, 0.0], [10.75, 4.0, 128 / 12, math.pi / 2]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    np.testing.assert_allclose(colmap_keypoints(keypoints)[:, 2], [1.0, 2.0])
    assert colmap_keypoints(Keypoints.empty()).shape == (0, 4)


def test_opencv_keypoints_become_the_ones_colmap_finds_itself(tmp_path):
    """Position, scale and angle of OpenCV's SIFT, in the house conventions, against COLMAP's."""
    image = textured_image(200, 240)
    write_image(tmp_path / "images" / "a.png", 240, 200)
    options = pycolmap.FeatureExtractionOptions()
    compat.set_options(options, use_gpu=False, num_threads=1, sift__max_num_orientations=1)
    database_path = tmp_path / "colmap.db"
    with compat.quiet():
        pycolmap.extract_features(
            str(database_path),
            str(tmp_path / "images"),
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
        with pycolmap.Database.open(str(database_path)) as database:
            theirs = database.read_keypoints(1)
    xy, shape = theirs[:, :2], theirs[:, 2:]
    scale, angle = np.hypot(shape[:, 0], shape[:, 2]), np.arctan2(shape[:, 2], shape[:, 0])
    found = cv2.SIFT_create(enable_precise_upscale=True).detect(image, None)
    keypoints = Keypoints(
        xy=torch.tensor([k.pt for k in found]),
        scale=torch.tensor([k.size / 2 for k in found]),  # OpenCV's size is two sigmas
        angle=torch.deg2rad(torch.tensor([k.angle for k in found])),
        score=torch.ones(len(found)),
    )
    ours = colmap_keypoints(keypoints)
    distance = np.linalg.norm(xy[:, None] - ours[None, :, :2], axis=2)
    near = distance.min(axis=1) < 0.5
    assert near.sum() > 300
    same = ours[distance.argmin(axis=1)[near]]
    assert np.abs(np.median(xy[near] - same[:, :2], axis=0)).max() < 0.02
    assert np.median(scale[near] / same[:, 2]) == pytest.approx(1.0, abs=0.01)
    turn = np.angle(np.exp(1j * (angle[near] - same[:, 3])))
    assert np.mean(np.abs(turn) < np.deg2rad(10)) > 0.8


def test_codes_have_colmaps_norm_and_keep_the_order_of_cosines():
    descriptors = random_features(300).descriptors
    codes = quantise(descriptors)
    assert codes.dtype == np.uint8
    norms = np.linalg.norm(codes.astype(float), axis=1)
    np.testing.assert_allclose(norms, CODE_NORM, rtol=0.01)
    centred = torch.nn.functional.normalize(descriptors - descriptors.mean(1, keepdim=True), dim=1)
    cosine = (centred @ centred.T).numpy()
    products = codes.astype(float) @ codes.T.astype(float) / CODE_NORM**2
    # (cosine + 8) / 9 by construction: 8 = 128 * 0.25^2
    error = np.abs(products - (cosine + 8) / 9)
    assert error.mean() < 0.002
    assert error.max() < 0.015  # entries below -0.25 are clipped
    assert np.array_equal(quantise(torch.zeros(0, 128)), np.zeros((0, 128), np.uint8))


def test_colmaps_own_matcher_finds_on_codes_what_cosine_finds(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(120, 128))
    noise = rng.normal(size=(70, 128)) * rng.uniform(0.2, 1.0, (70, 1))
    b = np.concatenate([rng.normal(size=(40, 128)), a[:70] + noise])
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosine = unit_a @ unit_b.T
    nearest, back = cosine.argmax(1), cosine.argmax(0)
    expected = {(i, int(j)) for i, j in enumerate(nearest) if back[j] == i}
    planted = {(i, 40 + i) for i in range(70)}
    entries = {}
    for name, unit in (("a", unit_a), ("b", unit_b)):
        some = random_features(len(unit))
        entries[name] = Features(some.keypoints, torch.tensor(unit).float(), some.image_size)
    database_path = tmp_path / "database.db"
    with write_features(tmp_path / "f.h5", entries) as store:
        ids = export_database(database_path, None, store, None, [], quantise_descriptors=True)
    options = compat.set_options(
        pycolmap.FeatureMatchingOptions(),
        use_gpu=False,
        num_threads=1,
        skip_geometric_verification=True,
        sift__max_ratio=1.0,
    )
    with compat.quiet():
        pycolmap.match_exhaustive(
            str(database_path), matching_options=options, device=pycolmap.Device.cpu
        )
        with pycolmap.Database.open(str(database_path)) as database:
            stored = database.read_matches(ids["a"], ids["b"])
    found = {(int(i), int(j)) for i, j in stored}
    assert planted <= expected
    assert planted <= found
    assert len(found & expected) >= 0.95 * max(len(found), len(expected))


@pytest.mark.parametrize("option", ["patch_size_px", "support"])
def test_the_patch_size_is_read_from_the_features_own_configuration(tmp_path, option):
    config = json.dumps({"descriptor": {option: 48.0}})  # support is its name in version 0.1
    with write_features(tmp_path / "ours.h5", {}, {"config": config}) as store:
        assert stored_patch_size_px(store) == 48.0
    for index, other in enumerate(({"method": "x"}, {"config": "no json"}, {"config": "[1]"})):
        with write_features(tmp_path / f"{index}.h5", {}, other) as store:
            assert stored_patch_size_px(store) == SIFT_PATCH_SIZE


def test_database_holds_what_the_stores_hold(tmp_path):
    scene = make_scene(tmp_path, num_images=3, num_points=30)
    path = tmp_path / "database.db"
    a, b, c = scene.names
    with FeatureStore(scene.features) as features, MatchStore(scene.matches) as matches:
        ids = export_database(
            path, None, features, matches, [(b, a), (a, b), (a, c)], patch_size_px=64.0
        )
        expected = {name: features.read(name) for name in scene.names}
        index = matches.read(b, a).index.numpy()
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        assert image_ids(database) == ids
        for name, entry in expected.items():
            rows = database.read_keypoints(ids[name])
            xy, scale, angle = rows[:, :2], rows[:, 2], rows[:, 3]
            if rows.shape[1] == 6:  # COLMAP may answer with the affine shape
                scale = np.hypot(rows[:, 2], rows[:, 4])
                angle = np.arctan2(rows[:, 4], rows[:, 2])
            np.testing.assert_allclose(xy, entry.keypoints.xy.numpy() + 0.5, atol=1e-4)
            np.testing.assert_allclose(scale, entry.keypoints.scale.numpy() * 64 / 12, rtol=1e-4)
            turn = np.exp(1j * (angle - entry.keypoints.angle.numpy()))
            np.testing.assert_allclose(turn, 1.0, atol=1e-4)
        assert np.array_equal(database.read_matches(ids[b], ids[a]), index)
        assert not database.exists_matches(ids[b], ids[c])
        assert database.num_descriptors() == 0


def test_names_with_spaces_umlauts_and_folders_reach_colmap(tmp_path):
    names = ["a b.png", "sub/a b.png", "sub/ü/çà.png"]
    for name in names:
        write_image(tmp_path / "images" / name)
    entries = {name: random_features(5, (64, 48)) for name in names}
    with write_features(tmp_path / "f.h5", entries) as store:
        ids = export_database(tmp_path / "d.db", tmp_path / "images", store, None, [])
    assert sorted(ids) == sorted(names)
    cameras = read_cameras(tmp_path / "d.db")
    assert sorted(cameras) == sorted(names)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize(
    ("mode", "groups"),
    [("auto", 4), ("per_image", 4), ("per_folder", 2), ("single", 1)],
)
def test_camera_modes_share_cameras_whether_or_not_colmap_reads_the_files(
    tmp_path, mode, groups, readable
):
    names = ["a.png", "b.png", "sub/a.png", "sub/b.png"]
    if readable:
        for name in names:
            write_image(tmp_path / "images" / name)
    entries = {name: random_features(5, (64, 48)) for name in names}
    with write_features(tmp_path / "f.h5", entries) as store:
        path = tmp_path / "d.db"
        export_database(path, tmp_path / "images", store, None, [], camera_mode=mode)
    cameras = read_cameras(path)
    assert sorted(cameras) == names
    assert len({camera for camera, *_ in cameras.values()}) == groups
    if groups == 2:
        assert cameras["a.png"][0] == cameras["b.png"][0] != cameras["sub/a.png"][0]


def test_a_file_that_only_the_features_know_gets_a_camera_of_their_size(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    entries = {"a.png": random_features(5, (64, 48)), "gone.png": random_features(5, (100, 30))}
    with write_features(tmp_path / "f.h5", entries) as store:
        export_database(tmp_path / "d.db", tmp_path / "images", store, None, [])
    assert read_cameras(tmp_path / "d.db")["gone.png"][1:] == (100, 30)


def test_known_intrinsics_are_stored_and_marked_as_known(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    entries = {"a.png": random_features(5, (64, 48)), "gone.png": random_features(5, (64, 48))}
    with write_features(tmp_path / "f.h5", entries) as store:
        path = tmp_path / "d.db"
        known = [70.0, 71.5, 32.0, 24.0]
        export_database(
            path,
            tmp_path / "images",
            store,
            None,
            [],
            camera_model="PINHOLE",
            camera_mode="single",
            intrinsics=known,
        )
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        (camera,) = database.read_all_cameras()
    assert camera.params.tolist() == known
    assert camera.has_prior_focal_length


@pytest.mark.parametrize(("mode", "words"), [("single", "one size"), ("auto", "extract it again")])
def test_features_of_another_size_than_the_camera_are_refused(tmp_path, mode, words):
    write_image(tmp_path / "images" / "a.png", 64, 48)
    write_image(tmp_path / "images" / "b.png", 64, 40 if mode == "single" else 48)
    entries = {"a.png": random_features(5, (64, 48)), "b.png": random_features(5, (64, 40))}
    with (
        write_features(tmp_path / "f.h5", entries) as store,
        pytest.raises(ValueError, match=f"b.png.*{words}|{words}.*b.png"),
    ):
        export_database(tmp_path / "d.db", tmp_path / "images", store, None, [], camera_mode=mode)


@pytest.mark.parametrize(
    ("model", "mode", "intrinsics", "words"),
    [
        ("PINHOL", "auto", None, "PINHOLE"),
        ("PINHOLE", "all", None, "per_folder"),
        ("PINHOLE", "auto", [1.0, 2.0], r"fx, fy, cx, cy.*\[1.0, 2.0\]"),
        ("PINHOLE", "auto", [], "fx, fy, cx, cy"),
    ],
)
def test_a_camera_that_colmap_does_not_know_is_refused(model, mode, intrinsics, words):
    with pytest.raises(ValueError, match=words):
        check_camera(model, mode, intrinsics)


def test_matches_beyond_the_keypoints_are_refused(tmp_path):
    entries = {"a": random_features(5), "b": random_features(3)}
    with (
        write_features(tmp_path / "f.h5", entries) as features,
        write_matches(tmp_path / "m.h5", {("a", "b"): [[4, 3]]}, 5) as matches,
        pytest.raises(ValueError, match="keypoint 3 of 'b', which has 3"),
    ):
        export_database(tmp_path / "d.db", None, features, matches, [("a", "b")])


def test_a_failed_export_leaves_the_old_database(tmp_path):
    entries = {"a": random_features(5), "b": random_features(3)}
    path = tmp_path / "d.db"
    with (
        write_features(tmp_path / "f.h5", entries) as features,
        write_matches(tmp_path / "m.h5", {}, 5) as matches,
    ):
        export_database(path, None, features, None, [])
        before = path.read_bytes()
        with pytest.raises(ValueError, match="m.h5 has no matches"):
            export_database(path, None, features, matches, [("a", "b")])
        with pytest.raises(ValueError, match="unknown image 'c'"):
            export_database(path, None, features, matches, [("a", "c")])
    assert path.read_bytes() == before


def test_descriptors_that_colmap_cannot_match_are_refused(tmp_path):
    some = random_features(5)
    entries = {"a": Features(some.keypoints, some.descriptors[:, :64], some.image_size)}
    with write_features(tmp_path / "f.h5", entries) as store:
        with pytest.raises(ValueError, match="128 channels.*'a'.*64"):
            export_database(tmp_path / "d.db", None, store, None, [], quantise_descriptors=True)
        export_database(tmp_path / "d.db", None, store, None, [])


def test_an_image_without_keypoints_and_a_pair_without_matches_are_kept(tmp_path):
    entries = {"a": random_features(0), "b": random_features(3)}
    with (
        write_features(tmp_path / "f.h5", entries) as features,
        write_matches(tmp_path / "m.h5", {("a", "b"): []}, 0) as matches,
    ):
        path = tmp_path / "d.db"
        ids = export_database(
            path, None, features, matches, [("a", "b")], quantise_descriptors=True
        )
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        assert len(database.read_keypoints(ids["a"])) == 0
        assert len(database.read_matches(ids["a"], ids["b"])) == 0


def test_a_database_without_images_is_possible(tmp_path):
    with write_features(tmp_path / "f.h5", {}) as store:
        assert export_database(tmp_path / "d.db", tmp_path, store, None, []) == {}


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        write_features(tmp_path / "f.h5", {"a": random_features(2)}) as store,
        pytest.raises(FileNotFoundError, match="nowhere"),
    ):
        export_database(tmp_path / "nowhere" / "d.db", None, store, None, [])


def test_without_room_on_the_disk_nothing_is_started(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with write_features(tmp_path / "f.h5", {"a": random_features(2)}) as store:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(OSError, match="no space left for .*d.db.*free some space"):
            export_database(tmp_path / "d.db", None, store, None, [])
    assert not (tmp_path / "d.db").exists()


def test_removing_a_database_removes_its_journals(tmp_path):
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"d.db{suffix}").touch()
    (tmp_path / "d.db2").touch()
    remove_database(tmp_path / "d.db")
    assert [path.name for path in tmp_path.iterdir()] == ["d.db2"]
