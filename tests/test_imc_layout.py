import logging

import h5py
import numpy as np
import pytest

from evaluation.imc.dataset import list_scenes, read_camera, read_scene
from evaluation.relative_pose.dataset import all_pairs
from tests.helpers import data_dir
from tests.imc_photos import K_OF_FILES, write_calibration, write_pairs

ANGLE = np.radians(30)
ROTATION = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]
)


def make_scene(root, dataset="phototourism", name="tower", images=("a", "b", "c"), suffix=".jpg"):
    part = root / dataset / name / "set_100"
    (part / "images").mkdir(parents=True)
    (part / "calibration").mkdir()
    for number, image in enumerate(images):
        (part / "images" / f"{image}{suffix}").touch()
        path = part / "calibration" / f"calibration_{image}.h5"
        write_calibration(path, ROTATION, np.array([number, 2.0, 3.0]))
    return part


@pytest.mark.parametrize("dataset", ["phototourism", "pragueparks", "googleurban"])
def test_reads_the_layout(tmp_path, dataset):
    part = make_scene(tmp_path, dataset, suffix=".png")
    write_pairs(part, {"0.0": ["b-a", "c-a", "c-b"], "0.1": ["c-a"], "0.9": []})
    (scene,) = list_scenes(tmp_path, ["tower"])
    assert (scene.dataset, scene.name, scene.key) == (dataset, "tower", f"{dataset}/tower")
    assert list(scene.images) == ["a", "b", "c"]
    assert scene.images["b"].name == "b.png"
    assert scene.pairs() == scene.pairs(0.1) == (("c", "a"),)
    assert scene.pairs(0.0) == (("b", "a"), ("c", "a"), ("c", "b"))
    assert scene.pairs(0.9) == ()
    assert scene.num_dropped_pairs == 0


def test_cameras_come_into_the_house_frame(tmp_path):
    part = make_scene(tmp_path)
    camera = read_camera(part / "calibration" / "calibration_c.h5")
    np.testing.assert_allclose(camera.K[:2, 2], K_OF_FILES[:2, 2] - 0.5)
    np.testing.assert_allclose(camera.K[:2, :2], K_OF_FILES[:2, :2])
    np.testing.assert_allclose(camera.R, ROTATION)
    np.testing.assert_allclose(camera.T, [2, 2, 3])
    np.testing.assert_allclose(camera.R @ camera.pose.centre + camera.T, 0, atol=1e-12)


def test_a_subset_of_images_works(tmp_path, caplog):
    part = make_scene(tmp_path, images=("a-1", "b_2", "c-3"))
    keys = ["b_2-a-1", "c-3-a-1", "c-3-b_2", "d-a-1", "d-b_2"]
    write_pairs(part, {"0.0": keys, "0.1": keys[:4]})
    (part / "calibration" / "calibration_c-3.h5").unlink()
    with caplog.at_level(logging.WARNING):
        scene = read_scene(part.parent)
    assert scene.pairs() == (("b_2", "a-1"),)
    assert scene.num_dropped_pairs == 4
    assert scene.uncalibrated == ("c-3",)
    assert "1 images have no calibration: c-3" in caplog.text
    assert "left out 4 covisible pairs" in caplog.text


def test_all_pairs_without_lists(tmp_path):
    make_scene(tmp_path)
    (scene,) = list_scenes(tmp_path)
    assert list(scene.pairs(0.1)) == all_pairs("abc") == [("b", "a"), ("c", "a"), ("c", "b")]


def test_bags(tmp_path):
    part = make_scene(tmp_path)
    (part / "sub_set").mkdir()
    (part / "sub_set" / "2bag_000.txt").write_text("set_100/images/b.jpg\nset_100/images/a.jpg\n")
    (part / "sub_set" / "2bag_001.txt").write_text("a.jpg\nz.jpg\n")
    (part / "sub_set" / "3bag_000.txt").write_text("a\nb\nc\n")
    scene = read_scene(part.parent)
    assert scene.bags == {2: (("b", "a"),), 3: (("a", "b", "c"),)}
    assert scene.num_dropped_bags == 1


def test_roots_and_names(tmp_path):
    make_scene(tmp_path, "phototourism", "tower")
    make_scene(tmp_path, "pragueparks", "tower")
    make_scene(tmp_path, "pragueparks", "pond")
    assert len(list_scenes(tmp_path)) == 3
    assert [s.key for s in list_scenes(tmp_path / "pragueparks")] == [
        "pragueparks/pond",
        "pragueparks/tower",
    ]
    assert list_scenes(tmp_path / "pragueparks" / "pond")[0].key == "pragueparks/pond"
    named = list_scenes(tmp_path, ["pragueparks/tower", "pond"])
    assert [s.key for s in named] == ["pragueparks/tower", "pragueparks/pond"]
    with pytest.raises(ValueError, match="write its dataset too"):
        list_scenes(tmp_path, ["tower"])
    with pytest.raises(FileNotFoundError, match="no scene 'lake'.*pragueparks/pond"):
        list_scenes(tmp_path, ["lake"])


def test_errors_name_the_thing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data folder"):
        list_scenes(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no scene"):
        list_scenes(tmp_path)
    part = make_scene(tmp_path)
    write_pairs(part, {"0.1": ["b-a"]})
    with pytest.raises(ValueError, match=r"no pairs for covisibility 0\.2; it has those for 0\.1"):
        read_scene(part.parent).pairs(0.2)
    (part / "images" / "a.png").touch()
    with pytest.raises(ValueError, match="two images called a"):
        read_scene(part.parent)
    (part / "images" / "a.png").unlink()
    (part / "new-vis-pairs" / "keys-th-0.1.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"keys-th-0\.1\.npy is no list of pairs"):
        read_scene(part.parent)


@pytest.mark.parametrize("broken", ["missing", "no rotation", "no file"])
def test_broken_calibrations(tmp_path, broken):
    path = make_scene(tmp_path) / "calibration" / "calibration_a.h5"
    if broken == "no file":
        path.write_bytes(b"nothing")
    elif broken == "no rotation":
        write_calibration(path, -np.eye(3), np.zeros(3))
    else:
        with h5py.File(path, "a") as file:
            del file["T"]
    with pytest.raises(ValueError, match="calibration_a.h5.*(K, R and T|no rotation)"):
        list_scenes(tmp_path)


@pytest.mark.data
def test_real_scenes():
    reichstag, sacre_coeur = list_scenes(data_dir("imc2021"), ["reichstag", "sacre_coeur"])
    assert (len(reichstag.images), len(reichstag.pairs()), len(reichstag.pairs(0.5))) == (
        74,
        2554,
        50,
    )
    assert (len(sacre_coeur.images), len(sacre_coeur.pairs())) == (10, 45)
    assert not reichstag.uncalibrated
