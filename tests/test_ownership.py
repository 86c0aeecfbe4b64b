"""Nothing that someone else made is replaced unless the user asks; some things never are."""

import sqlite3

import cv2
import h5py
import numpy as np
import pytest
import torch

from rekd_hloc.cli.main import main
from rekd_hloc.features import convert
from rekd_hloc.matching.pairs import write_pairs
from rekd_hloc.ownership import (
    HDF5,
    SAFETENSORS,
    SQLITE,
    TEXT,
    MadeFiles,
    kind_of,
    refuse_foreign,
    refuse_kind,
    stamp,
)
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.database_record import RECONSTRUCTION as OWNER
from rekd_hloc.sfm.database_record import refuse_foreign_database, write_database
from rekd_hloc.sfm.mapping import map_scene
from rekd_hloc.sfm.pycolmap_compat import make_camera, pycolmap
from rekd_hloc.sfm.verification import verify
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Matches
from rekd_hloc.viz.draw import plot_files
from rekd_hloc.weight_files import write_weights
from tests.helpers import random_features, textured_image
from tests.synthetic_scene import make_scene

FOREIGN = "was not made by rekd-hloc; choose another output, or replace it with --overwrite"


def make_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), textured_image(60, 80))


def make_hdf5(path):
    with h5py.File(path, "w") as file:
        file["of a user"] = np.arange(3)


def make_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cameras (camera_id INTEGER)")


THINGS = {
    "p.jpg": make_photo,
    "p.png": make_photo,
    "p.tif": make_photo,
    "f.h5": make_hdf5,
    "d.db": make_database,
    "t.txt": lambda path: path.write_text("notes of years\n"),
    "p.pdf": lambda path: path.write_bytes(b"%PDF-1.7\n\0"),
    "a.zip": lambda path: path.write_bytes(b"PK\3\4\0\0"),
    "w.safetensors": lambda path: path.write_bytes(b"\2" + bytes(7) + b'{"}' + bytes(9)),
    "folder": lambda path: path.mkdir(),
}
"""What users have, by name."""
OURS = {"f.h5": HDF5, "d.db": SQLITE, "t.txt": TEXT, "w.safetensors": SAFETENSORS}
"""What of it could be an older output, and of which kind."""


def content(path):
    return sorted(p.name for p in path.iterdir()) if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize("name", THINGS)
@pytest.mark.parametrize("kind", OURS.values())
def test_a_thing_of_another_kind_is_never_replaced(name, kind, tmp_path):
    path = tmp_path / name
    THINGS[name](path)
    if OURS.get(name) == kind:
        refuse_kind(path, kind)
        refuse_foreign(path, kind, overwrite=True)
        with pytest.raises(FileExistsError, match=FOREIGN):
            refuse_foreign(path, kind, overwrite=False)
        return
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=rf"{name} is .*, where {kind} would go; choose"):
            refuse_foreign(path, kind, overwrite=overwrite)


@pytest.mark.parametrize("kind", OURS.values())
def test_what_holds_nothing_and_what_is_not_there_may_be_written(kind, tmp_path):
    (tmp_path / "empty").touch()
    for name in ("empty", "none"):
        refuse_foreign(tmp_path / name, kind, overwrite=False)
    (tmp_path / "damaged").write_bytes(bytes(5000))
    with pytest.raises(FileExistsError):
        refuse_foreign(tmp_path / "damaged", kind, overwrite=False)
    if kind != TEXT:  # a file of ours whose head is lost may be given up
        refuse_foreign(tmp_path / "damaged", kind, overwrite=True)


def test_kinds_are_told_by_the_first_bytes_alone(tmp_path):
    make_photo(tmp_path / "p.jpg")
    (tmp_path / "p.jpg").rename(tmp_path / "features.h5")
    assert kind_of(tmp_path / "features.h5") == "a JPEG image"
    (tmp_path / "latin.txt").write_bytes("Brücke a.jpg".encode("latin-1"))
    assert kind_of(tmp_path / "latin.txt") == TEXT
    (tmp_path / "link").symlink_to(tmp_path / "latin.txt")
    assert kind_of(tmp_path / "link") == TEXT


def test_the_record_knows_files_and_folders_by_their_content(tmp_path):
    made = MadeFiles(tmp_path)
    made.write("a.txt", b"ours")
    (tmp_path / "scratch" / "0").mkdir(parents=True)
    (tmp_path / "scratch" / "0" / "images.bin").write_bytes(b"model")
    made.add("sparse", tmp_path / "scratch")
    again = MadeFiles(tmp_path)
    assert "sparse" not in again
    (tmp_path / "scratch").rename(tmp_path / "sparse")
    assert "a.txt" in again
    assert "sparse" in again
    (tmp_path / "sparse" / ".DS_Store").touch()
    assert "sparse" in again
    (tmp_path / "sparse" / "notes.txt").write_text("mine")
    assert "sparse" not in again
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.txt was changed since rekd-hloc"):
        again.refuse_foreign("a.txt", TEXT, overwrite=False)
    again.refuse_foreign("a.txt", TEXT, overwrite=True)
    (tmp_path / "b.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=FOREIGN):
        again.refuse_foreign("b.txt", TEXT, overwrite=False)


def test_a_record_that_was_cut_short_keeps_its_other_lines(tmp_path):
    MadeFiles(tmp_path).write("a.txt", b"ours")
    path = tmp_path / ".rekd_hloc" / "made.jsonl"
    path.write_bytes(path.read_bytes() + b'{"name": "b.txt", "sta')
    MadeFiles(tmp_path).write("c.txt", b"ours")
    again = MadeFiles(tmp_path)
    assert "a.txt" in again
    assert "c.txt" in again


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("scene"), num_images=3, num_points=60)


