"""Each flaw is put into a sound file, and must be found, named once, and nothing else."""

import os

import h5py
import numpy as np
import pytest

from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.validate import ValidationIssue, check_files, format_issues
from rekd_hloc.types import Matches
from tests.helpers import random_features

NAMES = ("a.jpg", "sub/b.jpg", "sub/c d.jpg")
COUNTS = dict(zip(NAMES, (40, 30, 20), strict=True))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def features(tmp_path):
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, {"made": "here"}) as store:
        for seed, (name, count) in enumerate(COUNTS.items()):
            store.write(name, random_features(count, seed=seed))
    return path


@pytest.fixture
def matches(tmp_path):
    path = tmp_path / "m.h5"
    with MatchStore.resume(path, {"made": "here"}) as store:
        for a, b in ((0, 1), (0, 2), (1, 2)):
            store.write(NAMES[a], NAMES[b], Matches.empty(), COUNTS[NAMES[a]])
    return path


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a.jpg sub/b.jpg\na.jpg sub/c d.jpg\nsub/b.jpg sub/c d.jpg\n")
    return path


def edit(path, group, **datasets):
    """Replace datasets, or delete those that are None."""
    with h5py.File(path, "a") as file:
        for name, value in datasets.items():
            if f"{group}/{name}" in file:
                del file[f"{group}/{name}"]
            if value is not None:
                file[f"{group}/{name}"] = value


def content(path, dataset):
    with h5py.File(path, "r") as file:
        return file[dataset][()]


def flaws(*paths):
    return [finding for finding in check_files(*paths) if finding.level != "info"]


def only(found, level, place, *words):
    assert len(found) == 1, format_issues(found)
    assert (found[0].level, found[0].place) == (level, place)
    for word in words:
        assert word in found[0].message


def test_sound_files_give_facts_only(features, matches, pairs):
    found = check_files(features, matches, pairs)
    spaces = [finding for finding in found if "holds a space" in finding.message]
    assert spaces == [f for f in found if f.level != "info"]
    assert [(f.place, f.message) for f in found if f.level == "info"] == [
        ("f.h5", "3 images with 20 to 40 keypoints of 128 channels"),
        ("m.h5", "3 pairs, 3 of them without a match"),
        ("p.txt", "3 pairs"),
    ]


# Files as a whole


def test_missing_files(tmp_path):
    found = flaws(tmp_path / "f.h5", tmp_path / "m.h5", tmp_path / "p.txt")
    assert [(f.level, f.place) for f in found if f.message.startswith("no file")] == [
        ("error", "f.h5"),
        ("error", "m.h5"),
        ("error", "p.txt"),
    ]


@pytest.mark.parametrize("text", [b"", b"not HDF5"])
def test_files_that_are_no_hdf5(text, tmp_path, pairs):
    (tmp_path / "f.h5").write_bytes(text)
    found = flaws(tmp_path / "f.h5", tmp_path / "f.h5", pairs)
    assert [f.level for f in found] == ["error", "warning"]
    assert "no HDF5 file, or a damaged one" in found[0].message
    assert found[0].place == "f.h5"


