import contextlib
import errno
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from rekd_hloc.sfm import mapping
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import align_to_reference, read_reference
from rekd_hloc.sfm.cameras import image_ids
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.mapping import check_mapper, map_scene, write_model
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.verification import verify
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Matches
from tests.synthetic_scene import FOCAL, SIZE, make_scene, true_matches

needs_global = pytest.mark.skipif(
    not compat.has_global_mapper(), reason="this pycolmap has no global mapper"
)


def make_database(scene, path, pairs=None, matches=None, **options):
    with FeatureStore(scene.features) as features, MatchStore(matches or scene.matches) as found:
        export_database(path, None, features, found, pairs or scene.pairs, **options)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def verified(scene, tmp_path_factory):
    """A verified database; only to be copied or read."""
    path = make_database(scene, tmp_path_factory.mktemp("verified") / "database.db")
    verify(path, scene.pairs, seed=0)
    return path


@pytest.fixture
def spoilt(scene, tmp_path):
    """The scene with as many wrong matches again as right ones, and a database of it."""
    rng = np.random.default_rng(1)
    path = tmp_path / "spoilt.h5"
    with MatchStore.resume(path, {"method": "spoilt"}) as store:
        for a, b in scene.pairs:
            right = true_matches(scene, a, b)
            num_a, num_b = len(scene.points[a]), len(scene.points[b])
            rows = right.copy()
            wrong = rng.choice(len(rows), len(rows) // 2, replace=False)
            rows[wrong, 1] = rng.permutation(rows[wrong, 1])
            assert rows.max() < max(num_a, num_b)
            store.write(a, b, Matches(torch.tensor(rows), torch.ones(len(rows))), num_a)
    return make_database(scene, tmp_path / "spoilt.db", matches=path)


def read_geometries(path, pairs):
    """Configuration and inliers of each pair."""
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        ids = image_ids(database)
        found = [database.read_two_view_geometry(ids[a], ids[b]) for a, b in pairs]
        return [(int(g.config), np.array(g.inlier_matches)) for g in found]


def test_verification_keeps_right_matches_and_drops_wrong_ones(scene, spoilt):
    counts = verify(spoilt, scene.pairs, seed=0)
    geometries = read_geometries(spoilt, scene.pairs)
    for pair, (_, inliers) in zip(scene.pairs, geometries, strict=True):
        right = {tuple(row) for row in true_matches(scene, *pair).tolist()}
        kept = {tuple(row) for row in inliers.tolist()}
        matches, count = counts[pair]
        assert matches == len(right)
        assert count == len(kept)
        assert len(kept & right) > 0.45 * matches
        assert len(kept - right) < 0.2 * len(kept)


@pytest.mark.parametrize(("given", "limit"), [({}, 3.0), ({"max_error_px": 4.0}, 4.0)])
def test_inliers_are_within_3_px_of_their_epipolar_lines(scene, verified, tmp_path, given, limit):
    path = tmp_path / "database.db"
    shutil.copy(verified, path)
    scatter_keypoints(path, sigma_px=2.5)
    verify(path, scene.pairs, seed=0, **given)
    errors = np.concatenate([epipolar_errors(path, *pair) for pair in scene.pairs])
    assert limit - 0.3 < errors.max() <= limit + 1e-3


def scatter_keypoints(path, sigma_px):
    """Move all keypoints of a database by normal noise, and forget its geometries."""
    rng = np.random.default_rng(0)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM two_view_geometries")
        rows = database.execute("SELECT image_id, rows, cols, data FROM keypoints").fetchall()
        for image_id, count, columns, data in rows:
            values = np.frombuffer(data, np.float32).reshape(count, columns).copy()
            values[:, :2] += rng.normal(0, sigma_px, (count, 2))
            command = "UPDATE keypoints SET data = ? WHERE image_id = ?"
            database.execute(command, (values.tobytes(), image_id))


def epipolar_errors(path, name_a, name_b):
    """Sampson errors in pixels of a pair's inliers, by COLMAP's own geometry."""
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        ids = image_ids(database)
        geometry = database.read_two_view_geometry(ids[name_a], ids[name_b])
        inliers = np.array(geometry.inlier_matches).reshape(-1, 2)
        xy = [database.read_keypoints(ids[name])[:, :2] for name in (name_a, name_b)]
    a, b = (np.c_[p[inliers[:, k]], np.ones(len(inliers))] for k, p in enumerate(xy))
    line_b, line_a = a @ geometry.F.T, b @ geometry.F
    slope = (line_b[:, :2] ** 2).sum(axis=1) + (line_a[:, :2] ** 2).sum(axis=1)
    return np.abs((b * line_b).sum(axis=1)) / np.sqrt(slope)


def test_verification_depends_neither_on_threads_nor_on_a_resume(scene, spoilt, tmp_path):
    results = []
    for threads in (1, 3):
        path = shutil.copy(spoilt, tmp_path / f"{threads}.db")
        verify(path, scene.pairs, seed=3, num_threads=threads)
        results.append(read_geometries(path, scene.pairs))
    path = shutil.copy(spoilt, tmp_path / "resumed.db")
    verify(path, scene.pairs[7:], seed=3)
    verify(path, scene.pairs, seed=3)
    results.append(read_geometries(path, scene.pairs))
    for other in results[1:]:
        for (config, inliers), (config_there, inliers_there) in zip(results[0], other, strict=True):
            assert config == config_there
            assert np.array_equal(inliers, inliers_there)


def test_verified_pairs_keep_their_geometry(scene, verified, tmp_path):
    path = shutil.copy(verified, tmp_path / "d.db")
    with compat.quiet(), pycolmap.Database.open(str(path)) as database:
        ids = image_ids(database)
        a, b = (ids[name] for name in scene.pairs[0])
        getattr(database, "delete_two_view_geometry", database.delete_inlier_matches)(a, b)
        mark = pycolmap.TwoViewGeometry()
        mark.config = int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)
        mark.inlier_matches = np.array([[0, 0], [1, 1]], np.uint32)
        database.write_two_view_geometry(a, b, mark)
    counts = verify(path, scene.pairs, seed=5)
    assert counts[scene.pairs[0]][1] == 2
    assert counts[scene.pairs[1]][1] > 100