def export(scene, path, **options):
    with FeatureStore(scene.features) as features, MatchStore(scene.matches) as matches:
        export_database(path, None, features, matches, scene.pairs, **options)


def test_a_database_is_replaced_as_long_as_it_is_only_ours(scene, tmp_path):
    path = tmp_path / "d.db"
    export(scene, path)
    export(scene, path)
    with pycolmap.Database.open(str(path)) as database:  # to look at it is no change
        assert database.num_images() == 3
    export(scene, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.db"]


def test_a_database_of_other_features_or_of_a_reconstruction_stays(scene, tmp_path):
    path = tmp_path / "d.db"
    export(scene, path)
    other = make_scene(tmp_path / "other", num_images=2, num_points=30)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"database of the features in .*h5; choose"):
        export(other, path)
    assert path.read_bytes() == before
    export(other, path, overwrite=True, owner=OWNER)
    with pytest.raises(FileExistsError, match=r"is the database of a reconstruction; choose"):
        export(other, path)


def change_camera(path, scene):
    with pycolmap.Database.open(str(path)) as database:
        (camera, *_) = database.read_all_cameras()
        camera.params = [123.0, *list(camera.params)[1:]]
        database.update_camera(camera)


def clear_matches(path, scene):
    with pycolmap.Database.open(str(path)) as database:
        database.clear_matches()


def verify_pairs(path, scene):
    verify(path, scene.pairs, 0)


@pytest.mark.parametrize("change", [verify_pairs, change_camera, clear_matches])
def test_a_database_that_a_user_went_on_with_stays(change, scene, tmp_path):
    path = tmp_path / "d.db"
    export(scene, path)
    change(path, scene)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"d\.db was changed since rekd-hloc made it; choose"):
        export(scene, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.db"]
    export(scene, path, overwrite=True)
    export(scene, path)


def test_a_database_of_colmap_stays(scene, tmp_path):
    path = tmp_path / "mydb.db"
    with pycolmap.Database.open(str(path)) as database:
        database.write_camera(make_camera("PINHOLE", 10, 10, [9.0, 9.0, 5.0, 5.0]))
    with pytest.raises(FileExistsError, match=FOREIGN):
        export(scene, path)
    with pycolmap.Database.open(str(path)) as database:
        assert database.num_cameras() == 1
    export(scene, path, overwrite=True)


def test_a_database_that_was_being_written_when_its_run_was_killed_is_ours(scene, tmp_path):
    path = tmp_path / "d.db"
    export(scene, path)

    def run():
        with write_database(path, owner=OWNER):
            change_camera(path, scene)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    refuse_foreign_database(path, owner=OWNER, overwrite=False)


@pytest.mark.parametrize("name", ["p.jpg", "f.h5", "t.txt", "folder"])
def test_the_command_export_never_replaces_another_kind(name, scene, tmp_path, capsys):
    path = tmp_path / name
    THINGS[name](path)
    before = content(path)
    assert main(["export", str(scene.features), str(path), "--overwrite"]) == 2
    assert f"{name} is " in capsys.readouterr().err
    assert content(path) == before


def test_export_onto_the_features_or_matches_themselves_is_refused(scene, capsys):
    for path in (scene.features, scene.matches):
        before = path.read_bytes()
        assert main(["export", str(scene.features), str(path)]) == 2
        assert "is an HDF5 file, where an SQLite database would go" in capsys.readouterr().err
        assert path.read_bytes() == before


def test_pairs_replace_nothing_but_pairs_and_only_when_asked(tmp_path, capsys):
    for name in ("a.jpg", "b.jpg"):
        make_photo(tmp_path / "images" / name)
    path = tmp_path / "pairs.txt"
    arguments = ["pairs", str(tmp_path / "images"), str(path)]
    assert main(arguments) == 0
    assert main(arguments) == 0
    path.write_text("a.jpg b.jpg # my choice\n")
    assert main(arguments) == 2
    assert "pairs.txt is there and holds something else; choose" in capsys.readouterr().err
    assert path.read_text() == "a.jpg b.jpg # my choice\n"
    assert main([*arguments, "--overwrite"]) == 0
    assert path.read_text() == "a.jpg b.jpg\n"
    for name in ("f.h5", "p.jpg", "folder", "d.db"):
        THINGS[name](tmp_path / name)
        before = content(tmp_path / name)
        for more in ([], ["--overwrite"]):
            assert main(["pairs", str(tmp_path / "images"), str(tmp_path / name), *more]) == 2
        assert content(tmp_path / name) == before
    with pytest.raises(FileExistsError):
        write_pairs(tmp_path / "folder", [])


@pytest.mark.parametrize("name", ["p.png", "t.txt", "p.pdf", "d.db", "folder"])
def test_features_replace_no_other_kind_though_asked(name, tmp_path):
    path = tmp_path / name
    THINGS[name](path)
    before = content(path)
    for store in (FeatureStore, MatchStore):
        with pytest.raises(FileExistsError, match="where an HDF5 file would go"):
            store.resume(path, {"weights": "x"}, overwrite=True)
    assert content(path) == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def append(store, path, **options):
    """Return a store with one image or pair in its journal, not closed."""
    opened = store.resume(path, {"version": store.__name__}, **options)
    if store is FeatureStore:
        opened.write("a.png", random_features(5))
    else:
        opened.write("a.png", "b.png", Matches(torch.tensor([[0, 1]]), torch.ones(1)), 5)
    return opened


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(("old", "new"), [(FeatureStore, MatchStore), (MatchStore, FeatureStore)])
def test_matches_never_replace_features_nor_these_matches(
    old, new, overwrite, is_finished, tmp_path
):
    path = tmp_path / "a.h5"
    store = append(old, path)
    store.close() if is_finished else store._file.release()
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"a\.h5 holds (features|matches), where"):
        append(new, path, overwrite=overwrite)
    assert content(tmp_path) == before
    with append(old, path, overwrite=overwrite):
        pass