def test_binary_pairs(features, tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    only(flaws(features, None, tmp_path / "p.txt"), "error", "p.txt", "UTF-8")
    only(flaws(features, None, tmp_path), "error", tmp_path.name, "cannot be read")


def test_a_truncated_file(features):
    whole = features.read_bytes()
    features.write_bytes(whole[: len(whole) // 2])
    found = flaws(features)
    assert found[0].level == "error"
    assert "damaged" in found[0].message


def test_a_damaged_file_never_raises(tmp_path):
    path, rng = tmp_path / "f.h5", np.random.default_rng(0)
    with FeatureStore.resume(path, {}) as store:
        store.write("a.jpg", random_features(3))
        store.write("sub/b.jpg", random_features(2))
    whole = path.read_bytes()
    num_errors = 0
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 30):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        found = check_files(path, path)
        num_errors += any(finding.level == "error" for finding in found)
        assert format_issues(found)
    assert num_errors > 20


def test_an_empty_file_and_a_file_of_global_descriptors(tmp_path):
    h5py.File(tmp_path / "f.h5", "w").close()
    only(flaws(tmp_path / "f.h5"), "error", "f.h5", "no image with keypoints")
    edit(tmp_path / "f.h5", "a.jpg", global_descriptor=np.zeros(9))
    found = flaws(tmp_path / "f.h5")
    assert "global descriptor; give the file of keypoints" in found[0].message


def test_an_interrupted_run(features):
    store = FeatureStore.resume(features, {"made": "here"})
    only(flaws(features), "warning", "f.h5", "interrupted; start the same command again")
    store.close()
    assert flaws(features) == []


# Features


@pytest.mark.parametrize("name", ["keypoints", "descriptors", "image_size"])
def test_missing_datasets(name, features):
    edit(features, "sub/b.jpg", **{name: None})
    only(flaws(features), "error", "f.h5: sub/b.jpg", f"has no `{name}`")


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"keypoints": np.zeros(30)}, ["(30,)", "(keypoint, 2)"]),
        ({"keypoints": np.full((30, 2), "x", dtype="S1")}, ["not numbers"]),
        ({"scores": np.zeros(30, complex)}, ["complex128, not numbers"]),
        ({"descriptors": np.ones((128, 29))}, ["(128, 29) for 30 keypoints", "again"]),
        ({"descriptors": np.ones((30, 128))}, ["(30, 128) for 30 keypoints", "transpose"]),
        ({"scales": "text"}, ["not numbers"]),
        ({"oris": h5py.Empty("f4")}, ["not numbers"]),
        ({"image_size": np.zeros(2)}, ["image_size", "[0.0, 0.0]"]),
        ({"image_size": np.ones(3)}, ["image_size"]),
        ({"scales": np.ones(29)}, ["`scales` has shape (29,) for 30 keypoints"]),
        ({"oris": np.ones((30, 1))}, ["`oris` has shape (30, 1)"]),
    ],
)
def test_schema(datasets, words, features):
    edit(features, "sub/b.jpg", **datasets)
    only(flaws(features), "error", "f.h5: sub/b.jpg", *words)


