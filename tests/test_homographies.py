"""Layouts of image sequences, the HPatches release, and the frames protocols work in."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import data_dir, random_features, textured_image

from evaluation.homography.frames import place_image, render_frame, to_frame
from evaluation.homography.homographies import list_pairs, read_homography
from evaluation.homography.release import (
    SPLITS,
    in_split,
    kind_of,
    release_names,
    select_split,
    what_is_missing,
)
from rekd_hloc.geometry import warp_points
from rekd_hloc.images import read_color

MATRIX = np.array([[1.0, 0.1, 3.0], [0.0, 1.0, -2.0], [1e-4, 0.0, 1.0]])


def write_image(path: Path, grey: np.ndarray) -> None:
    assert cv2.imwrite(str(path), np.repeat(grey[..., None], 3, axis=2))


def make_sequence(folder: Path, *, oxford: bool = False, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        name = f"img{number}.png" if oxford else f"{number}.ppm"
        write_image(folder / name, textured_image(24, 32, number))
        if number > 1:
            shifted = MATRIX.copy()
            shifted[0, 2] = number
            file = f"H1to{number}p" if oxford else f"H_1_{number}"
            np.savetxt(folder / file, shifted)
    return folder


def test_hpatches_and_oxford_layouts_are_read_alike(tmp_path):
    make_sequence(tmp_path / "v_home")
    make_sequence(tmp_path / "graf", oxford=True)
    pairs = list_pairs(tmp_path)
    assert [p.sequence for p in pairs] == ["graf"] * 5 + ["v_home"] * 5
    assert [p.name for p in pairs[5:]] == ["1-2", "1-3", "1-4", "1-5", "1-6"]
    assert pairs[0].path_b == tmp_path / "graf" / "img2.png"
    for pair in pairs:
        number = float(pair.path_b.stem[-1])
        assert pair.b_from_a[0, 2] == number
        assert torch.equal(pair.b_from_a[2], torch.from_numpy(MATRIX[2]))


def test_a_list_of_pairs_takes_files_and_numbers_and_quoted_names(tmp_path):
    make_sequence(tmp_path / "a b")
    text = '# comment\n"a b/1.ppm" "a b/3.ppm" "a b/H_1_3"\n\n"a b/1.ppm" "a b/2.ppm" '
    (tmp_path / "pairs.txt").write_text(text + " ".join(str(v) for v in MATRIX.ravel()))
    first, second = list_pairs(tmp_path / "pairs.txt")
    assert (first.sequence, first.name, first.b_from_a[0, 2]) == ("a b", "1-3", 3.0)
    assert np.array_equal(second.b_from_a.numpy(), MATRIX)


def test_every_problem_is_named_in_one_message(tmp_path):
    (make_sequence(tmp_path / "one") / "3.ppm").unlink()
    (make_sequence(tmp_path / "two") / "H_1_4").write_text("1 2 3")
    (make_sequence(tmp_path / "three") / "H_1_5").unlink()
    (make_sequence(tmp_path / "four") / "2.ppm").write_bytes(b"no image")
    np.savetxt(make_sequence(tmp_path / "five") / "H_1_2", np.zeros((3, 3)))
    (tmp_path / "six").mkdir()
    write_image(tmp_path / "six" / "1.ppm", textured_image(8, 8))
    with pytest.raises(ValueError) as caught:
        list_pairs(tmp_path)
    message = str(caught.value)
    for part in (
        "one has no image 3.ppm",
        "H_1_4 is no homography: its shape is (3,)",
        "three has no homography H_1_5",
        "2.ppm is no readable image",
        "H_1_2 is no homography: the matrix has no inverse",
        "six has images but no homography",
    ):
        assert part in message


def test_a_list_names_its_broken_lines(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(8, 8))
    (tmp_path / "list.txt").write_text("a.png a.png none\na.png b.png H\na.png\n")
    with pytest.raises(ValueError) as caught:
        list_pairs(tmp_path / "list.txt")
    assert "line 1: no homography file" in str(caught.value)
    assert "line 2: no image" in str(caught.value)
    assert "line 3: 1 words" in str(caught.value)


def test_a_folder_without_sequences_and_a_missing_folder_are_mistakes(tmp_path):
    with pytest.raises(ValueError, match="holds no image pair"):
        list_pairs(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of sequences"):
        list_pairs(tmp_path / "none")
    (tmp_path / "H").write_text("a b c")
    with pytest.raises(ValueError, match="is no homography"):
        read_homography(tmp_path / "H")


def test_the_release_has_116_sequences_and_its_splits_are_of_the_known_sizes():
    names = release_names()
    sizes = {split: len(names[split]) for split in SPLITS}
    assert sizes == {
        "full": 116,
        "view": 59,
        "illum": 57,
        "a": 40,
        "b": 40,
        "c": 40,
        "debug": 10,
    }
    assert len(names["high_resolution"]) == 8
    for split in ("a", "b", "c"):
        assert names[split] <= names["full"]
        kinds = [kind_of(name) for name in names[split]]
        assert kinds.count("view") == kinds.count("illum") == 20


def test_splits_select_sequences_and_leave_out_high_resolution(tmp_path):
    for name in ("v_talent", "v_woman", "i_leuven", "graf"):
        make_sequence(tmp_path / name, oxford=name == "graf", count=2)
    pairs = list_pairs(tmp_path)

    def sequences(split: str, **options: bool) -> list[str]:
        return [pair.sequence for pair in select_split(pairs, split, **options)]

    assert sequences("full") == ["graf", "i_leuven", "v_talent", "v_woman"]
    assert sequences("view") == ["graf", "v_talent", "v_woman"]
    assert sequences("illum") == ["i_leuven"]
    assert sequences("a") == ["v_talent", "v_woman"]
    assert sequences("full", without_high_resolution=True) == ["graf", "i_leuven", "v_woman"]
    with pytest.raises(ValueError, match="no sequence here belongs to split 'debug'"):
        sequences("debug")
    with pytest.raises(ValueError, match="splits are full, view"):
        in_split("graf", "test")


def test_an_incomplete_release_is_told_in_one_message(tmp_path):
    make_sequence(tmp_path / "v_woman")
    make_sequence(tmp_path / "i_leuven", count=4)
    message = what_is_missing(list_pairs(tmp_path), "full")
    assert "114 of the 116 sequences" in message
    assert "some of the 5 pairs of i_leuven" in message
    assert "hpatches-sequences-release.tar.gz" in message


def test_other_sequences_miss_nothing(tmp_path):
    make_sequence(tmp_path / "graf", oxford=True)
    assert what_is_missing(list_pairs(tmp_path), "full") == ""


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [
        ((800, 640), "original", (800, 640)),
        ((800, 640), "short-480", (600, 480)),
        ((300, 900), "short-480", (480, 1440)),
        ((800, 640), "crop-320x240", (320, 240)),
        ((301, 977), "crop-320x240", (320, 240)),
        ((977, 301), "crop-320x240", (320, 240)),
    ],
)
def test_frames_have_the_size_that_the_protocol_says(size, kind, expected, tmp_path):
    placement = place_image(size, kind)
    assert placement.size == expected
    cv2.imwrite(str(tmp_path / "a.png"), textured_image(size[1], size[0]))
    render_frame(tmp_path / "a.png", placement, tmp_path / "b.png")
    assert read_color(tmp_path / "b.png").shape[:2] == expected[::-1]


@pytest.mark.parametrize("kind", ["short-480", "crop-320x240"])
def test_a_bright_spot_lies_in_the_frame_where_the_matrix_says(kind, tmp_path):
    image = np.zeros((480, 700), np.uint8)
    cv2.circle(image, (330, 250), 6, 255, -1)
    cv2.imwrite(str(tmp_path / "spot.png"), image)
    placement = place_image((700, 480), kind)
    render_frame(tmp_path / "spot.png", placement, tmp_path / "frame.png")
    framed = read_color(tmp_path / "frame.png")[..., 0].astype(float)
    y, x = np.mgrid[: framed.shape[0], : framed.shape[1]]
    centre = (framed * x).sum() / framed.sum(), (framed * y).sum() / framed.sum()
    expected = warp_points(placement.frame_from_image, torch.tensor([[330.0, 250.0]]))[0]
    assert centre == pytest.approx(expected.tolist(), abs=0.05)


def test_stored_features_are_moved_into_the_frame_and_cropped():
    features = random_features(200, (800, 400))
    placement = place_image((800, 400), "crop-320x240")
    framed = to_frame(features, placement)
    assert 0 < len(framed) < 200
    assert framed.image_size == (320, 240)
    assert framed.keypoints.xy.amin() >= -0.5
    assert (framed.keypoints.xy < torch.tensor([319.5, 239.5])).all()
    kept = torch.isin(features.keypoints.score, framed.keypoints.score)
    assert torch.allclose(framed.keypoints.scale, features.keypoints.scale[kept] * 0.6, atol=1e-5)
    untouched = to_frame(features, place_image((800, 400), "original"))
    assert torch.equal(untouched.keypoints.xy, features.keypoints.xy)


def test_the_real_sequences_are_complete():
    pairs = list_pairs(data_dir("homographies"))
    counts = {s: sum(p.sequence == s for p in pairs) for s in ("boat", "graf", "leuven", "trees")}
    assert set(counts.values()) == {5}
