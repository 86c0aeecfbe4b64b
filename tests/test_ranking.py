"""The learned ranking of keypoints in the extractor, and the shapes of peaks that it looks at."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from rekd_hloc import weight_files
from rekd_hloc.config import DescriptorConfig, ExtractConfig, config_hash, config_tree, get_preset
from rekd_hloc.features.described import Described
from rekd_hloc.features.detector import surroundings, tiles
from rekd_hloc.features.detector.detect import make_detector
from rekd_hloc.features.detector.keypoints import peak_curvatures, read_around
from rekd_hloc.features.detector.orientation import find_second_peak
from rekd_hloc.features.detector.peak_shape import ShapedKeypoints
from rekd_hloc.features.detector.surroundings import SURROUNDINGS, measure_surroundings
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.ranking import (
    DETECTION_SIGNS,
    LIKENESS_SIGNS,
    Ranking,
    RankingNetwork,
    load_ranking,
    num_signs,
    read_signs,
    save_ranking,
)
from rekd_hloc.storage.provenance import OtherSettingsError, refuse_other
from rekd_hloc.types import Keypoints
from rekd_hloc.weight_files import weights_hash, write_weights
from tests.helpers import baked_network, descriptor_weights, random_keypoints, textured_image
from tests.test_extractor import plain


def random_ranking(descriptor="", looks_at="descriptor", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RankingNetwork(num_signs=num_signs(looks_at), hidden=(8,))
    return Ranking(network.eval().requires_grad_(False), looks_at, descriptor)


def some_candidates(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keypoints = random_keypoints(count, seed=seed)
    values = {item.name: getattr(keypoints, item.name) for item in fields(Keypoints)}
    shape = [torch.rand(count, generator=generator) for _ in range(5)]
    names = [item.name for item in fields(ShapedKeypoints)][len(fields(Keypoints)) : -1]
    around = torch.rand(count, len(SURROUNDINGS), generator=generator)
    shaped = ShapedKeypoints(**values, **dict(zip(names, shape, strict=True)), surroundings=around)
    rows = torch.randn(count, 128, generator=generator)
    return Described(shaped, rows / rows.norm(dim=1, keepdim=True), rows.norm(dim=1))


@pytest.fixture(scope="module", params=["detection", "descriptor"])
def ranked_config(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ranking") / "ranking.safetensors"
    owner = weights_hash(descriptor_weights()) if request.param == "descriptor" else ""
    save_ranking(path, random_ranking(owner, request.param), {"source": "random"})
    config = replace(plain(), ranking=str(path))
    return replace(config, detector=replace(config.detector, max_keypoints=40))


@pytest.fixture(scope="module")
def extractor(ranked_config):
    return Extractor.from_pretrained("rekd", device="cpu", config=ranked_config)


def test_the_budget_holds_the_best_of_the_pool(extractor, ranked_config):
    image = textured_image(130, 170, 2)
    kept = extractor(image).keypoints
    assert len(kept) == 40
    assert (kept.score.diff() <= 0).all()
    assert ((kept.score > 0) & (kept.score < 1)).all()
    wider = replace(ranked_config, detector=replace(ranked_config.detector, max_keypoints=80))
    pool = Extractor.from_pretrained("rekd", device="cpu", config=replace(wider, ranking="none"))
    every = pool(image).keypoints
    assert len(every) > 60

    def distance_to(others):
        return (kept.xy[:, None] - others.xy[None]).norm(dim=2).amin(dim=1)

    assert distance_to(every).max() < 1e-3
    assert distance_to(every[torch.arange(40)]).max() > 1  # it is not the detector's order


def test_a_quarter_turn_keeps_the_same_keypoints_in_the_same_order(extractor):
    image = torch.from_numpy(textured_image(131, 170, 3)).float() / 255
    here, there = extractor(image).keypoints, extractor(torch.rot90(image, 1)).keypoints
    turned = torch.stack([here.xy[:, 1], 169 - here.xy[:, 0]], dim=1)
    torch.testing.assert_close(there.xy, turned, atol=1e-2, rtol=0)
    torch.testing.assert_close(there.score, here.score, atol=1e-3, rtol=0)
    assert here.score.std() > 1e-3


def test_an_image_without_keypoints_has_none_to_rank(extractor):
    assert len(extractor(torch.zeros(40, 50))) == 0
    assert len(extractor(torch.zeros(1, 1))) == 0


def test_provenance_names_the_ranking_only_where_there_is_one(extractor, ranked_config):
    path = ranked_config.ranking
    assert extractor.provenance["ranking_weights"] == weights_hash(type(descriptor_weights())(path))
    without = Extractor.from_pretrained("rekd", device="cpu", config=plain())
    assert "ranking" not in without.provenance["config"]
    assert "ranking_weights" not in without.provenance


def test_files_made_before_there_were_rankings_are_gone_on_with():
    """Hashes as version 0.2.0.dev0 had them before the option came."""
    assert config_hash(replace(get_preset("rekd"), ranking="none")) == "ca9bcfc01d31"
    fast = replace(get_preset("rekd-fast"), ranking="none", descriptor=DescriptorConfig())
    assert config_hash(fast) == "7286592f8095"
    assert "ranking" not in config_tree(ExtractConfig())
    assert config_tree(ExtractConfig(ranking="mine.safetensors"))["ranking"] == "mine.safetensors"
    assert config_hash(ExtractConfig(ranking_pool=3)) != config_hash(ExtractConfig())


def test_another_ranking_is_named_by_what_turns_it_off():
    """Files made before there were rankings record none, and the error says so."""
    config = get_preset("rekd")
    before, now = (
        {"config": json.dumps(config_tree(c)), "config_hash": config_hash(c)}
        for c in (replace(config, ranking="none"), config)
    )
    with pytest.raises(OtherSettingsError) as error:
        refuse_other(Path("features.h5"), before, now)
    assert 'ranking "none" in features.h5, "ranking-linear" now' in str(error.value)
    assert "ranking_pool" not in str(error.value)


def test_a_ranking_comes_back_from_its_file(tmp_path):
    ranking, candidates = random_ranking("abc"), some_candidates()
    path = tmp_path / "r.safetensors"
    save_ranking(path, ranking, {})
    again = load_ranking(str(path))
    assert again.descriptor_weights == "abc"
    assert torch.equal(again.logits(candidates), ranking.logits(candidates))
    assert path.stat().st_size < 100_000


def test_a_shipped_ranking_has_a_name(tmp_path, monkeypatch):
    save_ranking(tmp_path / "ranking-mine.safetensors", random_ranking("abc"), {})
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    assert load_ranking("ranking-mine").descriptor_weights == "abc"
    with pytest.raises(FileNotFoundError, match="no ranking 'best': give none, ranking-mine, or"):
        load_ranking("best")


def test_what_is_no_ranking_is_refused(tmp_path, ranked_config):
    for metadata, words in (
        ({}, "has format None"),
        ({"format": "rekd_hloc ranking 1"}, "does not fit what it states"),
    ):
        path = tmp_path / f"{len(metadata)}.safetensors"
        write_weights(path, {"x": torch.zeros(1)}, metadata)
        with pytest.raises(ValueError, match=words):
            load_ranking(str(path))
    with pytest.raises(ValueError, match="protocol must be default with a ranking"):
        replace(get_preset("rekd-paper"), ranking="mine.safetensors")
    with pytest.raises(ValueError, match="ranking_pool must be between 1 and 16"):
        ExtractConfig(ranking_pool=0.5)
    other = tmp_path / "other.safetensors"
    save_ranking(other, random_ranking("abcdef"), {})
    with pytest.raises(ValueError, match=r"was trained with descriptor weights abcdef"):
        Extractor.from_pretrained("rekd", config=replace(ranked_config, ranking=str(other)))


def test_signs_are_those_of_the_image_alone():
    candidates = some_candidates()
    signs = read_signs(candidates, "descriptor")
    width = len(DETECTION_SIGNS) + len(LIKENESS_SIGNS) + 128
    assert signs.shape == (40, width)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    mixed = read_signs(candidates[order], "descriptor")
    torch.testing.assert_close(mixed, signs[order])
    brighter = replace(
        candidates, keypoints=replace(candidates.keypoints, score=7 * candidates.keypoints.score)
    )
    torch.testing.assert_close(read_signs(brighter, "descriptor"), signs)
    with pytest.raises(TypeError, match="needs keypoints with shapes"):
        read_signs(replace(candidates, keypoints=random_keypoints(40)), "likeness")


def test_signs_of_the_detection_need_no_description():
    candidates = some_candidates()
    alone = read_signs(candidates.keypoints, "detection")
    assert torch.equal(alone, read_signs(candidates, "descriptor")[:, : len(DETECTION_SIGNS)])
    with pytest.raises(TypeError, match="looks at the likeness needs described keypoints"):
        read_signs(candidates.keypoints, "likeness")
    ranking = random_ranking(looks_at="detection")
    kept = ranking.keep_best(candidates.keypoints, 7)
    described = ranking.keep_best_described(candidates, 7)
    assert torch.equal(kept.xy, described.keypoints.xy)
    assert torch.equal(described.descriptors, candidates[ranking.order(candidates)[:7]].descriptors)


def test_likeness_sees_the_nearest_other_descriptor():
    candidates = some_candidates(3)
    xy = torch.tensor([[0.0, 0.0], [1.0, 0.0], [500.0, 0.0]])
    rows = torch.zeros(3, 128)
    rows[0, 0] = rows[1, 0] = 1
    rows[2, :2] = torch.tensor([0.6, 0.8])
    candidates = replace(
        candidates, descriptors=rows, keypoints=replace(candidates.keypoints, xy=xy)
    )
    likeness, distant = read_signs(candidates, "likeness")[:, -2:].T
    assert likeness.tolist() == pytest.approx([1, 1, 0.6])
    assert distant.tolist() == pytest.approx([0.6, 0.6, 0.6])


def around(image, xy, scale=1.0):
    count = len(xy)
    signs = measure_surroundings(image, torch.tensor(xy), torch.full((count,), scale))
    return dict(zip(SURROUNDINGS, signs.T, strict=True))


def test_contrast_is_the_standard_deviation_in_the_window():
    image = torch.rand(90, 70, generator=torch.Generator().manual_seed(0))
    signs = around(image, [[30.5, 40.5], [2.0, 3.0]])
    inside = image[35:47, 25:37]  # pixels 25..36 are 6 to either side of the corner at 31
    assert float(signs["contrast_12"][0]) == pytest.approx(
        float(inside.std(correction=0)), rel=1e-5
    )
    assert float(signs["contrast_192"][0]) == pytest.approx(
        float(image.std(correction=0)), rel=1e-5
    )
    assert signs["contrast_12"][1] > 0.1  # what lies beyond the border is left out
    larger = around(image, [[30.5, 40.5]], 2.0)["contrast_12"]
    wide = image[29:53, 19:43]
    assert float(larger[0]) == pytest.approx(float(wide.std(correction=0)), rel=1e-5)


def test_edges_of_one_direction_of_two_and_of_all():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    stripes = 0.5 + 0.4 * torch.sin(0.5 * x + 0.3 * y)
    squares = 0.5 + 0.2 * (torch.sin(0.5 * x + 0.3 * y) + torch.sin(0.3 * x - 0.5 * y))
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    found = [around(image, [[31.5, 31.5]]) for image in (stripes, squares, noise)]
    one = [float(signs["one_direction_48"]) for signs in found]
    two = [float(signs["two_directions_48"]) for signs in found]
    assert one[0] > 0.95
    assert max(one[1:]) < 0.15
    assert min(two[:2]) > 0.4
    assert two[2] < 0.15


def test_directions_are_measured_where_they_count():
    image = torch.rand(40, 50, generator=torch.Generator().manual_seed(0))
    xy, scale = torch.tensor([[20.0, 20.0]]), torch.ones(1)
    whole = measure_surroundings(image, xy, scale)[0]
    less = measure_surroundings(image, xy, scale, with_directions=False)[0]
    for name, value, without in zip(SURROUNDINGS, whole, less, strict=True):
        assert value > 0.01
        assert without == (value if name.startswith("contrast") else 0)
    assert random_ranking().sees_directions
    assert not load_ranking("ranking-linear").sees_directions


def test_surroundings_from_parts_are_those_of_the_whole(monkeypatch):
    image = torch.from_numpy(textured_image(90, 110, 1)).float() / 255
    keypoints = random_keypoints(50)
    xy = keypoints.xy * torch.tensor([109.0, 89.0]) / keypoints.xy.amax(dim=0)
    whole = measure_surroundings(image, xy, keypoints.scale)
    monkeypatch.setattr(surroundings, "TILE_PX", 40)
    assert whole.std() > 0.05
    torch.testing.assert_close(measure_surroundings(image, xy, keypoints.scale), whole)


def test_curvatures_of_a_known_peak():
    y, x = torch.meshgrid(torch.arange(11.0), torch.arange(11.0), indexing="ij")
    score = 2 - 0.1 * (x - 5) ** 2 - 0.02 * (y - 5) ** 2
    least, most = peak_curvatures(read_around(score, torch.tensor([[5, 5]])))
    assert float(least) == pytest.approx(0.02, rel=1e-4)
    assert float(most) == pytest.approx(0.1, rel=1e-4)
    again = peak_curvatures(read_around(torch.rot90(score), torch.tensor([[5, 5]])))
    assert float(again[1]) == pytest.approx(0.1, rel=1e-4)


def test_the_second_peak_of_a_histogram():
    bins = torch.arange(36) * (2 * math.pi / 36)
    one = 3 * torch.cos(bins - bins[10])
    two = torch.logaddexp(30 * torch.cos(bins - bins[10]), 30 * torch.cos(bins - bins[25]) - 0.1)
    position, share = find_second_peak(torch.stack([one, two]))
    assert share.tolist() == pytest.approx([0, math.exp(-0.1)], abs=1e-3)
    assert position.tolist() == pytest.approx([10, 25], abs=0.05)


def test_shapes_from_tiles_are_those_of_the_whole(monkeypatch):
    image = torch.from_numpy(textured_image(90, 110, 1)).float() / 255
    detector = make_detector(baked_network(), plain().detector, with_shapes=True)
    whole = detector.detect(image)
    monkeypatch.setattr(tiles, "WHOLE_PIXELS", 2000)
    monkeypatch.setattr(tiles, "TILE_PX", 37)
    tiled = detector.detect(image)
    assert isinstance(tiled, ShapedKeypoints)
    assert len(whole) > 20
    for item in fields(ShapedKeypoints):
        values = [getattr(keypoints, item.name) for keypoints in (tiled, whole)]
        torch.testing.assert_close(*values, atol=1e-3, rtol=1e-3)
