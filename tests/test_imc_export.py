import dataclasses
import json
import re
import shutil

import h5py
import numpy as np
import pytest
import torch

from evaluation.imc import __main__ as imc
from evaluation.imc.dataset import DATASETS
from evaluation.imc.submission_arrays import pair_key
from evaluation.imc.submission_config import (
    CATEGORIES,
    Labels,
    Metadata,
    category_of,
    check_config,
    make_config,
)
from evaluation.imc.submission_export import Submission, export_submission, keep_inliers
from evaluation.imc.submission_validate import validate_submission
from evaluation.relative_pose.estimators import RansacOptions
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Matches
from tests.helpers import data_dir
from tests.imc_scene import make_imc_scene

LABELS = Labels("rekd-2k", "rekd", "hardnet", "mnn-0.9", "mnn")
METADATA = Metadata("REKD", "rotation-equivariant keypoints")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_imc_scene(tmp_path_factory.mktemp("imc"), num_images=4, num_points=80)


def submission(made, num_runs=1):
    """Runs differ: the first match of each pair is left out in the second, two in the third."""
    stereo = []
    for run in range(num_runs):
        path = made.features.with_name(f"inliers{run}.h5")
        with MatchStore(made.matches) as old, MatchStore.resume(path, {}, overwrite=True) as new:
            for a, b in old.pairs():
                new.write(a, b, old.read(a, b)[torch.arange(run, len(old.read(a, b)))],
                          len(made.points[a]))  # fmt: skip
        stereo.append(path)
    return Submission(made.scene, made.features, stereo, made.matches)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    export_submission(folder, [submission(made)], LABELS, METADATA)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def scenes(made):
    return {made.scene.key: list(made.scene.images)}


def findings(folder, made, level="error"):
    found = validate_submission(folder, scenes(made))
    return [f"{f.place}: {f.message}" for f in found if f.level == level]


def place(folder, file):
    return folder / "phototourism" / "courtyard" / file


def test_what_is_written_is_what_was_there(made, whole):
    with FeatureStore(made.features) as store:
        for name in store.names():
            features = store.read(name)
            expected = {
                "keypoints": features.keypoints.xy,
                "descriptors": features.descriptors,
                "scores": features.keypoints.score,
                "scales": features.keypoints.scale,
                "angles": torch.rad2deg(features.keypoints.angle),
            }
            for kind, array in expected.items():
                with h5py.File(place(whole, f"{kind}.h5")) as file:
                    assert sorted(file) == store.names() == sorted(made.scene.images)
                    assert file[name].dtype == np.float32
                    np.testing.assert_array_equal(file[name][:], array.numpy())


def test_pairs_have_the_last_name_first_and_rows_in_that_order(made, whole):
    names = sorted(made.scene.images)
    a, b = names[1], names[0]
    with h5py.File(place(whole, "matches_multiview.h5")) as file:
        assert len(file) == len(names) * (len(names) - 1) // 2
        assert a > b
        index = file[f"{a}-{b}"][:]
    assert index.shape[0] == 2
    assert index.dtype.kind == "i"
    assert pair_key(b, a) == pair_key(a, b) == f"{a}-{b}"
    np.testing.assert_array_equal(made.points[a][index[0]], made.points[b][index[1]])


def test_config_has_all_fields(whole):
    (method,) = json.loads((whole / "config.json").read_text())
    assert method["metadata"]["method_name"] == "REKD"
    assert method["config_common"] == {
        "json_label": "rekd-2k",
        "keypoint": "rekd",
        "descriptor": "hardnet",
        "num_keypoints": 2048,
    }
    assert method["config_phototourism_stereo"]["geom"] == {"method": "cv2-8pt"}
    assert method["config_phototourism_stereo"]["custom_matches_name"] == "mnn-0.9"
    assert method["config_phototourism_multiview"]["custom_matches_name"] == "mnn"
    assert "config_pragueparks_stereo" not in method


