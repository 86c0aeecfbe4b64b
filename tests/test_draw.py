import math

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.images import read_color
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Keypoints, Matches
from rekd_hloc.viz.draw import (
    GAP_PX,
    INLIER_RGB,
    MATCH_RGB,
    MAX_LINES,
    OUTLIER_RGB,
    draw_keypoints,
    draw_matches,
    plot_files,
)
from tests.helpers import random_features, random_keypoints, textured_image

GREY = np.full((101, 101, 3), 128, np.uint8)


def one_keypoint(angle, scale=4.0, xy=(50.0, 50.0)):
    return Keypoints(
        xy=torch.tensor([xy]),
        scale=torch.tensor([scale]),
        angle=torch.tensor([angle]),
        score=torch.tensor([1.0]),
    )


def is_marked(picture, x, y):
    """Whether a pixel differs from the paled grey of the image."""
    return bool(np.abs(picture[round(y), round(x)].astype(int) - picture[0, 0]).max() > 20)


@pytest.mark.parametrize(
    ("angle", "tip"), [(0.0, (1, 0)), (0.5, (0, 1)), (1.0, (-1, 0)), (1.5, (0, -1))]
)
def test_tick_points_right_at_zero_and_down_at_ninety_degrees(angle, tip):
    picture = draw_keypoints(GREY, one_keypoint(angle * math.pi), radius_per_scale=6.0)
    for direction in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        half_way = 50 + 12 * direction[0], 50 + 12 * direction[1]
        assert is_marked(picture, *half_way) == (direction == tip)
        on_circle = 50 + 24 * direction[0], 50 + 24 * direction[1]
        assert is_marked(picture, *on_circle)


def test_circle_grows_with_scale_and_hue_tells_the_angle():
    small, large = (draw_keypoints(GREY, one_keypoint(0.3, scale)) for scale in (1.0, 5.0))
    assert is_marked(large, 50, 20)
    assert not is_marked(small, 50, 20)
    red = draw_keypoints(GREY, one_keypoint(0.0))[50, 62].astype(int)
    other = draw_keypoints(GREY, one_keypoint(math.pi))[50, 38].astype(int)
    assert red[0] > red[2] + 60
    assert other[2] > other[0] + 60


def test_best_keypoints_are_drawn_and_the_image_is_left_alone():
    keypoints = Keypoints(
        xy=torch.tensor([[20.0, 20.0], [80.0, 80.0]]),
        scale=torch.ones(2),
        angle=torch.zeros(2),
        score=torch.tensor([0.1, 0.9]),
    )
    before = GREY.copy()
    picture = draw_keypoints(GREY, keypoints, max_drawn=1)
    assert is_marked(picture, 86, 80)
    assert not is_marked(picture, 26, 20)
    np.testing.assert_array_equal(GREY, before)
    np.testing.assert_array_equal(
        draw_keypoints(GREY, Keypoints.empty()), draw_keypoints(GREY, keypoints, max_drawn=0)
    )


def test_large_images_are_made_smaller_with_their_keypoints():
    image = np.full((400, 800, 3), 128, np.uint8)
    picture = draw_keypoints(image, one_keypoint(0.0, 8.0, (400.0, 200.0)), max_side_px=200)
    assert picture.shape == (100, 200, 3)
    assert is_marked(picture, 100 + 6, 50)
    assert is_marked(picture, 100 + 12, 50)
    assert not is_marked(picture, 100 - 6, 50)


def colored(picture, rgb):
    return (np.abs(picture.astype(int) - rgb).max(axis=2) < 12).sum()


def test_matches_are_lines_between_their_keypoints():
    left, right = one_keypoint(0.0, xy=(30.0, 20.0)), one_keypoint(0.0, xy=(70.0, 20.0))
    match = Matches(torch.tensor([[0, 0]]), torch.ones(1))
    right_image = np.full((60, 90, 3), 128, np.uint8)
    picture = draw_matches(GREY, right_image, left, right, match)
    assert picture.shape == (101, 101 + GAP_PX + 90, 3)
    line = picture[20, 30 : 101 + GAP_PX + 70]
    assert (np.abs(line.astype(int) - MATCH_RGB).max(axis=1) < 20).all()
    assert not is_marked(picture, 24, 20)
    assert (picture[80:, 101 + GAP_PX :] == 255).all()  # the smaller image leaves paper


def test_inliers_and_outliers_have_their_colours_and_proportion():
    count = 4000
    a, b = random_keypoints(count, (101, 101), 0), random_keypoints(count, (101, 101), 1)
    matches = Matches(torch.arange(count)[:, None].expand(-1, 2), torch.ones(count))
    half = np.arange(count) % 2 == 0
    for is_inlier, green, red in (
        (np.ones(count, bool), True, False),
        (np.zeros(count, bool), False, True),
        (half, True, True),
    ):
        picture = draw_matches(GREY, GREY, a, b, matches, is_inlier)
        assert (colored(picture, INLIER_RGB) > 100) == green
        assert (colored(picture, OUTLIER_RGB) > 100) == red


def test_at_most_so_many_lines_are_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr("rekd_hloc.viz.draw._line", lambda *args: drawn.append(args[3]))
    count = 1000
    keypoints = random_keypoints(count, (101, 101))
    matches = Matches(torch.arange(count)[:, None].expand(-1, 2), torch.ones(count))
    is_inlier = np.arange(count) < 200
    draw_matches(GREY, GREY, keypoints, keypoints, matches, is_inlier)
    assert len(drawn) == MAX_LINES
    assert drawn.count(INLIER_RGB) == MAX_LINES // 5
    drawn.clear()
    draw_matches(GREY, GREY, keypoints, keypoints, matches, is_inlier, max_lines=2000)
    assert len(drawn) == count


@pytest.fixture
def files(tmp_path):
    """Features and matches of two images that are there, and of one that is not."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    names = ["a.png", "gone.png", "sub/ü b.png"]
    for name in (names[0], names[2]):
        done, data = cv2.imencode(".png", textured_image(60, 80))
        assert done
        (tmp_path / "images" / name).write_bytes(data.tobytes())
    with FeatureStore.resume(tmp_path / "features.h5", {"made": "by hand"}) as store:
        for seed, name in enumerate(names):
            store.write(name, random_features(40, (80, 60), seed))
    with MatchStore.resume(tmp_path / "matches.h5", {"made": "by hand"}) as store:
        matches = Matches(torch.arange(20)[:, None].expand(-1, 2), torch.ones(20))
        store.write(names[0], names[2], matches, 40)
        store.write(names[0], names[1], matches, 40)
    return tmp_path


def test_files_of_all_images_and_pairs_that_can_be_drawn(files, caplog):
    written = plot_files(
        files / "features.h5",
        files / "images",
        files / "out",
        matches_path=files / "matches.h5",
    )
    names = {path.relative_to(files / "out").as_posix() for path in written}
    assert names == {
        "keypoints/a.png.png",
        "keypoints/sub/ü b.png.png",
        "matches/a.png--sub-ü b.png.png",
    }
    assert "gone.png is not drawn" in caplog.text
    for path in written:
        assert read_color(path).std() > 10
    assert not list(files.rglob("*.tmp"))


def test_chosen_images_only_and_unknown_ones_are_named(files):
    arguments = (files / "features.h5", files / "images", files / "out")
    written = plot_files(*arguments, names=["a.png"])
    assert [path.name for path in written] == ["a.png.png"]
    with pytest.raises(ValueError, match=r"zebra\.png"):
        plot_files(*arguments, names=["zebra.png"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plot_files(files / "features.h5", files / "nowhere", files / "out")