def test_a_pair_that_fails_has_a_defined_geometry_without_inliers(scene, tmp_path):
    pairs = scene.pairs[:3]
    few = tmp_path / "few.h5"
    with MatchStore.resume(few, {}) as store:
        for (a, b), count in zip(pairs, (0, 5, 60), strict=True):
            index = torch.tensor(true_matches(scene, a, b)[:count].reshape(-1, 2))
            store.write(a, b, Matches(index, torch.ones(len(index))), len(scene.points[a]))
    path = make_database(scene, tmp_path / "d.db", pairs, few)
    counts = verify(path, [*pairs, scene.pairs[4]], seed=0)
    assert counts[pairs[0]] == (0, 0)
    assert counts[pairs[1]] == (5, 0)
    assert counts[pairs[2]][0] == 60
    assert counts[pairs[2]][1] > 50
    assert counts[scene.pairs[4]] == (0, 0)  # never matched
    undefined = int(pycolmap.TwoViewGeometryConfiguration.UNDEFINED)
    assert all(config != undefined for config, _ in read_geometries(path, counts))


def test_mistakes_are_named(scene, verified, tmp_path):
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        verify(verified, scene.pairs, seed=-1)
    with pytest.raises(ValueError, match="seed must be at most 2147483647"):
        verify(verified, scene.pairs, seed=2**31)
    with pytest.raises(ValueError, match="unknown image 'x'"):
        verify(verified, [(scene.names[0], "x")], seed=0)
    for run in (
        lambda: verify(tmp_path / "no.db", [], seed=0),
        lambda: map_scene(tmp_path / "no.db", tmp_path, tmp_path / "out"),
    ):
        with pytest.raises(FileNotFoundError, match=r"no database .*no\.db"):
            run()
    assert not (tmp_path / "no.db").exists()
    with pytest.raises(ValueError, match="no mapper 'glob'; mappers are incremental, global"):
        check_mapper("glob")


@pytest.mark.parametrize("mapper", ["incremental", pytest.param("global", marks=needs_global)])
def test_a_model_has_the_true_poses(scene, verified, tmp_path, mapper):
    models = map_scene(verified, tmp_path, tmp_path / "sparse", mapper=mapper)
    assert [model.num_reg_images() for model in models] == [6]
    errors = align_to_reference(models[0], read_reference(scene.reference))
    assert sorted(errors.names) == scene.names
    assert errors.rotation_deg.max() < 0.3
    assert errors.center_rel.max() < 0.01
    written = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert written.num_points3D() == models[0].num_points3D() > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sparse"]


def flatten(model):
    """All numbers of a model in one array."""
    points = [np.append(p.xyz, len(p.track.elements)) for p in model.points3D.values()]
    cameras = [camera.params for camera in model.cameras.values()]
    poses = [model.images[i].cam_from_world().matrix().ravel() for i in model.reg_image_ids()]
    return np.concatenate([*points, *cameras, *poses])


@pytest.mark.parametrize("mapper", ["incremental", pytest.param("global", marks=needs_global)])
def test_one_seed_on_one_thread_gives_one_model_to_the_bit(scene, spoilt, tmp_path, mapper):
    verify(spoilt, scene.pairs, seed=0)
    first, second = (
        map_scene(spoilt, tmp_path, tmp_path / f"sparse{i}", mapper=mapper, seed=2)[0]
        for i in range(2)
    )
    assert np.array_equal(flatten(first), flatten(second))


def test_points_keep_observations_within_the_limit_only(scene, spoilt, tmp_path):
    verify(spoilt, scene.pairs, seed=0)
    loose, tight = (
        map_scene(spoilt, tmp_path, tmp_path / f"{limit}", max_error_px=limit)[0]
        for limit in (None, 0.3)
    )
    assert loose.compute_mean_reprojection_error() > 0.15
    assert tight.compute_mean_reprojection_error() < 0.15
    assert 100 < tight.compute_num_observations() < loose.compute_num_observations()


