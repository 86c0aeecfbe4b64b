import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from evaluation.reconstruction.pipelines import ImageSet, Pipeline
from evaluation.relative_pose.matching import match_config, match_label
from rekd_hloc.cli.options import read_match_config
from rekd_hloc.config import MatchConfig, config_hash
from rekd_hloc.demo import DEMO_IMAGES
from rekd_hloc.geometry import rotation_about, warp_points
from rekd_hloc.images import read_color
from rekd_hloc.matching import guided
from rekd_hloc.matching.guided import MIN_GUIDES, add_guided
from rekd_hloc.matching.match import GuidedMatcher, filter_matches, make_matcher, match
from rekd_hloc.types import Features, Keypoints, Matches
from tests.helpers import moved_keypoints, random_features

NUM_GIVEN, NUM_LEFT, NUM_ALIEN = 200, 100, 100


def moved(features, transform):
    """The features of an image after a similarity transform of its plane."""
    return replace(features, keypoints=moved_keypoints(features.keypoints, transform))


def similarity(angle, scale):
    return rotation_about(angle, (320.0, 240.0), scale)


def pair(transform, seed=0):
    """An image and its transform, and the first of their matches.

    Keypoints after the first and the left ones have others' descriptors in the second image.
    """
    count = NUM_GIVEN + NUM_LEFT + NUM_ALIEN
    generator = torch.Generator().manual_seed(seed)
    a = random_features(count, seed=seed)
    b = moved(a, transform)
    xy = b.keypoints.xy + 0.5 * torch.randn(count, 2, generator=generator)
    noisy = a.descriptors + 0.05 * torch.randn(count, 128, generator=generator)
    noisy[-NUM_ALIEN:] = torch.randn(NUM_ALIEN, 128, generator=generator)
    unit = torch.nn.functional.normalize(noisy, dim=1)
    b = Features(replace(b.keypoints, xy=xy), unit, b.image_size)
    given = torch.arange(NUM_GIVEN)
    return a, b, Matches(torch.stack([given, given], dim=1), torch.full((NUM_GIVEN,), 0.25))


def rows(matches):
    return {tuple(row) for row in matches.index.tolist()}


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.9, 1.5), (math.pi, 0.4), (5.0, 3.0)])
def test_what_lies_right_and_looks_alike_is_added(angle, scale):
    a, b, given = pair(similarity(angle, scale))
    found = add_guided(given, a, b)
    added = rows(found) - rows(given)
    right = {(i, i) for i in range(NUM_GIVEN, NUM_GIVEN + NUM_LEFT)}
    assert len(added & right) > 0.9 * NUM_LEFT
    assert len(added - right) <= 1
    assert rows(given) <= rows(found)


def test_what_looks_alike_elsewhere_is_not_added():
    a, b, given = pair(similarity(0.4, 1.0))
    xy = b.keypoints.xy.clone()
    xy[NUM_GIVEN:] += torch.tensor([60.0, -45.0])
    assert rows(add_guided(given, a, replace(b, keypoints=replace(b.keypoints, xy=xy)))) == rows(
        given
    )


def test_given_matches_keep_their_scores_and_no_keypoint_has_two():
    a, b, given = pair(similarity(1.0, 1.2))
    shuffled = given[torch.randperm(len(given), generator=torch.Generator().manual_seed(0))]
    found = add_guided(shuffled, a, b)
    for column in found.index.T:
        assert len(column.unique()) == len(found)
    assert torch.equal(found.index[: len(shuffled)], shuffled.index)
    is_given = found.index[:, 0] < NUM_GIVEN
    assert (found.score[is_given] == 0.25).all()
    assert (found.score[~is_given] > 0.3).all()
    assert (found.score <= 1).all()


@pytest.mark.parametrize("moves_a", [True, False])
@pytest.mark.parametrize(("angle", "scale"), [(0.3, 1.0), (math.pi / 2, 2.0), (4.0, 0.3)])
def test_rotating_and_scaling_either_image_changes_nothing(angle, scale, moves_a):
    a, b, given = pair(similarity(0.5, 1.3))
    change = similarity(angle, scale)
    ends = (moved(a, change), b) if moves_a else (a, moved(b, change))
    assert rows(add_guided(given, *ends)) == rows(add_guided(given, a, b))


def test_the_second_image_first_gives_the_same_matches():
    a, b, given = pair(similarity(0.5, 1.3))
    swapped = add_guided(replace(given, index=given.index.flip(1)), b, a)
    there, back = rows(add_guided(given, a, b)), {(i, j) for j, i in rows(swapped)}
    assert len(there ^ back) <= 0.02 * len(there)


