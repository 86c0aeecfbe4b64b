"""Names that look one, names that become one, and names too long for a file."""

import unicodedata

import h5py
import numpy as np
import pytest

from rekd_hloc.images import write_image
from rekd_hloc.known_names import find_name, suggest
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import make_pairs, read_pairs, unique_pairs
from rekd_hloc.sfm.image_folder import check_names
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.validate import check_files
from rekd_hloc.types import Matches
from rekd_hloc.viz.draw import plot_files
from tests.helpers import random_features

ONE, TWO = (unicodedata.normalize(form, "é1.jpg") for form in ("NFC", "NFD"))
HANGUL = [unicodedata.normalize(form, "sub/한글.png") for form in ("NFC", "NFD")]


@pytest.mark.parametrize(("known", "given"), [(ONE, TWO), (TWO, ONE), HANGUL, HANGUL[::-1]])
def test_both_forms_of_letters_are_one_name(known, given, tmp_path):
    assert given != known
    assert find_name(given, [known, "b.jpg"]) == known
    assert unique_pairs([(given, "b.jpg")], [known, "b.jpg"]) == [(known, "b.jpg")]
    (tmp_path / "pairs.txt").write_text(f"{given} b.jpg\n", encoding="utf-8")
    assert read_pairs(tmp_path / "pairs.txt", [known, "b.jpg"]) == [(known, "b.jpg")]
    write_image(tmp_path / known, np.zeros((9, 9, 3), np.uint8))
    assert check_names(tmp_path, [given]).images == [known]


def test_a_form_that_two_names_have_is_neither():
    assert find_name(ONE, [ONE, TWO]) == ONE
    assert find_name(TWO, [ONE, TWO]) == TWO
    mixed = unicodedata.normalize("NFD", "é") + "é.jpg"
    forms = [unicodedata.normalize(form, mixed) for form in ("NFC", "NFD")]
    assert find_name(mixed, forms) is None
    with pytest.raises(ValueError, match=r"unknown image .*By code points '.*', not 'e\\u0301"):
        unique_pairs([(mixed, "b.jpg")], [*forms, "b.jpg"])


@pytest.mark.parametrize(
    ("given", "known", "shown"),
    [
        ("b.jgp", "b.jpg", "; did you mean 'b.jpg'?"),
        ("а.jpg", "a.jpg", "By code points 'a.jpg', not '\\u0430.jpg'"),
        ("a\u00a0b.jpg", "a b.jpg", "By code points 'a b.jpg', not 'a\\xa0b.jpg'"),
    ],
)
def test_names_that_look_one_are_shown_with_escapes(given, known, shown):
    assert shown in suggest(given, [known])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("sub-dir/a.jpg", "sub/dir-a.jpg"),
        ("x-a.jpg", "x/a.jpg"),
        ("1/2-3/4.png", "1-2/3-4.png"),
    ],
)
def test_names_that_become_one_are_named_before_they_are_matched(a, b, tmp_path):
    features = tmp_path / "f.h5"
    with FeatureStore.resume(features, {"made": "here"}) as store:
        for name in (a, b, "c.jpg"):
            store.write(name, random_features(5))
    expected = "cannot tell '.*' from '.*', since '/' becomes '-' there; rename one"
    with pytest.raises(ValueError, match=expected) as error:
        make_pairs([a, b, "c.jpg"], "exhaustive")
    assert a in str(error.value)
    assert b in str(error.value)
    with pytest.raises(ValueError, match=expected):
        match_images(features, tmp_path / "m.h5", [(a, "c.jpg"), (b, "c.jpg")])
    assert not (tmp_path / "m.h5").exists()


@pytest.mark.parametrize("letter", ["x", "é", "日"])
def test_names_as_long_as_names_may_be_are_drawn(letter, tmp_path):
    names = [letter * ((250 - 5) // len(letter.encode())) + f"{n}.jpg" for n in range(2)]
    with FeatureStore.resume(tmp_path / "f.h5", {"made": "here"}) as store:
        for name in names:
            store.write(name, random_features(5))
    with MatchStore.resume(tmp_path / "m.h5", {"made": "here"}) as store:
        store.write(*names, Matches.empty(), 5)
    for name in names:
        picture = np.zeros((480, 640, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        write_image(tmp_path / "short.jpg", picture)
        (tmp_path / "short.jpg").rename(tmp_path / "images" / name)
    written = plot_files(
        tmp_path / "f.h5", tmp_path / "images", tmp_path / "out", matches_path=tmp_path / "m.h5"
    )
    assert len(set(written)) == 3
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize("name", ["../a.jpg", "sub/../../a.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name, tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        group = file
        for part in name.split("/"):
            group = h5py.Group(h5py.h5g.create(group.id, f"{part} ".encode()))
        for key, array in (("keypoints", np.ones((2, 2))), ("image_size", np.array([9, 9]))):
            group[key] = array
    path.write_bytes(path.read_bytes().replace(b".. \0", b"..\0\0").replace(b". \0", b".\0\0"))
    if not _holds(path, name):
        pytest.skip("this HDF5 cannot be made to hold such a name")
    with FeatureStore(path) as store, pytest.raises(ValueError, match=r"f\.h5: image name"):
        store.names()
    assert "error" in [issue.level for issue in check_files(path)]


def _holds(path, name):
    found = []
    with h5py.File(path) as file:
        file.visit(found.append)
    return any(".." in item.split("/") or "." in item.split("/") for item in found)
