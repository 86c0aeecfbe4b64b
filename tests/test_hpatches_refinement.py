"""Refined matches in the homography protocols, beside those that they are made of."""

import json
import logging

import cv2
import numpy as np
import pytest

from evaluation import hpatches
from evaluation.homography.frames import place_image, read_frame
from evaluation.reporting.records import extractor_rank
from rekd_hloc.images import read_image
from tests.helpers import textured_image

SIZE = (220, 180)
B_FROM_A = np.array([[0.98, -0.12, 14.3], [0.10, 1.02, -6.6], [1e-4, -5e-5, 1.0]])


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences") / "v_one"
    folder.mkdir()
    image = cv2.cvtColor(textured_image(SIZE[1], SIZE[0], 1), cv2.COLOR_GRAY2BGR)
    other = cv2.warpPerspective(
        image, B_FROM_A, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    cv2.imwrite(str(folder / "1.ppm"), image)
    cv2.imwrite(str(folder / "2.ppm"), other)
    np.savetxt(folder / "H_1_2", B_FROM_A)
    return folder.parent


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr(hpatches, "make_plots", lambda *args: [])


def run(sequences, out, *words):
    options = ["--data", str(sequences), "--out", str(out), "--device", "cpu", "--refine"]
    assert hpatches.main([*options, "--num-extracted", "200", *words]) == 0
    return json.loads((out / "results.json").read_text())


def test_refined_matches_are_nearer_to_the_homography(sequences, tmp_path):
    record = run(sequences, tmp_path, "--method", "orb")
    plain, refined = (record["methods"][name]["summary"]["all"]
                      for name in ("orb", "orb + refinement"))  # fmt: skip
    assert refined["mma_precise_filtered"][0] > plain["mma_precise_filtered"][0] + 0.1
    assert refined["mma_precise"][0] > plain["mma_precise"][0] + 0.1
    assert refined["mma_filtered"][0] == refined["mma_precise_filtered"][1]
    for same in ("repeatability", "num_matches", "num_matches_filtered"):
        assert refined[same] == plain[same]
    precise, usual = record["tables"]
    assert precise["title"] == "full: precision, protocol rekd, sequences: 1, pairs: 1"
    assert precise["columns"][1:5] == ["MMA@0.5", "MMA@1", "MMA@2", "MMA@3"]
    assert usual["title"].startswith("full: protocol rekd")
    assert [row[0] for row in usual["rows"]] == ["orb", "orb + refinement"]


def test_homographies_are_those_of_refined_matches_in_the_resized_frame(sequences, tmp_path):
    words = ["--protocol", "homography-auc", "--method", "orb", "--filter", "consensus"]
    record = run(sequences, tmp_path, *words)
    (table,) = record["tables"]
    errors = [record["methods"][row[0]]["pairs"][0]["metrics"]["corner_error_px_filtered"]
              for row in table["rows"]]  # fmt: skip
    assert errors[1] < errors[0]
    assert record["description"].endswith("filter here: consensus")


@pytest.mark.slow
def test_methods_without_angles_are_refined_without_a_filter(sequences, tmp_path):
    record = run(sequences, tmp_path, "--method", "rootsift-upright")
    summary = record["methods"]["rootsift-upright + refinement"]["summary"]["all"]
    assert summary["mma_precise_filtered"] is None
    assert summary["mma_precise"][0] > 0.3


def test_protocols_of_keypoints_alone_refuse_refinement(sequences, tmp_path, caplog):
    words = ["--data", str(sequences), "--out", str(tmp_path), "--method", "orb", "--refine"]
    with caplog.at_level(logging.ERROR):
        assert hpatches.main([*words, "--protocol", "superpoint"]) == 2
    assert "protocols are rekd, d2net, homography-auc" in caplog.text


def test_frames_in_memory_are_the_images_that_were_extracted(sequences):
    path = sequences / "v_one" / "1.ppm"
    assert (read_frame(path, place_image(SIZE, "original")) == read_image(path)).all()
    assert read_frame(path, place_image(SIZE, "short-480")).shape == (480, 587)


def test_a_refined_row_follows_its_own():
    names = ["sift + refinement", "rekd + refinement", "sift", "mine", "rekd", "mine + refinement"]
    assert sorted(names, key=extractor_rank) == [
        "rekd", "rekd + refinement", "sift", "sift + refinement", "mine", "mine + refinement",
    ]  # fmt: skip
