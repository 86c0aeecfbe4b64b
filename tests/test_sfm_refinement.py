"""Reconstructions of other pipelines with refined keypoints, and from halves of the keypoints."""

import json

import numpy as np
import pycolmap
import pytest
import torch

from evaluation import sfm
from evaluation.reconstruction import pipelines
from evaluation.reconstruction.colmap_files import _scale_and_angle, export_colmap
from evaluation.reconstruction.halves import compare_models, take_half
from evaluation.reconstruction.pipelines import ImageSet, Pipeline, split_budget
from rekd_hloc.sfm.database import export_database
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.synthetic_scene import make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("scene") / "made", 3, 60)


def test_halves_are_disjoint_and_keep_all_matches_within_them(scene, tmp_path):
    a, b = scene.names[:2]
    with FeatureStore(scene.features) as store, MatchStore(scene.matches) as pairs:
        whole, matches = store.read(a), pairs.read(a, b).index
    positions = set()
    for parity, half in enumerate(("even", "odd")):
        paths = tmp_path / f"{half}.h5", tmp_path / f"{half}-matches.h5"
        take_half(scene.features, scene.matches, half, *paths)
        with FeatureStore(paths[0]) as store, MatchStore(paths[1]) as pairs:
            part, index = store.read(a), pairs.read(a, b).index
            assert store.provenance["half"] == half
        assert torch.equal(part.keypoints.xy, whole.keypoints.xy[parity::2])
        assert torch.equal(part.descriptors, whole.descriptors[parity::2])
        own = matches[(matches % 2 == parity).all(dim=1)]
        assert 0 < len(own) < len(matches) / 2
        assert torch.equal(2 * index + parity, own)
        positions |= {tuple(xy) for xy in part.keypoints.xy.tolist()}
    assert len(positions) == len(whole)


def test_models_differ_by_what_a_similarity_leaves(scene):
    model = pycolmap.Reconstruction(str(scene.reference))
    moved = pycolmap.Reconstruction(str(scene.reference))
    axis = pycolmap.Rotation3d(np.array([0.1, 0.2, 0.3]))
    moved.transform(pycolmap.Sim3d(2.0, axis, np.array([1.0, 2.0, 3.0])))
    same = compare_models(moved, model)
    assert same["num_compared"] == 3
    assert same["rotation_error_deg"]["max"] < 1e-4
    assert same["center_error_rel"]["max"] < 1e-6
    assert compare_models(None, model)["rotation_error_deg"] is None


def test_colmaps_keypoints_and_matches_come_back_as_they_were(scene, tmp_path):
    database = tmp_path / "database.db"
    with FeatureStore(scene.features) as store, MatchStore(scene.matches) as pairs:
        export_database(
            database, None, store, pairs, scene.pairs, quantise_descriptors=True
        )  # fmt: skip
        features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
        export_colmap(database, features, matches)
        with FeatureStore(features) as new, MatchStore(matches) as new_pairs:
            assert new.names() == store.names()
            old, back = (s.read(scene.names[0]) for s in (store, new))
            assert sorted(new_pairs.pairs()) == sorted(pairs.pairs())
            ours, theirs = (s.read(*scene.pairs[0]).index for s in (pairs, new_pairs))
    assert torch.equal(ours[ours[:, 0].argsort()], theirs[theirs[:, 0].argsort()])
    for name in ("xy", "scale", "angle"):
        torch.testing.assert_close(getattr(back.keypoints, name), getattr(old.keypoints, name))
    assert back.image_size == old.image_size


def test_affine_shapes_of_colmap_become_scale_and_angle():
    angle, scale = 0.7, 3.0
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    rows = torch.tensor([[cos, -sin, sin, cos]])
    assert [float(v) for v in _scale_and_angle(rows)] == pytest.approx([scale, angle])


def test_names_of_methods_are_not_taken_for_budgets():
    assert split_budget("aliked-n16") == ("aliked-n16", None)
    assert split_budget("aliked-n16-n500") == ("aliked-n16", 500)
    assert split_budget("rootsift-n8000") == ("rootsift", 8000)


def test_scales_are_taken_for_what_they_are():
    names = ["rekd-fast-n100", "keynet", "rootsift-n2000", "colmap-sift"]
    assert [pipelines.stored_scales(name) for name in names] == ["rekd", "rekd", "sigma", "sigma"]
    with pytest.raises(ValueError, match="orb has scales that are no sigmas"):
        pipelines.check_method("orb", refine=True)


@pytest.mark.slow
def test_peers_and_colmap_are_refined_and_halved_without_true_poses(photos, tmp_path):
    words = ["--images", str(photos / "images"), "--out", str(tmp_path), "--seeds", "0"]
    methods = ["--method", "sift-n1500", "--method", "colmap-sift"]
    assert sfm.main([*words, *methods, "--refine", "--halves"]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    whole, halves = record["tables"]
    names = [name + end for name in methods[1::2] for end in ("", " + refinement")]
    assert [row[0] for row in whole["rows"]] == names
    for plain, refined in zip(whole["rows"][::2], whole["rows"][1::2], strict=True):
        assert plain[1] == refined[1] == "5"
        assert plain[6:] == ["none"] * 4
        assert float(refined[5]) < float(plain[5])
    assert halves["title"] == "upright images, two halves of the keypoints"
    assert 0 < float(halves["rows"][0][6]) < 2
    assert record["data"].endswith("5 images")


def test_presets_are_told_to_refine_and_share_features(tmp_path, monkeypatch):
    seen = []

    def reconstruct(images, output, **options):
        seen.append((output.parent.name, options["refine"], (output / "features.h5").exists()))
        (output / "features.h5").write_bytes(b"")
        (output / "matches.h5").write_bytes(b"")
        return {"weights": {"detector": "abc"}}

    monkeypatch.setattr(pipelines, "reconstruct", reconstruct)
    image_set = ImageSet("upright", tmp_path / "images", None, None)
    pipeline = Pipeline("rekd-fast-n100", image_set, tmp_path / "out", 0)
    for refine in (False, True):
        assert pipeline.run(0, refine=refine) == ([], {"detector": "abc"})
    assert seen == [("rekd-fast-n100", False, False), ("rekd-fast-n100-refined", True, True)]


def test_consensus_shares_features_and_makes_matches_of_its_own(tmp_path, monkeypatch):
    seen = []

    def reconstruct(images, output, **options):
        there = [name for name in ("features.h5", "matches.h5") if (output / name).exists()]
        seen.append((output.parent.name, options["matching"].filter, there))
        (output / "features.h5").write_bytes(b"")
        (output / "matches.h5").write_bytes(b"")
        return {"weights": {}}

    monkeypatch.setattr(pipelines, "reconstruct", reconstruct)
    image_set = ImageSet("upright", tmp_path / "images", None, None)
    for consensus in (False, True):
        pipeline = Pipeline("rekd-fast", image_set, tmp_path / "out", 0, consensus)
        for seed in (0, 1):
            pipeline.run(seed)
    assert seen == [
        ("rekd-fast", "density", []),
        ("rekd-fast", "density", ["features.h5", "matches.h5"]),
        ("rekd-fast-consensus", "consensus", ["features.h5"]),
        ("rekd-fast-consensus", "consensus", ["features.h5", "matches.h5"]),
    ]
