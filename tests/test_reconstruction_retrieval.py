"""Reconstructions whose pairs are chosen by what the photos show."""

import logging

import pytest

from rekd_hloc.matching import pairs as pairs_module
from rekd_hloc.matching.pairs import read_pairs
from tests.corner_reconstruction import NUM_VIEWS, run
from tests.sift_extractor import SiftExtractor


def test_pairs_by_retrieval_go_on_with_the_features(photos, copy):
    extractor = SiftExtractor(400)
    report = run(photos, copy, extractor, pairs="retrieval:2")
    assert extractor.seen == []
    assert report["configuration"]["pairs"] == "retrieval:2"
    assert "pairs" in report["seconds"]
    names = sorted(path.name for path in (photos / "images").iterdir())
    pairs = read_pairs(copy / "pairs.txt", names)
    assert report["pairs"]["num_pairs"] == len(pairs)
    assert NUM_VIEWS <= len(pairs) <= 2 * NUM_VIEWS
    assert all(sum(name in pair for pair in pairs) >= 2 for name in names)


def test_many_photos_are_retrieved_by_choice_of_the_program(photos, copy, monkeypatch, caplog):
    monkeypatch.setattr(pairs_module, "MAX_EXHAUSTIVE", NUM_VIEWS - 1)
    with caplog.at_level(logging.WARNING):
        report = run(photos, copy)
    assert report["configuration"]["pairs"] == "retrieval:30"
    assert report["pairs"]["num_pairs"] == 10  # five photos have no more
    assert f"{NUM_VIEWS} images: each is matched with the 30" in caplog.text


def test_mistakes_are_met_before_the_work(photos, tmp_path):
    extractor = SiftExtractor(400)
    with pytest.raises(FileNotFoundError, match="no codebook 'nothing'"):
        run(photos, tmp_path / "out", extractor, pairs="retrieval", codebook="nothing")
    with pytest.raises(ValueError, match="at least 1, got 'retrieval:0'"):
        run(photos, tmp_path / "out", extractor, pairs="retrieval:0")
    assert extractor.seen == []
    assert not (tmp_path / "out").exists()