def test_three_runs_are_three_files_and_one_run_removes_them(made, tmp_path):
    export_submission(tmp_path, [submission(made, 3)], LABELS, METADATA)
    assert not findings(tmp_path, made)
    assert any("runs stereo once" in text for text in findings(tmp_path, made, "info"))
    with h5py.File(place(tmp_path, "matches_stereo_2.h5")) as file:
        shapes = {array.shape[1] for array in file.values()}
    with h5py.File(place(tmp_path, "matches_multiview.h5")) as file:
        assert {array.shape[1] - 2 for array in file.values()} == shapes
    export_submission(tmp_path, [submission(made)], LABELS, METADATA)
    assert not place(tmp_path, "matches_stereo_1.h5").exists()
    with pytest.raises(ValueError, match="1 or 3 stereo runs"):
        submission(made, 2)


def test_too_many_keypoints_are_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.imc.submission_config.CATEGORIES", (10, 50))
    with pytest.raises(ValueError, match="takes 50 at most"):
        export_submission(tmp_path, [submission(made)], LABELS, METADATA)


def test_whole_submission_has_no_flaw(made, whole):
    assert findings(whole, made) == []
    assert findings(whole, made, "warning") == []


def rewrite(path, change):
    """Change the arrays of a file: ``change`` gets a dictionary of them."""
    with h5py.File(path) as file:
        arrays = {name: file[name][:] for name in file}
    change(arrays)
    path.unlink()
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def first_set(value):
    def change(arrays):
        name = sorted(arrays)[-1]
        arrays[name] = value(arrays[name])

    return change


def with_nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


def beyond(array):
    array = array.copy()
    array[1, 0] = 5000
    return array


def reverse_a_key(arrays):
    name = sorted(arrays)[0]
    a, b = name.split("-")
    arrays[f"{b}-{a}"] = arrays.pop(name)


DAMAGES = [
    ("keypoints.h5", lambda a: a.pop(sorted(a)[0]), "is missing"),
    ("keypoints.h5", lambda a: a.update(stranger=np.zeros((3, 2), "f4")), "is no name of the data"),
    ("keypoints.h5", first_set(lambda x: np.zeros((len(x), 3), "f4")), r"must be \(keypoint, 2\)"),
    ("keypoints.h5", first_set(lambda x: x[:, 0]), r"must be \(keypoint, 2\)"),
    ("keypoints.h5", first_set(lambda x: x.astype("i4")), "not floating point"),
    ("keypoints.h5", first_set(with_nan), "not finite"),
    ("keypoints.h5", first_set(lambda x: np.zeros((2049, 2), "f4")), "category is 2048"),
    ("keypoints.h5", lambda a: a.clear(), "holds nothing"),
    ("descriptors.h5", first_set(lambda x: x[:-1]), "rows for"),
    ("descriptors.h5", first_set(lambda x: x[:, :32]), "64 to 2048 channels"),
    ("descriptors.h5", first_set(lambda x: x[:, :64]), "differ"),
    ("descriptors.h5", first_set(with_nan), "not finite"),
    ("scores.h5", first_set(lambda x: x[:-1]), "rows for"),
    ("scales.h5", first_set(lambda x: x[:, None]), r"not floats of \(keypoint,\)"),
    ("angles.h5", first_set(with_nan), "not finite"),
    ("matches_multiview.h5", lambda a: a.pop(sorted(a)[0]), "is missing"),
    ("matches_multiview.h5", reverse_a_key, "the other way round"),
    ("matches_stereo_0.h5", first_set(lambda x: x.T), r"must be \(2, match\)"),
    ("matches_stereo_0.h5", first_set(lambda x: x.astype("f4")), "not of integers"),
    ("matches_stereo_0.h5", first_set(beyond), "to 5000 in the second image"),
    ("matches_stereo_0.h5", first_set(lambda x: x - 1000), "indices from -1000"),
]


@pytest.mark.parametrize(("file", "change", "message"), DAMAGES)
def test_damaged_arrays_are_found(copy, made, file, change, message):
    rewrite(place(copy, file), change)
    assert re.search(message, "\n".join(findings(copy, made)))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("keypoints.h5", "is missing"),
        ("matches_multiview.h5", "is missing"),
        ("matches_stereo_0.h5", "is missing"),
    ],
)
def test_missing_files_are_found(copy, made, file, message):
    place(copy, file).unlink()
    assert any(text.startswith(f"phototourism/courtyard/{file}") and message in text
               for text in findings(copy, made))  # fmt: skip


