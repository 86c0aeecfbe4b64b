"""Tests of what the match network is told of rendered scenes, and of images beside features."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from evaluation.rendering.courtyard import build_courtyard
from evaluation.rendering.scene import plan_views
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.matching.match_network import (
    MatchJudge,
    MatchNetwork,
    filter_by_network,
    load_match_network,
    save_match_network,
)
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.types import Features, Keypoints, Matches
from tests.test_match_network import random_evidence
from training.match_data import pairs_of_views
from training.match_pairs import LabelledPair, match_features
from training.match_rendered import RenderedConfig, render_views
from training.planar_views import NOTHING, carry_to_view

SIZE = (160, 120)


@pytest.fixture(scope="module")
def world():
    return build_courtyard(np.random.default_rng((1000, 0)))


@pytest.fixture(scope="module")
def courtyard(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.match_rendered.build_courtyard", lambda rng: world)
        return render_views(1000, RenderedConfig(views=2, size=SIZE))


def keypoints_at(xy):
    ones = torch.ones(len(xy))
    return Keypoints(torch.as_tensor(xy), ones, ones, ones)


def test_points_of_a_rendered_view_look_alike_in_another(courtyard):
    rng = np.random.default_rng(0)
    keypoints = keypoints_at(rng.uniform((3, 3), np.array(SIZE) - 4, (4000, 2)))
    carried, is_seen = carry_to_view(*courtyard, keypoints)
    assert 0.3 < float(is_seen.float().mean()) < 0.9
    grey = [cv2.GaussianBlur(view.grey, (0, 0), 1.5).astype(float) for view in courtyard]
    here, there = (
        image[xy[is_seen, 1].round().long(), xy[is_seen, 0].round().long()]
        for image, xy in zip(grey, (keypoints.xy, carried), strict=True)
    )
    assert np.corrcoef(here, there)[0, 1] > 0.9
    assert abs(np.corrcoef(here, np.roll(there, 7))[0, 1]) < 0.2


def test_rendered_planes_agree_with_the_cameras(world, courtyard):
    for view, plan in zip(courtyard, plan_views(2, SIZE, 1000), strict=True):
        for surface, to_view in list(zip(world.surfaces, view.maps, strict=True))[::20]:
            u, v, point = 0.3, 0.6, surface.corner + 0.3 * surface.edge_u + 0.6 * surface.edge_v
            x, y, depth = to_view @ (u, v, 1)
            np.testing.assert_allclose(
                (x / depth, y / depth), plan.camera.project(point[None])[0], atol=1e-6
            )


def test_the_sky_is_nothing_and_is_never_carried(courtyard):
    of, to = courtyard
    rows, columns = np.nonzero(of.label == NOTHING)
    assert len(rows)
    _, is_seen = carry_to_view(of, to, keypoints_at(np.column_stack([columns, rows]).astype(float)))
    assert not is_seen.any()


def test_few_views_are_refused_in_one_line():
    with pytest.raises(ValueError, match="views 2 or more"):
        RenderedConfig(views=1)


def test_right_matches_correlate_after_alignment(courtyard):
    extractor = Extractor.from_pretrained("rekd-fast", device="cpu")
    (pair,) = pairs_of_views(courtyard, extractor, is_rigid=True, with_correlation=True)
    assert pair.is_rigid
    assert 5 <= int(pair.is_right.sum()) < len(pair)
    correlation, is_refined = pair.evidence.extra.unbind(dim=1)
    assert (
        float(correlation[pair.is_right].mean()) > float(correlation[~pair.is_right].mean()) + 0.1
    )
    assert set(is_refined.tolist()) == {0.0, 1.0}


def test_numbers_beside_the_features_stay_with_their_matches(tmp_path):
    extra = torch.arange(60, dtype=torch.float64).view(30, 2)
    evidence = replace(random_evidence(30), extra=extra)
    every = torch.ones(30, dtype=torch.bool)
    pair = LabelledPair(evidence, every, every, is_rigid=True)
    pair.save(tmp_path / "pair.npz")
    read = LabelledPair.load(tmp_path / "pair.npz")
    assert torch.equal(read.evidence.extra, extra)
    assert torch.equal(read.swapped().evidence.extra, extra)
    assert torch.equal(read[torch.tensor([4, 2])].evidence.extra, extra[[4, 2]])
    assert torch.equal(evidence.signs()[:, -2:], extra)


def test_a_network_is_refused_matches_without_its_numbers(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "network.safetensors"
    save_match_network(path, MatchJudge(MatchNetwork(num_extra=2).eval(), 0.5), {})
    judge = load_match_network(str(path))
    evidence = random_evidence(40)
    extra = torch.rand(40, 2, dtype=torch.float64)
    with_extra, other = (
        judge.probabilities([replace(evidence, extra=values)])[0] for values in (extra, extra + 1)
    )
    assert float((with_extra - other).abs().max()) > 1e-6
    with pytest.raises(ValueError, match=r"takes 2 numbers of each match .* got 0"):
        judge.probabilities([evidence])
    generator = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(9, 16, generator=generator))
    features = Features(keypoints_at(torch.rand(9, 2, generator=generator)), rows, (10, 10))
    index = torch.arange(9)[:, None].expand(9, 2)
    with pytest.raises(ValueError, match="one that was trained with these"):
        filter_by_network(Matches(index, torch.ones(9)), features, features, judge)


def test_images_are_asked_only_where_their_correlation_is_wanted():
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(
        torch.rand(1, 1, 20, 20, generator=generator), (160, 160), mode="bicubic"
    )[0, 0].clamp(0, 1)
    rows = torch.nn.functional.normalize(torch.randn(25, 16, generator=generator))
    xy = torch.cartesian_prod(torch.arange(40.0, 121, 20), torch.arange(40.0, 121, 20))
    features = Features(keypoints_at(xy), rows, (160, 160))
    pyramids = ImagePyramid.of(image), ImagePyramid.of(image.flip(0))
    assert match_features(features, features)[1].extra is None
    same = match_features(features, features, (pyramids[0], pyramids[0]))[1].extra[:, 0]
    mirrored = match_features(features, features, pyramids)[1].extra[:, 0]
    assert float(same.min()) > 0.99 > float(mirrored.mean())
