"""Alignment along tracks: which images are read and kept, and what becomes of each keypoint."""

import cv2
import numpy as np
import torch

from rekd_hloc.images import read_image
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.refinement.track_alignment import PyramidCache, RefinedKeypoints, State, TrackAligner
from rekd_hloc.refinement.tracks import ImageMatches, build_tracks
from rekd_hloc.sfm.refined_record import MIN_UNCERTAINTY_PX, image_uncertainty
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import random_keypoints
from tests.warped_views import NUM_POINTS, make_views


def pyramids(count, asked):
    def load(image):
        asked.append(image)
        return None if image == 99 else ImagePyramid.of(torch.rand(40, 40))

    size = ImagePyramid.of(torch.rand(40, 40)).num_bytes
    return PyramidCache(load, max_bytes=int(count * size))


def test_the_images_used_last_are_kept():
    asked = []
    cache = pyramids(2, asked)
    for image in (0, 1, 0, 2, 0, 1):
        assert cache[image] is not None
    assert asked == [0, 1, 2, 1]


def test_an_image_larger_than_the_cache_is_used_all_the_same():
    asked = []
    cache = pyramids(0.5, asked)
    assert cache[0] is cache[0]
    for image in (1, 0):
        assert cache[image] is not None
    assert asked == [0, 1, 0]


def test_an_image_that_cannot_be_read_is_tried_once():
    asked = []
    cache = pyramids(1, asked)
    assert cache[99] is None
    for image in (0, 1, 99, 2, 99):
        cache[image]
    assert asked.count(99) == 1


def aligner(folder, flat=()):
    """Of two views whose images are flat where asked for; all matches in one order."""
    views = make_views(folder, num_views=2)
    with FeatureStore(views.features) as store:
        keypoints = [store.read_keypoints(name) for name in views.names]
    grey = [read_image(views.images / name) for name in views.names]
    for image in flat:
        grey[image] = torch.full_like(grey[image], 0.5)
    index = np.arange(NUM_POINTS)
    image = np.zeros(NUM_POINTS, np.int64)
    matches = ImageMatches(image, index, image + 1, index, np.ones(NUM_POINTS))
    cache = PyramidCache(lambda number: ImagePyramid.of(grey[number]))
    return TrackAligner(build_tracks(matches), keypoints.__getitem__, cache), keypoints


def test_roots_stay_and_others_follow(tmp_path):
    work, keypoints = aligner(tmp_path)
    first, second = work.refine(0), work.refine(1)
    assert (first.state == State.ROOT).all()
    np.testing.assert_array_equal(first.xy, keypoints[0].xy.numpy())
    assert np.mean(second.state == State.REFINED) > 0.9
    assert np.isfinite(second.covariance[second.state == State.REFINED]).all()
    np.testing.assert_array_equal(second.xy, work.refine(1).xy)  # the keypoints did not change


def test_what_is_refused_stays(tmp_path):
    work, keypoints = aligner(tmp_path, flat=[1])
    second = work.refine(1)
    assert (second.state == State.REFUSED).all()
    np.testing.assert_array_equal(second.xy, keypoints[1].xy.numpy())
    assert np.isnan(second.covariance).all()


def test_images_that_need_fewest_read_come_first(tmp_path):
    """Four images, of which 0 and 3 have no match with 1 and 2, and room for two."""
    index = np.arange(3)
    parts = [
        ImageMatches(np.full(3, a), index, np.full(3, b), index, np.ones(3))
        for a, b in ((0, 3), (1, 2))
    ]
    asked = []
    cache = pyramids(2, asked)
    keypoints = random_keypoints(3, (40, 40))
    work = TrackAligner(build_tracks(ImageMatches.concatenate(parts)), lambda _: keypoints, cache)
    order = []
    for image in work.in_order([0, 1, 2, 3, 4]):
        order.append(image)
        work.refine(image)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert len(asked) == 4, "an image was read twice"


def test_an_image_in_no_track_stays(tmp_path):
    work, keypoints = aligner(tmp_path)
    work._keypoints = lambda _: keypoints[0]
    other = work.refine(5)
    assert not other.state.any()
    np.testing.assert_array_equal(other.xy, keypoints[0].xy.numpy())


def known(states, std):
    states = np.array(states, np.uint8)
    covariance = np.full((len(states), 2, 2), np.nan, np.float32)
    covariance[states == State.REFINED] = np.eye(2) * std**2
    return RefinedKeypoints(np.zeros((len(states), 2), np.float32), covariance, states)


def test_the_uncertainty_is_the_root_of_the_mean_variance_of_what_follows_a_root():
    mixed = known([State.REFINED, State.REFINED, State.REFUSED, State.ROOT, State.NO_TRACK], 0.5)
    assert np.isclose(image_uncertainty(mixed, 2.0), np.sqrt((0.25 + 0.25 + 4) / 3))
    assert image_uncertainty(known([State.REFINED], 0.01), 2.0) == MIN_UNCERTAINTY_PX
    assert image_uncertainty(known([State.REFUSED, State.ROOT], 0.1), 2.0) == 2.0
    assert image_uncertainty(known([State.REFINED], 3.0), 2.0) == 2.0


def test_textures_are_not_flat(tmp_path):
    """What the tests above rely on."""
    views = make_views(tmp_path, num_views=1)
    assert cv2.imread(str(views.images / "v0.png"), 0).std() > 20