def test_other_files_of_matches_are_found(copy, made):
    shutil.copy(place(copy, "matches_stereo_0.h5"), place(copy, "matches_stereo_2.h5"))
    shutil.copy(place(copy, "matches_stereo_0.h5"), place(copy, "matches_mine.h5"))
    found = "\n".join(findings(copy, made))
    assert "one run or three" in found
    assert "no file of the benchmark has this name" in found
    shutil.copy(place(copy, "matches_stereo_0.h5"), place(copy, "matches.h5"))
    assert "stands for both tasks" in "\n".join(findings(copy, made))


def test_files_that_cannot_be_read_are_found(copy, made):
    place(copy, "scores.h5").write_bytes(b"no HDF5")
    (copy / "config.json").write_text("{no json")
    found = "\n".join(findings(copy, made))
    assert "scores.h5: cannot be read" in found
    assert "config.json: cannot be read" in found


def test_scenes_must_be_those_of_the_data(copy, made):
    shutil.copytree(place(copy, "."), copy / "pragueparks" / "tree")
    assert any("not validated" in text for text in findings(copy, made, "warning"))
    shutil.rmtree(place(copy, "."))
    assert findings(copy, made) == ["phototourism/courtyard: the submission lacks this scene"]
    with pytest.raises(FileNotFoundError, match="no submission folder"):
        validate_submission(copy / "absent", scenes(made))


def test_large_descriptors_need_matches(copy, made):
    rewrite(place(copy, "descriptors.h5"), lambda a: a.update({k: np.tile(v, 2) for k, v in a.items()}))  # fmt: skip  # noqa: E501
    assert findings(copy, made) == []
    for path in place(copy, ".").glob("matches*"):
        path.unlink()
    found = "\n".join(findings(copy, made))
    assert "1024 bytes, 512 are allowed without files of matches" in found
    assert "use_custom_matches for stereo is True, files of matches: False" in found


def config():
    return make_config(LABELS, METADATA, 2048, DATASETS)


def drop(*keys):
    def change(method):
        for key in keys[:-1]:
            method = method[key]
        del method[keys[-1]]

    return change


def put(value, *keys):
    def change(method):
        for key in keys[:-1]:
            method = method[key]
        method[keys[-1]] = value

    return change


CONFIG_DAMAGES = [
    (drop("metadata"), "metadata is missing"),
    (drop("metadata", "authors"), "metadata lacks 'authors'"),
    (put(3, "metadata", "contact_email"), "contact_email must be str"),
    (put("x", "metadata", "mood"), "unknown key 'mood'"),
    (drop("config_common"), "config_common is missing"),
    (drop("config_common", "json_label"), "lacks 'json_label'"),
    (put("Rekd!", "config_common", "keypoint"), "keypoint must be of the form"),
    (put("a_b", "config_common", "descriptor"), "descriptor must be of the form"),
    (put("2048", "config_common", "num_keypoints"), "num_keypoints must be one of"),
    (put(4000, "config_common", "num_keypoints"), "num_keypoints must be one of"),
    (put({}, "config_phototourism_stereo"), "config_phototourism_stereo: is missing or empty"),
    (drop("config_googleurban_multiview"), "config_googleurban_multiview: is missing"),
    (drop("config_pragueparks_stereo", "use_custom_matches"), "must be true or false"),
    (put({"method": "nn"}, "config_phototourism_stereo", "matcher"), "matcher is not allowed"),
    (
        put("cmp-degensac-f", "config_phototourism_stereo", "geom", "method"),
        "geom must be {'method': 'cv2-8pt'}",
    ),
    (drop("config_phototourism_multiview", "custom_matches_name"), "custom_matches_name must be"),
    (put(False, "config_phototourism_stereo", "use_custom_matches"), "lacks 'matcher'"),
    (put({}, "config_moon_stereo"), "unknown key 'config_moon_stereo'"),
]


@pytest.mark.parametrize(("change", "message"), CONFIG_DAMAGES)
def test_damaged_configs_are_found(change, message):
    content = config()
    assert check_config(content, DATASETS) == []
    change(content[0])
    assert any(message in flaw for flaw in check_config(content, DATASETS))


def test_config_must_list_one_method():
    assert check_config({}, DATASETS)
    assert check_config([], DATASETS)
    assert check_config(config() * 2, DATASETS)


