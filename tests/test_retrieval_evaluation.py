"""Recall of retrieval: scenes in files of their own or in one, and lists of true partners."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.retrieval import main, read_nearest, recall, true_partners
from rekd_hloc.retrieval.codebook import save_codebook, train_codebook
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import random_features

SCENES = ("a", "b")
NUM_VIEWS = 3


def view(scene, number):
    """Features of a view: the scene's descriptors with some noise."""
    features = random_features(60, seed=number)
    points = torch.randn(60, 128, generator=torch.Generator().manual_seed(ord(scene[0])))
    noise = 0.1 * torch.randn(60, 128, generator=torch.Generator().manual_seed(number))
    return type(features)(features.keypoints, F.normalize(points + noise, dim=1), (640, 480))


def write(path, images):
    path.parent.mkdir(exist_ok=True)
    with FeatureStore.resume(path, {"descriptor_weights": "0" * 12}) as store:
        for name, features in images.items():
            store.write(name, features)
    return str(path)


@pytest.fixture(scope="module")
def codebook(tmp_path_factory):
    path = tmp_path_factory.mktemp("book") / "book.safetensors"
    rows = torch.cat([view(scene, 9).descriptors for scene in SCENES])
    save_codebook(path, train_codebook(rows, num_cells=2, words_per_cell=16), {})
    return str(path)


def recalls_of(capsys, *arguments):
    assert main([*arguments, "--at", "1", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {line[0]: line[1:] for line in lines[1:-1]}


def test_scenes_in_files_of_their_own_and_in_one(tmp_path, codebook, capsys):
    views = {s: {f"{n}.jpg": view(s, n) for n in range(NUM_VIEWS)} for s in SCENES}
    files = [write(tmp_path / scene / "features.h5", views[scene]) for scene in SCENES]
    mixed = write(
        tmp_path / "mixed.h5", {f"{s}/{n}": f for s in SCENES for n, f in views[s].items()}
    )
    one_each = recalls_of(capsys, *files, "--codebook", codebook)
    assert one_each == {s: [n, "1.000", "1.000"] for s, n in zip("ab", "33", strict=True)} | {
        "all": ["6", "1.000", "1.000"]
    }
    assert recalls_of(capsys, "--mixed", mixed, "--codebook", codebook) == one_each
    only_b = recalls_of(capsys, "--mixed", mixed, "--codebook", codebook, "--distractors", "a*")
    assert only_b == {"b": ["3", "1.000", "1.000"], "all": ["3", "1.000", "1.000"]}


def test_a_later_file_replaces_images(tmp_path, codebook, capsys):
    """A view of b under the name of one of a is not found by the others of a."""
    mixed = {f"{s}/{n}.jpg": view(s, n) for s in SCENES for n in range(NUM_VIEWS)}
    files = [write(tmp_path / "m.h5", mixed), write(tmp_path / "o.h5", {"a/0.jpg": view("b", 7)})]
    found = recalls_of(capsys, "--mixed", *files, "--codebook", codebook)
    assert float(found["a"][2]) < 0.7


def test_another_engine_is_measured_by_its_lists(tmp_path, codebook, capsys):
    mixed = {f"{s}/{n}.jpg": view(s, n) for s in SCENES for n in range(NUM_VIEWS)}
    lists = tmp_path / "lists.txt"
    lists.write_text("a/0.jpg a/1.jpg\na/0.jpg b/1.jpg\nb/0.jpg b/1.jpg\nb/0.jpg b/2.jpg\n")
    arguments = ["--mixed", write(tmp_path / "m.h5", mixed), "--codebook", codebook]
    found = recalls_of(capsys, *arguments, "--nearest", str(lists))
    assert found["a"] == ["3", "0.333", "0.167"]
    assert found["b"] == ["3", "0.333", "0.333"]
    lists.write_text("a/0.jpg c/1.jpg\n")
    with pytest.raises(ValueError, match="line 1: no two names of images, got 'a/0.jpg c/1.jpg'"):
        read_nearest(lists, list(mixed))


def test_partners_by_a_list_and_by_a_database(tmp_path):
    names = ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg", "far/0.jpg"]
    pairs = tmp_path / "keys.npy"
    np.save(pairs, ["0-1", "1-9"])
    database = write_database(tmp_path / "d.db", ["b/0.jpg", "b/1.jpg", "b/2.jpg"])
    partners = true_partners(names, {"a": str(pairs), "": str(database)}, ["f*"])
    assert partners == {
        "a/0.jpg": {"a/1.jpg"}, "a/1.jpg": {"a/0.jpg"},
        "b/0.jpg": {"b/1.jpg"}, "b/1.jpg": {"b/0.jpg"},
    }  # fmt: skip
    own = write_database(tmp_path / "own.db", ["0.jpg", "1.jpg", "2.jpg"])
    assert true_partners(names[3:6], {"b": str(own)}) == {
        "b/0.jpg": {"b/1.jpg"}, "b/1.jpg": {"b/0.jpg"},
    }  # fmt: skip
    assert recall({"b/0.jpg": ["b/1.jpg"]}, {"b/0.jpg": {"b/1.jpg", "b/2.jpg"}}, 2) == 0.5


def write_database(path, names):
    """Two pairs with the first image: one of 30 verified matches, one of 29."""
    with pycolmap.Database.open(str(path)) as database:
        camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", 500.0, 640, 480)
        camera_id = database.write_camera(camera)
        ids = [database.write_image(pycolmap.Image(n, camera_id=camera_id)) for n in names]
        for other, count in zip(ids[1:], (30, 29), strict=True):
            index = np.tile(np.arange(count, dtype=np.uint32)[:, None], (1, 2))
            geometry = pycolmap.TwoViewGeometry(config=2, inlier_matches=index)
            database.write_two_view_geometry(ids[0], other, geometry)
    return path
