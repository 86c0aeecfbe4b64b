"""Extraction and matching on threads and processes: the files are those of one worker."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig, MatchConfig
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.matching.match import NearestMatcher
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Matches
from tests.helpers import descriptor_weights, detector_weights, random_features, textured_image
from tests.sift_extractor import SiftExtractor
from tests.worker_inputs import NAMES, PAIRS, write_features, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(3) as pool:
        yield pool


class ProcessExtractor(SiftExtractor):
    """Puts the worker's process into the score of the last keypoint."""

    def __call__(self, image, mask=None):
        features = super().__call__(image, mask)
        features.keypoints.score[-1] = float(os.getpid())
        return features


@pytest.mark.slow
def test_processes_extract_the_file_of_one_process(images, processes, tmp_path):
    one = extract_images(SiftExtractor(), images, tmp_path / "one.h5")
    many = extract_images(SiftExtractor(), images, tmp_path / "many.h5", map_images=processes.map)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()
    assert many.names == one.names == NAMES
    assert many.skipped == one.skipped
    assert list(many.skipped) == ["damaged.png"]


def test_other_processes_extract_and_this_one_writes(images, processes, tmp_path):
    out = tmp_path / "f.h5"
    summary = extract_images(
        ProcessExtractor(), images, out, names=NAMES[:2], map_images=processes.map
    )
    with FeatureStore(out) as store:
        workers = {int(store.read(name).keypoints.score[-1]) for name in summary.names}
    assert os.getpid() not in workers
    resumed = extract_images(ProcessExtractor(), images, out, map_images=processes.map)
    assert resumed.num_resumed == 2
    assert resumed.names == NAMES


@pytest.mark.slow
def test_threads_extract_the_file_of_one_thread(images, threads, tmp_path):
    config = ExtractConfig(
        weights=str(detector_weights()),
        detector=DetectorConfig(max_keypoints=40, levels_up=0, levels_down=1, border_px=4),
        descriptor=DescriptorConfig(weights=str(descriptor_weights())),
    )
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    one = extract_images(extractor, images, tmp_path / "one.h5")
    extract_images(extractor, images, tmp_path / "many.h5", map_images=threads.map)
    assert sum(one.num_keypoints.values()) > 20
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


class ColorExtractor(SiftExtractor):
    """Takes colours, as the bytes of the file."""

    needs_color = True

    def __call__(self, image, mask=None):
        assert image.shape == (72, 96, 3)
        red = image[..., 0].astype(np.float32) / 255
        return super().__call__(torch.from_numpy(red), mask)


def test_an_extractor_may_take_colours(tmp_path, threads):
    pixels = textured_image(72, 96, seed=0)
    bgr = np.stack([np.zeros_like(pixels), np.zeros_like(pixels), pixels], axis=2)
    (tmp_path / "in").mkdir()
    assert cv2.imwrite(str(tmp_path / "in" / "a.png"), bgr)
    for number, map_images in enumerate((map, threads.map)):
        out = tmp_path / f"{number}.h5"
        summary = extract_images(ColorExtractor(), tmp_path / "in", out, map_images=map_images)
        assert summary.num_keypoints["a.png"] > 10


@pytest.fixture(scope="module")
def features_path(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("features") / "features.h5")


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_workers_match_the_file_of_one_worker(features_path, tmp_path, request, kind):
    pool = request.getfixturevalue(kind)
    one = match_images(features_path, tmp_path / "one.h5", PAIRS)
    many = match_images(features_path, tmp_path / "many.h5", PAIRS, map_pairs=pool.map)
    assert one.num_matches == many.num_matches
    assert list(one.num_matches) == PAIRS
    assert min(one.num_matches.values()) > 5
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


def test_a_worker_sees_the_features_of_each_run(features_path, tmp_path, processes):
    """A process that serves several runs must not match the features of the run before."""
    path = tmp_path / "features.h5"
    for seed in (0, 50):
        with FeatureStore.resume(path, {"config_hash": str(seed)}, overwrite=True) as store:
            for name in NAMES:
                store.write(name, random_features(30 + seed, seed=7))
        config = MatchConfig(filter="none")
        out = tmp_path / f"{seed}.h5"
        summary = match_images(path, out, PAIRS, config, map_pairs=processes.map)
        assert set(summary.num_matches.values()) == {30 + seed}


def test_a_workers_error_names_the_pair(features_path, tmp_path, processes):
    path = tmp_path / "features.h5"
    with FeatureStore.resume(path, {}) as store:
        store.write("a.png", random_features(5))
        long = random_features(5)
        store.write("b.png", replace(long, descriptors=long.descriptors * 3))
    with pytest.raises(ValueError, match=r"images 'a.png' and 'b.png': .*rows of length 1"):
        match_images(path, tmp_path / "m.h5", [("a.png", "b.png")], map_pairs=processes.map)


class FirstOfEach:
    """A matcher of one's own: the first keypoint of one image with the first of the other."""

    provenance = {"matcher": "first"}
    needs = ()

    def __call__(self, a, b):
        matches = NearestMatcher(MatchConfig(filter="none"))(a, b)
        return Matches(matches.index[:1] * 0, matches.score[:1])


def test_any_matcher_can_match_a_file(features_path, tmp_path, processes):
    out = tmp_path / "m.h5"
    summary = match_images(features_path, out, PAIRS, FirstOfEach(), map_pairs=processes.map)
    assert set(summary.num_matches.values()) == {1}
    with pytest.raises(ValueError, match="matcher"):
        match_images(features_path, out, PAIRS, MatchConfig())