def test_labels_are_brought_into_the_allowed_form():
    labels = Labels("REKD fast_2k", "rootsift+ours", "Hard_Net")
    assert dataclasses.astuple(labels) == (
        "rekd-fast_2k", "rootsift-ours", "hard-net", "custom-matches", "custom-matches",
    )  # fmt: skip
    with pytest.raises(ValueError, match="needs letters"):
        Labels("!", "a", "b")


def test_categories():
    assert [category_of(n) for n in (0, 2048, 2049, 8000)] == [2048, 2048, 8000, 8000]
    assert CATEGORIES == (2048, 8000)
    with pytest.raises(ValueError, match="8001 keypoints"):
        category_of(8001)


def test_inliers_are_the_true_matches(made, tmp_path):
    """Half of the matches are wrong; the other half is found, the same for the same seed."""
    rng = np.random.default_rng(0)
    spoilt = tmp_path / "spoilt.h5"
    right = {}
    with MatchStore(made.matches) as old, MatchStore.resume(spoilt, {}) as new:
        for a, b in old.pairs():
            index = old.read(a, b).index.numpy().copy()
            wrong = rng.choice(len(index), len(index) // 2, replace=False)
            right[a, b] = {tuple(row) for row in np.delete(index, wrong, axis=0).tolist()}
            index[wrong, 1] = np.roll(index[wrong, 1], 1)
            new.write(a, b, Matches(torch.tensor(index), torch.ones(len(index))),
                      len(made.points[a]))  # fmt: skip
    options = RansacOptions("magsac", threshold_px=1.0)
    pairs = list(right)
    path = keep_inliers(made.features, spoilt, pairs, options, 0, tmp_path / "inliers")
    shares = []
    with MatchStore(path) as store:
        for pair in pairs:
            found = {tuple(row) for row in store.read(*pair).index.tolist()}
            shares.append(len(found & right[pair]) / len(found | right[pair]))
    assert np.median(shares) > 0.9
    before = path.read_bytes()
    assert keep_inliers(made.features, spoilt, pairs, options, 0, tmp_path / "inliers") == path
    assert path.read_bytes() == before
    assert keep_inliers(made.features, spoilt, pairs[:1], options, 1, tmp_path / "inliers") != path
    with pytest.raises(ValueError, match="must not use intrinsics"):
        keep_inliers(made.features, spoilt, pairs, RansacOptions("essential"), 0, tmp_path)


def test_validate_on_the_command_line(made, copy, capsys):
    command = ["--validate", str(copy), "--data", str(made.root)]
    assert imc.main(command) == 0
    assert "the largest image has" in capsys.readouterr().out
    place(copy, "keypoints.h5").unlink()
    assert imc.main(command) == 1
    assert "keypoints.h5" in capsys.readouterr().out
    assert imc.main([*command, "--scenes", "moon"]) == 2


@pytest.mark.slow
@pytest.mark.data
def test_export_on_the_command_line(tmp_path, capsys):
    root = data_dir("imc2021")
    (tmp_path / "me.json").write_text('{"authors": "A. Uthor"}')
    command = [
        "--data", str(root), "--scenes", "sacre_coeur", "--method", "rootsift", "--ratio", "0.8",
        "--num-keypoints", "300", "--num-pairs", "3", "--seeds", "1", "--jobs", "1",
        "--estimator", "magsac", "--out", str(tmp_path / "out"), "--export", str(tmp_path / "sub"),
        "--metadata", str(tmp_path / "me.json"), "--export-runs", "1",
    ]  # fmt: skip
    assert imc.main(command) == 0
    assert "category is 2048" in capsys.readouterr().out
    (method,) = json.loads((tmp_path / "sub" / "config.json").read_text())
    assert method["metadata"]["authors"] == "A. Uthor"
    assert method["metadata"]["method_name"] == "rootsift"
    with h5py.File(tmp_path / "sub/phototourism/sacre_coeur/matches_stereo_0.h5") as file:
        assert len(file) == 45
    assert imc.main([*command, "--rotated", "1"]) == 2
    (tmp_path / "me.json").write_text('{"author": "A. Uthor"}')
    assert imc.main(command) == 2
