"""Retrieval: a codebook, signatures of images, an index, and pairs of images that look alike."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rekd_hloc.cli.main import main
from rekd_hloc.matching.pairs import make_pairs, read_pairs
from rekd_hloc.retrieval import signatures as signatures_module
from rekd_hloc.retrieval.codebook import (
    CODEBOOK_FORMAT,
    Codebook,
    load_codebook,
    save_codebook,
    train_codebook,
)
from rekd_hloc.retrieval.index import RetrievalIndex, nearest_images
from rekd_hloc.retrieval.signatures import Signature, SignatureStore, make_signature
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Keypoints
from rekd_hloc.weight_files import write_weights

NUM_SCENES, NUM_VIEWS = 4, 3
HASH = "0123456789ab"


def view(scene, number, *, rotation=0.0, noise=0.02):
    """Features of one view of a scene: its points with noise, all angles rotated alike."""
    points = torch.Generator().manual_seed(scene)
    own = torch.Generator().manual_seed(1000 + 31 * scene + number)
    descriptors = torch.randn(60, 128, generator=points)
    angle = torch.rand(60, generator=points) * 2 * torch.pi
    descriptors = F.normalize(descriptors, dim=1) + noise * torch.randn(60, 128, generator=own)
    keypoints = Keypoints(
        xy=torch.rand(60, 2, generator=own) * 100,
        scale=torch.ones(60),
        angle=(angle + rotation) % (2 * torch.pi),
        score=torch.rand(60, generator=own),
    )
    return Features(keypoints, F.normalize(descriptors, dim=1), (100, 100))


def all_views():
    return {
        f"s{scene}/v{number}.jpg": view(scene, number, rotation=1.7 * number)
        for scene in range(NUM_SCENES)
        for number in range(NUM_VIEWS)
    }


@pytest.fixture(scope="module")
def codebook():
    rows = torch.cat([view(scene, 99).descriptors for scene in range(NUM_SCENES + 2)])
    return train_codebook(rows, num_cells=4, words_per_cell=16, descriptor=HASH)


@pytest.fixture(scope="module")
def codebook_file(codebook, tmp_path_factory):
    path = tmp_path_factory.mktemp("codebook") / "book.safetensors"
    save_codebook(path, codebook, {})
    return path


@pytest.fixture
def features_file(tmp_path):
    path = tmp_path / "features.h5"
    write(path, all_views())
    return path


def write(path, images, *, descriptor=HASH, stamp=""):
    with FeatureStore.resume(path, {"descriptor_weights": descriptor}) as store:
        for name, features in images.items():
            text = f"size=1 mtime_ns=1 quick={stamp} whole={stamp}"
            attributes = {"image_stamp": text, "mask_stamp": "none"}
            store.write(name, features, attributes=attributes if stamp else None)


def scene_of(name):
    return name.split("/")[0]


def test_images_of_one_scene_are_nearest(codebook):
    signatures = {name: make_signature(f, codebook) for name, f in all_views().items()}
    found = nearest_images(signatures, NUM_VIEWS - 1)
    for name, others in found.items():
        assert sorted(map(scene_of, others)) == [scene_of(name)] * (NUM_VIEWS - 1)
        assert name not in others


def test_scores_do_not_depend_on_how_an_image_is_held(codebook):
    signatures = {name: make_signature(f, codebook) for name, f in all_views().items()}
    index = RetrievalIndex(signatures)
    for quarter in range(4):
        rotated = make_signature(view(2, 7, rotation=quarter * np.pi / 2), codebook)
        scores = index.scores(rotated)
        if quarter == 0:
            upright = scores
        np.testing.assert_allclose(scores, upright, rtol=1e-5, atol=1e-6)
    assert scene_of(index.names[int(upright.argmax())]) == "s2"


def test_keypoints_that_disagree_on_the_rotation_count_for_less(codebook):
    true = view(1, 5)
    random = torch.rand(60, generator=torch.Generator().manual_seed(3)) * 2 * torch.pi
    mixed = replace(true, keypoints=replace(true.keypoints, angle=random))
    index = RetrievalIndex({"a": make_signature(view(1, 0), codebook)})
    agreeing, disagreeing = (
        float(index.scores(make_signature(f, codebook))[0]) for f in (true, mixed)
    )
    assert disagreeing < 0.6 * agreeing


def test_an_index_of_nothing_and_images_of_nothing(codebook):
    nothing = make_signature(none_of(view(0, 0)), codebook)
    assert len(nothing) == 0
    assert nearest_images({}, 3) == {}
    assert nearest_images({"a": nothing, "b": nothing}, 3) == {"a": [], "b": []}
    one = make_signature(view(0, 0), codebook)
    assert nearest_images({"a": nothing, "b": one}, 3) == {"a": [], "b": []}
    with pytest.raises(ValueError, match="at least 1 image for each, got 0"):
        nearest_images({"a": one}, 0)


def none_of(features):
    nothing = torch.zeros(0, dtype=torch.int64)
    return Features(features.keypoints[nothing], features.descriptors[nothing], (100, 100))


def test_words_are_the_nearest_and_residuals_lead_back(codebook):
    rows = view(0, 3).descriptors
    number, residual = codebook.assign(rows)
    words = codebook.words.flatten(0, 1)
    torch.testing.assert_close(words[number] + residual, rows)
    exact = (rows @ words.T).argmax(dim=1)
    assert (number == exact).float().mean() > 0.9  # cells that are not tried may hold a nearer one


def test_a_codebook_comes_back_from_its_file(codebook, codebook_file):
    loaded = load_codebook(str(codebook_file))
    torch.testing.assert_close(loaded.words, codebook.words, atol=1e-3, rtol=0)
    assert loaded.descriptor == HASH
    assert len(loaded.digest) == 12
    assert len(loaded) == 64


def test_the_shipped_codebook_is_of_a_shipped_descriptor():
    from rekd_hloc.features.descriptor.hardnet import DESCRIPTOR_FORMAT, SHIPPED
    from rekd_hloc.weight_files import shipped_names, shipped_path, weights_hash

    assert shipped_path("codebook").stat().st_size <= 10_000_000
    book = load_codebook()
    assert book.num_channels == 128
    shipped = {weights_hash(shipped_path(name)) for name in shipped_names(DESCRIPTOR_FORMAT)}
    assert set(book.descriptor.split()) <= shipped
    assert weights_hash(shipped_path(SHIPPED)) in book.descriptor.split()
    lengths = book.words.norm(dim=2)
    assert float((lengths - 1).abs().max()) < 2e-3


def test_what_is_no_codebook_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no codebook 'nothing': shipped are codebook"):
        load_codebook("nothing")
    path = tmp_path / "other.safetensors"
    write_weights(path, {"a": torch.zeros(1)}, {"format": "something"})
    with pytest.raises(ValueError, match="has format 'something', a codebook has"):
        load_codebook(str(path))
    write_weights(path, {"cells": torch.zeros(2, 8)}, {"format": CODEBOOK_FORMAT})
    with pytest.raises(ValueError, match="train it anew"):
        load_codebook(str(path))
    with pytest.raises(ValueError, match="64 words need as many descriptors, got 10"):
        train_codebook(torch.randn(10, 8), num_cells=8, words_per_cell=8)
    with pytest.raises(ValueError, match="numbers, these have 128; train a codebook"):
        make_signature(view(0, 0), Codebook(torch.zeros(1, 8), torch.zeros(1, 1, 8)))


def test_pairs_by_retrieval(features_file, codebook_file):
    names = list(all_views())
    pairs = make_pairs(names, "retrieval:2", features=features_file, codebook=str(codebook_file))
    assert len(pairs) == NUM_SCENES * NUM_VIEWS * (NUM_VIEWS - 1) // 2
    assert all(scene_of(a) == scene_of(b) and a < b for a, b in pairs)
    with pytest.raises(ValueError, match="extract them first, and name their file by --features"):
        make_pairs(names, "retrieval:2")


def test_another_descriptor_is_named_in_one_line(tmp_path, codebook_file, caplog):
    path = tmp_path / "features.h5"
    write(path, all_views(), descriptor="ffffffffffff")
    with caplog.at_level(logging.WARNING):
        make_pairs(list(all_views()), "retrieval:2", features=path, codebook=str(codebook_file))
    (record,) = caplog.records
    assert f"has the descriptor ffffffffffff, the codebook {HASH}" in record.getMessage()
    assert "rekd-hloc codebook" in record.getMessage()


def test_loops_are_far_apart_in_the_order_of_the_numbers(tmp_path, codebook_file):
    path = tmp_path / "features.h5"
    scenes = [0, 0, 1, 2, 3, 0, 1]
    images = {f"{n + 5}.jpg": view(scene, n) for n, scene in enumerate(scenes)}
    write(path, images)
    pairs = make_pairs(
        list(images), "loops:1", overlap=2, features=path, codebook=str(codebook_file)
    )
    assert ("5.jpg", "6.jpg") not in pairs
    assert {("6.jpg", "10.jpg"), ("7.jpg", "11.jpg")} <= set(pairs)


@pytest.mark.parametrize("overlap", [2, 3, 4])
def test_loops_begin_behind_the_overlap(overlap, tmp_path, codebook_file):
    """Images 1 and 4 show one scene, three places apart, and so do 0 and 5."""
    pairs = loops_of(tmp_path, codebook_file, "loops:5", overlap)
    assert ("0.jpg", "5.jpg") in pairs
    assert (("1.jpg", "4.jpg") in pairs) == (overlap < 3)


def test_loops_follow_the_sequence_beside_them(tmp_path, codebook_file):
    """Images 0 and 5 are no pair of the sequence, and nearer than the overlap not asked for."""
    assert ("0.jpg", "5.jpg") in loops_of(tmp_path, codebook_file, "sequential:3+loops:5", 9)


def loops_of(tmp_path, codebook_file, source, overlap):
    path = tmp_path / "features.h5"
    if not path.exists():
        write(path, {f"{n}.jpg": view(scene, n) for n, scene in enumerate([0, 1, 2, 3, 1, 0])})
    names = [f"{n}.jpg" for n in range(6)]
    how = {"features": path, "codebook": str(codebook_file), "overlap": overlap}
    return set(make_pairs(names, source, **how))


def test_the_strongest_keypoints_make_a_signature(codebook, monkeypatch):
    features = view(0, 1)
    monkeypatch.setattr(signatures_module, "MAX_KEYPOINTS", 20)
    strongest = features.keypoints.score.argsort(descending=True)[:20]
    few = Features(features.keypoints[strongest], features.descriptors[strongest], (100, 100))
    found, expected = make_signature(features, codebook), make_signature(few, codebook)
    assert len(found) <= 20
    np.testing.assert_array_equal(found.words, expected.words)
    np.testing.assert_array_equal(found.bits, expected.bits)


def test_an_image_of_many_words_is_no_better_for_that(codebook):
    true, crowd = view(2, 1), [view(scene, 3) for scene in (0, 1, 3, 4, 5)]
    crowd.append(Features(true.keypoints[:12], true.descriptors[:12], (100, 100)))
    many = Features(
        Keypoints.concatenate([part.keypoints for part in crowd]),
        torch.cat([part.descriptors for part in crowd]),
        (100, 100),
    )
    half = Features(true.keypoints[:12], true.descriptors[:12], (100, 100))
    index = RetrievalIndex(
        {"many": make_signature(many, codebook), "half": make_signature(half, codebook)}
    )
    scores = dict(zip(index.names, index.scores(make_signature(view(2, 0), codebook)), strict=True))
    assert scores["half"] > scores["many"]


def test_rotations_between_two_bins_count_like_others(codebook):
    index = RetrievalIndex({"a": make_signature(view(1, 0), codebook)})
    scores = []
    for part in np.linspace(0, 1, 8, endpoint=False):
        noisy = view(1, 5, rotation=part * 2 * np.pi / 16)
        jitter = 0.1 * torch.randn(60, generator=torch.Generator().manual_seed(4))
        angle = (noisy.keypoints.angle + jitter) % (2 * torch.pi)
        rotated = replace(noisy, keypoints=replace(noisy.keypoints, angle=angle))
        scores.append(float(index.scores(make_signature(rotated, codebook))[0]))
    assert min(scores) > 0.85 * max(scores)


def test_an_index_is_added_to(features_file, codebook_file, tmp_path, monkeypatch):
    described = []
    real = signatures_module.make_signature
    monkeypatch.setattr(
        signatures_module, "make_signature", lambda f, c: described.append(1) or real(f, c)
    )
    names, index = list(all_views()), tmp_path / "index.h5"
    how = {"features": features_file, "codebook": str(codebook_file), "index": index}
    without = make_pairs(names, "retrieval:2", **{**how, "index": None})
    described.clear()
    make_pairs(names[:-2], "retrieval:2", **how)
    assert len(described) == len(names) - 2
    assert make_pairs(names, "retrieval:2", **how) == without
    assert len(described) == len(names)
    write(features_file, {names[0]: view(3, 50)}, stamp="f0")  # the photo is another one now
    changed = make_pairs(names, "retrieval:2", **how)
    assert len(described) == len(names) + 1
    assert {scene_of(b) for a, b in changed if a == names[0]} == {"s3"}


def test_an_index_of_another_codebook_is_refused(features_file, codebook_file, tmp_path):
    index = tmp_path / "index.h5"
    how = {"features": features_file, "index": index}
    make_pairs(list(all_views()), "retrieval:2", codebook=str(codebook_file), **how)
    before = index.read_bytes()
    other = tmp_path / "other.safetensors"
    save_codebook(other, train_codebook(torch.randn(64, 128), num_cells=2, words_per_cell=8), {})
    with pytest.raises(ValueError, match="codebook .* in index.h5, .* now"):
        make_pairs(list(all_views()), "retrieval:2", codebook=str(other), **how)
    assert index.read_bytes() == before
    with pytest.raises(FileExistsError, match="holds features"):
        make_pairs(
            list(all_views()), "retrieval:2", features=features_file,
            codebook=str(codebook_file), index=features_file,
        )  # fmt: skip


def test_signatures_come_back(tmp_path, codebook_file):
    book = load_codebook(str(codebook_file))
    signature = make_signature(view(0, 0), book)
    assert (np.diff(signature.words) > 0).all()
    with SignatureStore.resume(tmp_path / "index.h5", book) as store:
        store.write("a/b.jpg", signature, "digest")
    with SignatureStore(tmp_path / "index.h5") as store:
        assert store.names() == ["a/b.jpg"]
        assert store.source("a/b.jpg") == "digest"
        assert store.source("c.jpg") is None
        read = store.read("a/b.jpg")
        with pytest.raises(ValueError, match="no signature of 'c.jpg'"):
            store.read("c.jpg")
    for key in vars(signature):
        np.testing.assert_array_equal(getattr(read, key), getattr(signature, key))


def test_growth_is_by_what_images_share():
    """Twice the images of other scenes do not change what a query meets by more than chance."""
    rng = np.random.default_rng(0)

    def random_signature():
        words = np.unique(rng.integers(0, 4096, 200)).astype(np.int32)
        bits = rng.integers(0, 256, (len(words), 16), dtype=np.uint8)
        return Signature(words, bits, rng.integers(0, 256, len(words), dtype=np.uint8))

    images = {str(number): random_signature() for number in range(60)}
    one, two = RetrievalIndex(dict(list(images.items())[:30])), RetrievalIndex(images)
    assert two.num_bytes < 2.2 * one.num_bytes
    assert two.scores(images["3"]).argmax() == 3


def test_common_words_are_left_out_first(codebook, monkeypatch):
    signatures = {name: make_signature(f, codebook) for name, f in all_views().items()}
    index, query = RetrievalIndex(signatures), make_signature(view(2, 8), codebook)
    everything = index.scores(query)
    monkeypatch.setattr("rekd_hloc.retrieval.index.MAX_ENTRIES", 40)
    few = index.scores(query)
    assert 0 < few.max() < everything.max()
    assert scene_of(index.names[int(few.argmax())]) == "s2"
    monkeypatch.setattr("rekd_hloc.retrieval.index.MAX_ENTRIES", 0)
    assert not index.scores(query).any()


def test_the_commands(features_file, codebook_file, tmp_path, capsys):
    photos = tmp_path / "photos"
    for name in [*all_views(), "s9/without.jpg"]:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    out = tmp_path / "pairs.txt"
    options = ["--pairs", "retrieval:2+sequential:1", "--codebook", str(codebook_file)]
    arguments = ["pairs", str(photos), str(out), *options, "--features", str(features_file)]
    assert main([*arguments, "--index", str(tmp_path / "index.h5"), "--quiet"]) == 0
    assert "s9/without.jpg" in capsys.readouterr().err
    pairs = read_pairs(out, list(all_views()))
    assert len(pairs) == NUM_SCENES * NUM_VIEWS + NUM_SCENES - 1
    assert main(["pairs", str(photos), str(out), "--pairs", "retrieval:2"]) == 2
    assert "--features" in capsys.readouterr().err
    made = tmp_path / "made.safetensors"
    small = ["--cells", "4", "--words", "8"]
    assert main(["codebook", str(features_file), str(made), *small]) == 0
    assert load_codebook(str(made)).descriptor == HASH
    assert main(["codebook", str(features_file), str(made), *small]) == 2
    assert "--overwrite" in capsys.readouterr().err