def test_blocks_change_nothing(monkeypatch):
    a, b, given = pair(similarity(0.5, 1.3))
    whole = add_guided(given, a, b)
    monkeypatch.setattr(guided, "BLOCK", 7)
    assert torch.equal(add_guided(given, a, b).index, whole.index)


@pytest.mark.parametrize("count", [0, 1, MIN_GUIDES - 1])
def test_few_matches_lead_nowhere(count):
    a, b, given = pair(similarity(0.5, 1.3))
    few = replace(given[:count], is_fallback=True)
    found = add_guided(few, a, b)
    assert torch.equal(found.index, few.index)
    assert found.is_fallback


def test_wrong_matches_lead_nowhere():
    a, b, given = pair(similarity(0.5, 1.3))
    index = given.index.clone()
    index[:, 1] = index[:, 1].roll(50)
    wrong = replace(given, index=index)
    assert len(add_guided(wrong, a, b)) == len(wrong)


@pytest.mark.parametrize("side", ["a", "b", "both"])
def test_no_keypoint_may_be_left(side):
    a, b, given = pair(similarity(0.5, 1.3))
    a, b = (
        replace(f, keypoints=f.keypoints[:NUM_GIVEN], descriptors=f.descriptors[:NUM_GIVEN])
        if side in (name, "both")
        else f
        for f, name in ((a, "a"), (b, "b"))
    )
    assert rows(add_guided(given, a, b)) == rows(given)


def test_a_scale_of_nothing_is_named():
    a, b, given = pair(similarity(0.5, 1.3))
    scale = a.keypoints.scale.clone()
    scale[3] = 0
    with pytest.raises(ValueError, match="scale"):
        add_guided(given, replace(a, keypoints=replace(a.keypoints, scale=scale)), b)


