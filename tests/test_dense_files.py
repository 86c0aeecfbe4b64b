"""Files of dense matchers like LoFTR: keypoints alone, without descriptors and image size."""

import h5py
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.images import write_image
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.validate import check_files

NAMES = ("a.jpg", "sub/b.jpg")
COUNT = 40


@pytest.fixture
def scene(tmp_path):
    """What hloc's match_dense writes, and the photos."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in NAMES:
            group = file.create_group(name)
            group["keypoints"] = rng.uniform(0, 60, (COUNT, 2)).astype(np.float32)
            group["score"] = rng.integers(1, 9, COUNT)
            picture = rng.integers(0, 255, (64, 80, 3)).astype(np.uint8)
            write_image(tmp_path / "images" / name, picture)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("a.jpg/sub-b.jpg")
        group["keypoints0"] = group["keypoints1"] = np.zeros((COUNT, 2), np.float32)
        group["scores"] = np.ones(COUNT, np.float32)
        group["matches0"] = np.where(np.arange(COUNT) < 9, np.arange(COUNT), -1).astype(np.int32)
        group["matching_scores0"] = np.full(COUNT, 0.5, np.float16)
    return tmp_path


def run(scene, *words):
    return main([word if word[0] == "-" or word in WORDS else str(scene / word) for word in words])


WORDS = ("export", "plot", "check", "match", "none")


def test_the_keypoints_are_read_with_their_scores(scene):
    with FeatureStore(scene / "f.h5") as store:
        keypoints = store.read_keypoints("a.jpg")
        assert store.image_size("a.jpg") is None
    assert keypoints.score.max() > 1
    assert (keypoints.scale == 1).all()
    with MatchStore(scene / "m.h5") as store:
        assert len(store.read(*NAMES)) == 9


def test_check_tells_what_the_file_is_good_for(scene, capsys):
    assert run(scene, "check", "f.h5", "m.h5") == 0
    shown = capsys.readouterr().out
    assert (
        "no `descriptors`, as dense matchers write none: plot, export and reconstruction" in shown
    )
    assert "no `image_size`, as dense matchers write none: the photos tell it" in shown
    assert "error" not in shown


def test_export_takes_sizes_from_the_photos_or_names_the_option(scene, capsys):
    assert run(scene, "export", "f.h5", "d.db", "--matches", "m.h5", "--images", "images") == 0
    with pycolmap.Database.open(str(scene / "d.db")) as database:
        assert [(c.width, c.height) for c in database.read_all_cameras()] == [(80, 64)] * 2
        ids = sorted(image.image_id for image in database.read_all_images())
        assert len(database.read_matches(*ids)) == 9
    assert run(scene, "export", "f.h5", "e.db", "--matches", "m.h5") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "image 'a.jpg'" in message
    assert "has no image_size; give the folder of the photos (--images)" in message
    (scene / "images" / "a.jpg").unlink()
    assert run(scene, "export", "f.h5", "e.db", "--images", "images") == 2
    assert "images has no photo of that name" in capsys.readouterr().err


def test_plot_draws_and_match_says_what_it_needs(scene, capsys):
    assert run(scene, "plot", "f.h5", "images", "plots", "--matches", "m.h5") == 0
    assert len(list((scene / "plots").rglob("*.png"))) == 3
    for words in (("--filter", "none"), ()):
        assert run(scene, "match", "f.h5", "new.h5", *words) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "image 'a.jpg' in " in message
        assert "f.h5 has no descriptors, as files of dense matchers" in message
    assert not (scene / "new.h5").exists()


def test_a_reconstruction_takes_them(scene):
    report = reconstruct_from_files(
        scene / "f.h5", scene / "m.h5", None, scene / "images", scene / "out"
    )
    assert report["num_images"] == 2
    assert report["pairs"]["num_matches"] == 9


def test_one_image_without_descriptors_among_others_is_an_error(scene):
    with h5py.File(scene / "f.h5", "a") as file:
        group = file["a.jpg"]
        group["descriptors"] = np.eye(COUNT, dtype=np.float32)
        group["image_size"] = np.array([80, 64])
    found = [issue for issue in check_files(scene / "f.h5") if issue.level == "error"]
    assert [issue.place for issue in found] == ["f.h5: sub/b.jpg"] * 2
    assert "has no `descriptors`; extract this image again" in found[0].message


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f8", "<i4"])
def test_keypoints_of_every_kind_that_hloc_writes(kind, scene):
    with h5py.File(scene / "f.h5", "a") as file:
        del file["a.jpg/keypoints"]
        file["a.jpg/keypoints"] = np.full((COUNT, 2), 7.0).astype(kind)
    with FeatureStore(scene / "f.h5") as store:
        assert store.read_keypoints("a.jpg").xy.unique().tolist() == [7.0]


@pytest.mark.parametrize("kind", ["i1", "<i2", ">i4", "<i8", "<u2"])
def test_matches_of_every_kind_that_hloc_writes(kind, scene):
    values = np.zeros(COUNT) if kind == "<u2" else np.where(np.arange(COUNT) < 3, 5, -1)
    with h5py.File(scene / "m.h5", "a") as file:
        del file["a.jpg/sub-b.jpg/matches0"]
        file["a.jpg/sub-b.jpg/matches0"] = values.astype(kind)
    with MatchStore(scene / "m.h5") as store:
        assert len(store.read(*NAMES)) == (values >= 0).sum()