@pytest.fixture
def picture(tmp_path):
    """Features of one image, and arguments to plot it."""
    make_photo(tmp_path / "images" / "a.png")
    with FeatureStore.resume(tmp_path / "f.h5", {"made": "here"}) as store:
        store.write("a.png", random_features(5, (80, 60)))
    return tmp_path / "f.h5", tmp_path / "images", tmp_path / "out"


def test_pictures_of_ours_are_drawn_anew_and_those_of_users_stay(picture):
    (path,) = plot_files(*picture)
    assert plot_files(*picture) == [path]
    drawn = path.read_bytes()
    make_photo(path)
    mine = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.png\.png was changed since rekd-hloc made it"):
        plot_files(*picture)
    assert path.read_bytes() == mine
    plot_files(*picture, overwrite=True)
    assert path.read_bytes() == drawn


def test_no_picture_is_drawn_where_one_of_a_user_is(picture):
    make_photo(picture[2] / "keypoints" / "a.png.png")
    before = stamp(picture[2])
    with pytest.raises(FileExistsError, match=FOREIGN):
        plot_files(*picture)
    assert stamp(picture[2]) == before
    assert [p.name for p in picture[2].iterdir()] == ["keypoints"]


def test_a_folder_with_notes_is_no_folder_of_models(scene, tmp_path):
    export(scene, tmp_path / "d.db")
    out = tmp_path / "sparse"
    (out / "0").mkdir(parents=True)
    (out / "0" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt is no part of a model"):
        map_scene(tmp_path / "d.db", tmp_path, out)
    assert (out / "0" / "notes.txt").read_text() == "mine"


def test_weights_replace_no_others_and_no_other_kind(tmp_path, monkeypatch, capsys):
    parts = dict.fromkeys(("backbone", "head", "network"))
    monkeypatch.setattr(convert, "_read_checkpoint", lambda path: parts)
    monkeypatch.setattr(
        convert,
        "bake_training_checkpoint",
        lambda path, out: write_weights(out, {"w": torch.ones(2)}, {"from": path.name}),
    )
    out = tmp_path / "w.safetensors"
    for _ in range(2):
        assert main(["export-weights", "one.pt", str(out)]) == 0
    before = out.read_bytes()
    assert main(["export-weights", "two.pt", str(out)]) == 2
    assert "w.safetensors is there and holds something else" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["export-weights", "two.pt", str(out), "--overwrite"]) == 0
    for name in ("p.jpg", "f.h5", "a.zip", "folder"):
        THINGS[name](tmp_path / name)
        before = content(tmp_path / name)
        assert main(["export-weights", "one.pt", str(tmp_path / name), "--overwrite"]) == 2
        assert content(tmp_path / name) == before


@pytest.mark.parametrize("place", ["mine.jpg", "view_00.jpg", "sub/view_00.jpg"])
def test_the_demo_joins_no_photos_of_a_user(place, tmp_path, capsys):
    make_photo(tmp_path / "images" / place)
    before = stamp(tmp_path)
    for more in ([], ["--overwrite"]):
        assert main(["demo", str(tmp_path), "--conf", "rekd-fast", *more]) == 2
    assert f"{place} is no image of the demo; choose another output" in capsys.readouterr().err
    assert stamp(tmp_path) == before
