"""Tracks of verified matches: what is joined, what is refused, and who is the root."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.refinement.tracks import ImageMatches, build_tracks


def make(rows):
    """Matches from rows of (image a, keypoint a, image b, keypoint b, score)."""
    table = np.array(rows, float).reshape(-1, 5)
    return ImageMatches(*table[:, :4].T.astype(np.int64), table[:, 4])


def tracks_of(rows):
    """The observations of each track, the root first."""
    found = build_tracks(make(rows))
    groups = [[] for _ in range(len(found))]
    for track, image, keypoint in zip(found.track, found.image, found.keypoint, strict=True):
        groups[track].append((int(image), int(keypoint)))
    return groups


def test_matches_through_a_third_image_are_one_track():
    rows = [(0, 5, 1, 7, 0.5), (1, 7, 2, 9, 0.75), (3, 1, 4, 1, 0.5)]
    assert sorted(map(sorted, tracks_of(rows))) == [[(0, 5), (1, 7), (2, 9)], [(3, 1), (4, 1)]]


def test_the_root_has_most_score_and_comes_first():
    rows = [(0, 5, 1, 7, 0.5), (1, 7, 2, 9, 0.75), (2, 9, 0, 5, 0.9)]
    assert tracks_of(rows) == [[(2, 9), (0, 5), (1, 7)]]
    found = build_tracks(make(rows))
    assert found.is_root.tolist() == [True, False, False]
    image, keypoint = found.roots()
    assert image.tolist() == [2, 2, 2]
    assert keypoint.tolist() == [9, 9, 9]


def test_of_two_keypoints_of_one_image_the_better_match_stays():
    rows = [(0, 1, 1, 1, 0.9), (1, 1, 2, 1, 0.8), (2, 1, 0, 2, 0.7), (0, 2, 3, 1, 0.6)]
    assert sorted(map(sorted, tracks_of(rows))) == [[(0, 1), (1, 1), (2, 1)], [(0, 2), (3, 1)]]
    assert build_tracks(make(rows)).num_refused == 1


def test_a_keypoint_whose_only_match_is_refused_is_in_no_track():
    rows = [(0, 1, 1, 1, 0.9), (1, 1, 0, 2, 0.8)]
    assert tracks_of(rows) == [[(0, 1), (1, 1)]]


def test_the_score_of_a_refused_match_does_not_make_a_root():
    rows = [(0, 1, 1, 1, 0.9), (1, 1, 2, 1, 0.3), (2, 1, 0, 2, 0.2), (0, 2, 2, 2, 0.1)]
    roots = [group[0] for group in tracks_of(rows)]
    assert (1, 1) in roots


def test_a_repeated_match_counts_once():
    once = [(0, 1, 1, 1, 0.9), (1, 1, 2, 1, 0.8), (0, 1, 2, 1, 0.75)]
    again = [*once, (2, 1, 1, 1, 0.8), (1, 1, 2, 1, 0.7), (2, 1, 0, 1, 0.75)]
    assert tracks_of(once) == tracks_of(again)


def test_no_match_is_no_track():
    found = build_tracks(make([]))
    assert len(found) == 0
    assert found.track.shape == found.image.shape == found.keypoint.shape == (0,)


ENDS = st.tuples(st.integers(0, 3), st.integers(0, 3))
MATCHES = st.lists(st.tuples(ENDS, ENDS).filter(lambda pair: pair[0][0] != pair[1][0]), max_size=25)


@given(MATCHES, st.randoms(use_true_random=False))
def test_properties(ends, random):
    scores = random.sample(range(1, 1000), len(ends))
    rows = [(*a, *b, score / 1000) for (a, b), score in zip(ends, scores, strict=True)]
    groups = tracks_of(rows)
    track_of = {node: number for number, group in enumerate(groups) for node in group}
    assert len(track_of) == sum(map(len, groups)), "a keypoint is in two tracks"
    for group in groups:
        assert len(group) > 1
        assert len({image for image, _ in group}) == len(group), "an image is twice in a track"

    # a match is inside a track, or its two ends cannot be in one
    for a, b in ends:
        if a not in track_of or track_of[a] != track_of.get(b):
            images = [
                image
                for node in (a, b)
                for image, _ in (groups[track_of[node]] if node in track_of else [node])
            ]
            assert len(set(images)) < len(images)

    # neither the order of the matches nor their direction matters
    turned = [row if random.random() < 0.5 else (*row[2:4], *row[:2], row[4]) for row in rows]
    random.shuffle(turned)
    assert tracks_of(turned) == groups


@pytest.mark.slow
def test_a_million_matches_take_seconds():
    import time

    rng = np.random.default_rng(0)
    count, images, points = 1_000_000, 100, 20_000
    point, a = rng.integers(0, points, count), rng.integers(0, images, count)
    b = (a + rng.integers(1, 6, count)) % images
    wrong = rng.random(count) < 0.01
    other = np.where(wrong, rng.integers(0, points, count), point)
    start = time.perf_counter()
    found = build_tracks(ImageMatches(a, point, b, other, rng.random(count)))
    assert time.perf_counter() - start < 20  # 2 on a free core
    key = found.track * images + found.image
    assert len(np.unique(key)) == len(key)
