import pytest

from rekd_hloc.matching.pairs import MAX_EXHAUSTIVE
from rekd_hloc.sfm.diagnosis import SURE_INLIERS, connected_groups, diagnose

NAMES = ["a", "b", "c", "d", "e"]
MANY = dict.fromkeys(NAMES, 1000)


def chain(*groups, matches=300, inliers=140):
    """Pairs of neighbours within each group, verified; all other pairs not."""
    counts = {(a, b): (matches, 0) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]}
    for group in groups:
        for a, b in zip(group, group[1:], strict=False):
            counts[a, b] = (matches, inliers)
    return counts


def test_images_that_verified_pairs_connect_are_one_group():
    assert connected_groups(NAMES, chain("ae", "bcd")) == [["b", "c", "d"], ["a", "e"]]
    assert connected_groups(NAMES, chain()) == [[name] for name in NAMES]
    assert connected_groups(NAMES, chain("ab", "cd", "bc", "de")) == [NAMES]
    assert connected_groups([], {}) == []


def test_of_many_images_chance_ties_nothing():
    names = [f"{number:03d}" for number in range(2 * MAX_EXHAUSTIVE)]
    pairs = list(zip(names, names[1:], strict=False))
    counts = dict.fromkeys(pairs, (300, SURE_INLIERS))
    counts[names[149], names[150]] = 300, SURE_INLIERS - 1
    assert list(map(len, connected_groups(names, counts))) == [250, 150]
    few = names[100 : 100 + MAX_EXHAUSTIVE]
    among = {pair: count for pair, count in counts.items() if set(pair) <= set(few)}
    assert connected_groups(few, among) == [few]


def test_ten_thousand_images_in_a_row_are_one_group():
    names = [f"{number:05d}" for number in range(10_000)]
    backwards = dict.fromkeys(zip(names[::-1], names[-2::-1], strict=False), (300, 200))
    assert connected_groups(names, backwards) == [names]


def test_images_in_smaller_models_are_told():
    text = diagnose(MANY, chain("abc", "de"), "abc", elsewhere="de")
    assert text.startswith("2 of 5 images are not in the model, but 2 of them in smaller models: ")


def test_a_complete_model_needs_no_diagnosis():
    assert diagnose(MANY, chain("abcde"), NAMES) == ""


@pytest.mark.parametrize(
    ("num_keypoints", "counts", "registered", "words"),
    [
        ({}, {}, [], ["No image could be read"]),
        ({"a": 1000}, {}, [], ["One image", "add photos"]),
        (MANY, {}, [], ["No model of the 5 images", "no pairs to match"]),
        (MANY, chain(), [], ["None of the 10 pairs", "median 300, most 300", "overlap"]),
        (MANY, chain("abc", "de"), [], ["3 of 10 pairs are verified", "2 separate groups of 3, 2"]),
        (MANY, chain("abcde"), [], ["4 of 10 pairs", "140 inliers", "from one place"]),
        (MANY, chain("abcde", inliers=31), [], ["best pair has 31", "about 100", "overlap"]),
        (MANY, chain("abcde"), "abc", ["2 of 5 images are not in the model: d, e", "add photos"]),
        (MANY, chain("abc"), "abc", ["not in the model: d, e", "3 separate groups of 3, 1, 1"]),
        (dict.fromkeys(NAMES, 0), chain(), [], ["median image has 0 keypoints", "blurred"]),
        (
            dict(zip(NAMES, (28, 29, 30, 31, 32), strict=True)),
            chain(),
            [],
            ["median image has 30 keypoints, which is few: are the photos small"],
        ),
        (
            dict(zip(NAMES, (30, 30, 17, 30, 4), strict=True)),
            chain(),
            [],
            ["median image has 30 keypoints, which is few: most", "raise --max-keypoints"],
        ),
    ],
)
def test_a_diagnosis_says_what_is_wrong_and_what_to_do(num_keypoints, counts, registered, words):
    text = diagnose(num_keypoints, counts, list(registered))
    for word in words:
        assert word in text


def test_many_missing_images_are_not_all_listed():
    names = [f"{i}.jpg" for i in range(30)]
    text = diagnose(dict.fromkeys(names, 500), {}, names[:2])
    assert "28 of 30" in text
    assert "6.jpg and 23 more" in text
    assert "7.jpg" not in text