def test_guides_reach_only_as_far_as_their_neighbours():
    """Matches in a corner say nothing of the other end of the image, alike as that may look."""
    a, b, given = pair(similarity(0.0, 1.0))
    corner = a.keypoints.xy[: NUM_GIVEN // 2].clone() * 0.05
    a, b = (replace(f, keypoints=replace(f.keypoints, xy=f.keypoints.xy.clone())) for f in (a, b))
    for features in (a, b):
        features.keypoints.xy[: NUM_GIVEN // 2] = corner
    found = add_guided(given[: NUM_GIVEN // 2], a, b)
    added = found.index[NUM_GIVEN // 2 :]
    assert (a.keypoints.xy[added[:, 0]].norm(dim=1) < 120).all()


def test_a_map_that_has_no_inverse_guides_nobody():
    """All keypoints of image a lie in one line, and those of image b in a plane."""
    x = [-9, 6, -5, 8, 4, 10, -7, 0, 5, -6]
    xy_b = [(-3, -3), (3, -2), (-2, -2), (0, 3), (2, 1), (3, 3), (-1, 3), (0, 1), (0, -1), (0, 2)]
    places = torch.tensor([(value, 0) for value in x]).float(), torch.tensor(xy_b).float()
    ones = torch.ones(len(x))
    a, b = (Features(Keypoints(xy, ones, 0 * ones, ones), torch.eye(len(x)), (20, 20))
            for xy in places)  # fmt: skip
    index = torch.arange(len(x))
    given = Matches(torch.stack([index, index], dim=1), ones)
    assert rows(add_guided(given, a, b)) == rows(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [(float("nan"), "length 1"), (50.0, "length 1"), (None, "one width")],
    ids=["nan", "long", "narrow"],
)
def test_descriptors_that_cannot_be_compared_are_named(values, message):
    a, b, given = pair(similarity(0.5, 1.3))
    descriptors = b.descriptors[:, :64] if values is None else b.descriptors * values
    if values is None:
        descriptors = torch.nn.functional.normalize(descriptors, dim=1)
    with pytest.raises(ValueError, match=message):
        add_guided(given, a, replace(b, descriptors=descriptors))


def test_a_place_of_nowhere_is_named():
    a, b, given = pair(similarity(0.5, 1.3))
    xy = b.keypoints.xy.clone()
    xy[-1, 0] = float("inf")
    with pytest.raises(ValueError, match="image b have a position"):
        add_guided(given, a, replace(b, keypoints=replace(b.keypoints, xy=xy)))


@pytest.mark.parametrize("keypoint", [-1, 400])
def test_a_match_of_no_keypoint_is_named(keypoint):
    a, b, given = pair(similarity(0.5, 1.3))
    index = given.index.clone()
    index[5, 1] = keypoint
    with pytest.raises(ValueError, match=f"keypoint {keypoint}"):
        add_guided(replace(given, index=index), a, b)


def test_the_switch_is_a_switch():
    with pytest.raises(ValueError, match="guided must be true or false, got 'yes'"):
        MatchConfig(guided="yes")


def sift_features(image):
    keypoints, descriptors = cv2.SIFT_create(1500).detectAndCompute(image, None)
    unit = torch.nn.functional.normalize(torch.from_numpy(descriptors), dim=1)
    values = np.array([(*k.pt, k.size / 2, math.radians(k.angle), k.response) for k in keypoints])
    x, y, scale, angle, score = torch.from_numpy(values).float()[:, :, None].unbind(dim=1)
    found = Keypoints(torch.cat([x, y], dim=1), scale[:, 0], angle[:, 0], score[:, 0])
    return Features(found, unit, image.shape[::-1])


@pytest.mark.parametrize("filter_name", ["density", "consensus"])
def test_features_of_opencv_find_more_matches_and_as_good_ones(filter_name):
    """A rendered photo and itself seen at a slant, rotated by 70 degrees, blurred and noisy."""
    image = cv2.cvtColor(read_color(sorted(DEMO_IMAGES.iterdir())[0]), cv2.COLOR_BGR2GRAY)
    height, width = image.shape
    cos, sin = math.cos(math.radians(70)), math.sin(math.radians(70))
    turn = np.array([[cos, -sin, 320], [sin, cos, 40], [0, 0, 1.0]])
    slant = np.array([[0.8, 0.1, 0], [0, 1.1, 0], [4e-4, 2e-4, 1]])
    warp = turn @ slant
    size = (width, height + 200)
    other = cv2.GaussianBlur(cv2.warpPerspective(image, warp, size), (0, 0), 1.0)
    noise = np.random.default_rng(0).normal(0, 8, other.shape)
    other = np.clip(other + noise, 0, 255).astype(np.uint8)
    a, b = sift_features(image), sift_features(other)

    def measure(config):
        found = match(a, b, config)
        xy_a, xy_b = (
            f.keypoints.xy[c].double() for f, c in zip((a, b), found.index.T, strict=True)
        )
        off = torch.linalg.vector_norm(warp_points(torch.from_numpy(warp), xy_a) - xy_b, dim=1)
        return len(found), int((off < 3).sum())

    config = MatchConfig(filter=filter_name)
    num, num_right = measure(config)
    num_after, num_right_after = measure(replace(config, guided=True))
    assert num_right_after > 1.1 * num_right
    added_right = (num_right_after - num_right) / (num_after - num)
    assert added_right > min(0.85, num_right / num)


def test_guided_is_an_option_of_every_matcher():
    config = MatchConfig(filter="consensus", guided=True)
    matcher = make_matcher(config)
    assert isinstance(matcher, GuidedMatcher)
    assert set(matcher.needs) == {"angles", "scales"}
    plain = make_matcher(replace(config, guided=False))
    assert matcher.provenance != plain.provenance
    assert json.loads(matcher.provenance["config"])["guided"] is True
    a, b, _ = pair(similarity(0.5, 1.3))
    for name in ("none", "paper", "density", "adalam", "network"):
        few, more = (match(a, b, MatchConfig(filter=name, guided=g)) for g in (False, True))
        assert rows(few) <= rows(more)


def test_files_made_before_guided_matching_are_those_of_today():
    assert config_hash(MatchConfig()) == config_hash(MatchConfig(guided=False))
    assert config_hash(MatchConfig()) != config_hash(MatchConfig(guided=True))


def test_a_filter_alone_cannot_guide():
    a, b, given = pair(similarity(0.5, 1.3))
    with pytest.raises(ValueError, match="add_guided"):
        filter_matches(given, a.keypoints, b.keypoints, MatchConfig(guided=True))


@pytest.mark.parametrize("guided", [True, False])
def test_commands_and_evaluations_hand_the_switch_on(guided, tmp_path):
    assert read_match_config("density", None, guided=guided).guided is guided
    config = match_config(0.9, "density", guided=guided)
    assert config.guided is guided
    assert match_label(config) == "nn ratio 0.9 + density" + " + guided" * guided
    image_set = ImageSet("photos", tmp_path, None, None)
    pipeline = Pipeline("rekd-fast", image_set, tmp_path / "out", 0, guided=guided)
    assert pipeline.label == "rekd-fast" + ", guided" * guided
    assert pipeline.folder(0).parent.name == "rekd-fast" + "-guided" * guided
    assert pipeline._matching(MatchConfig(ratio=0.95)) == MatchConfig(ratio=0.95, guided=guided)