def test_known_intrinsics_stay_and_unknown_ones_are_refined(scene, tmp_path):
    guess = [FOCAL * 1.04, SIZE[0] / 2, SIZE[1] / 2, 0.0]
    path = make_database(
        scene, tmp_path / "d.db", intrinsics=guess, camera_mode="single", patch_size_px=12.0
    )
    verify(path, scene.pairs, seed=0)
    kept, refined = (
        map_scene(path, tmp_path, tmp_path / f"{refine}", refine_intrinsics=refine)[0]
        for refine in (False, True)
    )
    (camera,) = kept.cameras.values()
    assert camera.params.tolist() == guess
    (camera,) = refined.cameras.values()
    assert camera.params[0] == pytest.approx(FOCAL, rel=0.01)


def test_separate_scenes_become_models_largest_first(tmp_path):
    scenes = [make_scene(tmp_path / str(i), n, 80, seed=i) for i, n in enumerate((3, 5))]
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    pairs = []
    with FeatureStore.resume(features, {}) as out, MatchStore.resume(matches, {}) as out_matches:
        for i, scene in enumerate(scenes):
            with FeatureStore(scene.features) as store, MatchStore(scene.matches) as found:
                for name in scene.names:
                    out.write(f"{i}/{name}", store.read(name))
                for a, b in scene.pairs:
                    pairs.append((f"{i}/{a}", f"{i}/{b}"))
                    out_matches.write(*pairs[-1], found.read(a, b), len(scene.points[a]))
    path = tmp_path / "d.db"
    with FeatureStore(features) as store, MatchStore(matches) as found:
        export_database(path, None, store, found, pairs)
    verify(path, pairs, seed=0)
    models = map_scene(path, tmp_path, tmp_path / "sparse")
    assert [model.num_reg_images() for model in models] == [5, 3]
    written = [pycolmap.Reconstruction(str(tmp_path / "sparse" / str(i))) for i in range(2)]
    assert [model.num_reg_images() for model in written] == [5, 3]


def test_without_a_model_the_old_one_stays(scene, tmp_path):
    pairs = scene.pairs[:1]
    empty = tmp_path / "empty.h5"
    with MatchStore.resume(empty, {}) as store:
        store.write(*pairs[0], Matches.empty(), len(scene.points[pairs[0][0]]))
    path = make_database(scene, tmp_path / "d.db", pairs, empty)
    verify(path, pairs, seed=0)
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "images.bin").write_bytes(b"of an earlier run")
    assert map_scene(path, tmp_path, tmp_path / "sparse") == []
    assert (tmp_path / "sparse" / "0" / "images.bin").read_bytes() == b"of an earlier run"
    assert not list(tmp_path.glob("sparse*.tmp"))


def test_a_failed_run_keeps_the_old_model_and_leaves_no_scraps(verified, tmp_path, monkeypatch):
    map_scene(verified, tmp_path, tmp_path / "sparse")
    before = (tmp_path / "sparse" / "0" / "points3D.bin").read_bytes()

    def fail(model, folder):
        raise OSError(errno.ENOSPC, "images.bin is not whole")

    monkeypatch.setattr(mapping, "write_model", fail)
    words = r"no space left for .*sparse;.*same command goes on"
    with pytest.raises(OSError, match=words):
        map_scene(verified, tmp_path, tmp_path / "sparse", seed=1)
    assert (tmp_path / "sparse" / "0" / "points3D.bin").read_bytes() == before
    assert not list(tmp_path.glob("sparse*.tmp"))


def test_a_model_that_is_not_whole_on_disk_is_noticed(verified, tmp_path):
    (model,) = map_scene(verified, tmp_path, tmp_path / "sparse")
    write_model(model, tmp_path / "whole")

    class FullDisk:
        """Writes what fits, and says nothing: as COLMAP does."""

        def __init__(self, cut):
            self.cut = cut

        def __getattr__(self, name):
            return getattr(model, name)

        def write(self, folder):
            model.write(folder)
            self.cut(Path(folder))

    for number, cut in enumerate(
        (
            lambda folder: os.truncate(folder / "points3D.bin", 1000),
            lambda folder: os.truncate(folder / "images.bin", 1000),
            lambda folder: (folder / "points3D.bin").unlink(),
        )
    ):
        with pytest.raises(OSError, match=r"\.bin is not whole"):
            write_model(FullDisk(cut), tmp_path / str(number))


def test_only_the_named_images_are_mapped(scene, verified, tmp_path):
    chosen = scene.names[1:5]
    models = map_scene(verified, tmp_path, tmp_path / "sparse", names=chosen, structure_less=False)
    registered = {models[0].images[i].name for i in models[0].reg_image_ids()}
    assert registered == set(chosen)