@pytest.mark.parametrize("name", ["keypoints", "descriptors", "scores", "scales", "oris"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(name, bad, features):
    values = content(features, f"sub/b.jpg/{name}")
    values.flat[[1, 5]] = bad
    edit(features, "sub/b.jpg", **{name: values})
    only(flaws(features), "error", "f.h5: sub/b.jpg", f"2 values of `{name}` are not finite")


def test_no_keypoint(features):
    with FeatureStore.resume(features, {"made": "here"}) as store:
        store.write("empty.jpg", random_features(0))
    only(flaws(features), "warning", "f.h5: empty.jpg", "no keypoint")


def test_other_datasets_do_not_matter(features):
    edit(features, "sub/b.jpg", remark="text", dense=np.full(3, np.nan))
    assert flaws(features) == []


def test_one_keypoint_is_fine(features):
    with FeatureStore.resume(features, {"made": "here"}) as store:
        store.write("one.jpg", random_features(1))
    assert flaws(features) == []


def test_descriptors_without_unit_length(features):
    descriptors = content(features, "sub/b.jpg/descriptors")
    descriptors[:, [3, 7]] *= np.array([2.0, 0.0])
    edit(features, "sub/b.jpg", descriptors=descriptors)
    only(flaws(features), "warning", "f.h5: sub/b.jpg", "2 descriptors", "from 0 to 2")
    edit(features, "sub/b.jpg", descriptors=np.full((128, 30), 1e200))
    only(flaws(features), "warning", "f.h5: sub/b.jpg", "30 descriptors", "from inf to inf")


def test_half_descriptors_have_unit_length(features):
    descriptors = content(features, "sub/b.jpg/descriptors")
    edit(features, "sub/b.jpg", descriptors=descriptors.astype(np.float16))
    assert flaws(features) == []


@pytest.mark.parametrize(
    ("x", "y", "outside"),
    [
        (-0.5, -0.5, False),
        (639.5, 479.5, False),
        (-0.6, 5, True),
        (5, -0.6, True),
        (639.6, 5, True),
        (5, 479.6, True),
    ],
)
def test_the_image_ends_half_a_pixel_from_the_last_centre(x, y, outside, features):
    keypoints = content(features, "a.jpg/keypoints")
    keypoints[0] = x, y
    edit(features, "a.jpg", keypoints=keypoints)
    if outside:
        only(flaws(features), "warning", "f.h5: a.jpg", "1 of 40 keypoints lie outside the 640x480")
    else:
        assert flaws(features) == []


def test_exchanged_columns(features):
    edit(features, "a.jpg", keypoints=content(features, "a.jpg/keypoints")[:, ::-1] + 0)
    only(flaws(features), "error", "f.h5: a.jpg", "none as (y, x)")


def test_half_keypoints_say_how_much_is_lost(features):
    keypoints = content(features, "a.jpg/keypoints")
    keypoints[3] = 600, 400  # float16 counts in halves from 512 on
    edit(features, "a.jpg", keypoints=keypoints.astype(np.float16))
    only(flaws(features), "warning", "f.h5: a.jpg", "float16, wrong by up to 0.25 px", "as_half")


def test_many_keypoints(features, tmp_path):
    with FeatureStore.resume(tmp_path / "g.h5", {}) as store:
        store.write("a.jpg", random_features(32_767))
        store.write("b.jpg", random_features(32_768))
    only(flaws(tmp_path / "g.h5"), "warning", "g.h5: b.jpg", "32768 keypoints", "32767")


def test_angles_in_radians(features):
    edit(features, "a.jpg", oris=np.deg2rad(content(features, "a.jpg/oris")))
    only(flaws(features), "warning", "f.h5: a.jpg", "look like radians")
    edit(features, "a.jpg", oris=np.zeros(40))  # upright
    assert flaws(features) == []


def test_scales_that_are_not_positive(features):
    edit(features, "a.jpg", scales=np.zeros(40))
    only(flaws(features), "warning", "f.h5: a.jpg", "`scales` are not positive")


@pytest.mark.parametrize(
    ("name", "needed_by"), [("oris", "NN-rekd"), ("scales", "AdaLAM"), ("scores", "SuperGlue")]
)
def test_what_matchers_need_and_the_file_lacks(name, needed_by, features):
    edit(features, NAMES[0], **{name: None})
    only(flaws(features), "warning", "f.h5", f"only 2 of 3 images have `{name}`")
    for image in NAMES[1:]:
        edit(features, image, **{name: None})
    found = [f for f in check_files(features) if f"no `{name}`" in f.message]
    only(found, "info", "f.h5", needed_by)
    assert flaws(features) == []


def test_mixed_extractors(features):
    edit(features, "a.jpg", descriptors=np.full((64, 40), 1 / 8))
    only(flaws(features), "error", "f.h5", "64 (a.jpg), 128 (sub/b.jpg)")


def test_names_that_match_files_cannot_tell_apart(features):
    with FeatureStore.resume(features, {"made": "here"}) as store:
        store.write("sub-b.jpg", random_features(3))
    only(flaws(features), "error", "f.h5", "cannot tell 'sub/b.jpg' from 'sub-b.jpg'")


def test_one_flaw_of_many_images_is_one_finding(features):
    for name in NAMES:
        keypoints = content(features, f"{name}/keypoints")
        edit(features, name, keypoints=keypoints.astype(np.float16))
    only(flaws(features), "warning", "f.h5: a.jpg", "float16", "(and 2 more)")


# Matches


GROUP = "a.jpg/sub-b.jpg"


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"matches0": None}, ["has no `matches0`"]),
        ({"matching_scores0": None}, ["has no `matching_scores0`"]),
        ({"matches0": np.zeros(40)}, ["float64"]),
        ({"matches0": np.zeros((40, 1), int)}, ["(40, 1)"]),
        ({"matching_scores0": np.zeros(39)}, ["40 matches but scores of shape (39,)"]),
        ({"matches0": np.zeros(39, int), "matching_scores0": np.zeros(39)}, ["39 entries for 40"]),
        ({"matches0": np.full(40, 40_000).astype(np.int16)}, ["-25536", "16 bits"]),
        ({"matches0": np.full(40, -2)}, ["-2"]),
        ({"matches0": np.full(40, 30)}, ["the index 30, the second image only 30 keypoints"]),
        ({"matching_scores0": np.full(40, np.nan)}, ["not finite"]),
    ],
)
def test_match_groups(datasets, words, features, matches):
    edit(matches, GROUP, **datasets)
    only(flaws(features, matches), "error", "m.h5: a.jpg sub/b.jpg", *words)


def test_the_last_keypoint_may_be_matched(features, matches):
    edit(matches, GROUP, matches0=np.full(40, 29))
    assert flaws(features, matches) == []


def test_matches_of_hloc_without_true_names(features, tmp_path):
    for group in ("a.jpg/sub-b.jpg", "sub-b.jpg_a.jpg"):
        count = 40 if group.startswith("a") else 30
        arrays = {"matches0": np.full(count, -1), "matching_scores0": np.zeros(count)}
        edit(tmp_path / "m.h5", group, **arrays)
    found = flaws(features, tmp_path / "m.h5")
    only(found, "warning", "m.h5: sub/b.jpg a.jpg", "both directions")


def test_matches_of_unknown_images(features, matches):
    with MatchStore.resume(matches, {"made": "here"}) as store:
        store.write("a.jpg", "x.jpg", Matches.empty(), 40)
    only(flaws(features, matches), "warning", "m.h5: a.jpg x.jpg", "'x.jpg' has no features")


def test_match_files_without_pairs(features, tmp_path):
    h5py.File(tmp_path / "m.h5", "w").close()
    only(flaws(features, tmp_path / "m.h5"), "error", "m.h5", "no pair of images")
    edit(tmp_path / "m.h5", "a_b_c", matches0=np.zeros(1, int))
    found = flaws(features, tmp_path / "m.h5")
    assert "cannot tell the two image names" in found[0].message


# Pairs


@pytest.mark.parametrize(
    ("line", "level", "words"),
    [
        ("a.jpg sub/x.jpg", "error", ["'sub/x.jpg' has no features"]),
        ("a.jpg", "error", ["two names", "'a.jpg'"]),
        ("a.jpg b.jpg sub/b.jpg", "error", ["two names"]),
        ("a.jpg a.jpg", "error", ["paired with itself"]),
        ("sub/b.jpg  a.jpg", "warning", ["repeats line 1"]),
        ("a.jpg\tsub/b.jpg", "warning", ["repeats line 1"]),
        ("sub/c d.jpg sub/b.jpg", "warning", ["holds a space", "hloc does not"]),
    ],
)
def test_lines_of_a_pairs_file(line, level, words, features, tmp_path):
    (tmp_path / "p.txt").write_text(f"a.jpg sub/b.jpg\n\n{line}\n")
    only(flaws(features, None, tmp_path / "p.txt"), level, "p.txt: line 3", *words)


def test_pairs_without_matches(features, matches, tmp_path):
    with h5py.File(matches, "a") as file:
        del file["sub-b.jpg/sub-c d.jpg"]
    (tmp_path / "p.txt").write_text("sub/b.jpg a.jpg\nsub/c d.jpg sub/b.jpg\n")
    found = [f for f in flaws(features, matches, tmp_path / "p.txt") if "space" not in f.message]
    only(found, "error", "p.txt: line 2", "no matches of sub/c d.jpg sub/b.jpg")


def test_an_empty_pairs_file(features, tmp_path):
    (tmp_path / "p.txt").write_text("\n \n")
    only(flaws(features, None, tmp_path / "p.txt"), "error", "p.txt", "no pair")


# The table


def test_the_table_is_aligned_and_ends_with_totals():
    found = [
        ValidationIssue("error", "f.h5: a.jpg", "broken"),
        ValidationIssue("warning", "p.txt", "odd"),
        ValidationIssue("warning", "p.txt: line 2", "odd too"),
        ValidationIssue("info", "f.h5", "3 images"),
    ]
    assert format_issues(found).splitlines() == [
        "error    f.h5: a.jpg    broken",
        "warning  p.txt          odd",
        "warning  p.txt: line 2  odd too",
        "info     f.h5           3 images",
        "1 error, 2 warnings, 1 info",
    ]
    assert format_issues([]) == "nothing to report"


def test_the_worst_comes_first(features, matches):
    edit(matches, GROUP, matches0=None)
    levels = [finding.level for finding in check_files(features, matches)]
    assert levels == ["error", "info", "info"]


@pytest.mark.hloc
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # hloc's loaders
def test_files_of_the_real_hloc_are_sound(tmp_path):
    pytest.importorskip("hloc")
    cv2 = pytest.importorskip("cv2")
    from hloc import extract_features, match_features

    from tests.helpers import textured_image

    image = textured_image(240, 320)
    for name, turns in (("a.png", None), ("b.png", cv2.ROTATE_180)):
        turned = image if turns is None else cv2.rotate(image, turns)
        assert cv2.imwrite(str(tmp_path / name), turned)
    (tmp_path / "p.txt").write_text("a.png b.png\n")
    conf = extract_features.confs["sift"]
    features = extract_features.main(conf, tmp_path, tmp_path, as_half=False)
    conf = match_features.confs["NN-mutual"]
    matches = tmp_path / "m.h5"
    match_features.main(conf, tmp_path / "p.txt", features, matches=matches)
    assert flaws(features, matches, tmp_path / "p.txt") == []
