"""All pairs that the match network learns from and is validated on, made once."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.image_folders import from_first_to_last, images_hash, list_image_paths
from rekd_hloc.config import config_tree, get_preset, with_max_keypoints
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features
from training.match_composites import CompositeView, carry_to_view, draw_composite
from training.match_network_config import MatchDataConfig, TrainMatchNetworkConfig
from training.match_pairs import (
    LabelledPair,
    load_or_make,
    match_features,
    strongest,
    unrelated_pair,
)
from training.match_scenes import MIN_MATCHES, NEARLY, MatchScenes
from training.scenes.real_pairs import RIGHT_PX
from training.warps import Image

logger = logging.getLogger(__name__)

Extract = Callable[[Image], Features]
NUM_OTHERS = 12
"""Photos that lie before and behind the pieces of another."""


def make_pairs(
    config: TrainMatchNetworkConfig, *, quiet: bool = False
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Return the pairs to learn from and to validate on; those that are in the cache are read.

    Raises:
        ValueError: there is nothing to learn from or to validate on.
        FileNotFoundError: no such model, photo or features.
    """
    data, seed = config.data, config.seed
    paths: tuple[list[Path], list[Path]] = ([], [])
    if data.images:
        paths = list_image_paths(data.images)
    learned, held_out = (
        from_first_to_last(paths[0], data.max_images),
        from_first_to_last(paths[1], config.validation_images),
    )
    cache = Path(config.cache)
    sets = []
    for name, scenes, photos, num_unrelated in (
        ("data", data.scenes, learned, data.num_unrelated),
        ("validation", config.validation, held_out, config.validation_unrelated),
    ):
        pairs = _scene_pairs(cache, scenes, seed, quiet)
        pairs += _composite_pairs(cache, photos, paths[0], data, seed, quiet)
        pairs += _unrelated_pairs(cache, scenes, num_unrelated, seed)
        if not pairs:
            raise ValueError(f"{name} gives no pair; name models, photos and features, or images")
        num_matches = sum(len(pair) for pair in pairs)
        logger.info("%s: %d pairs, %d matches", name, len(pairs), num_matches)
        sets.append(pairs)
    return sets[0], sets[1]


def _scene_pairs(cache: Path, scenes: MatchScenes, seed: int, quiet: bool) -> list[LabelledPair]:
    if not scenes.features:
        return []
    folder = cache / scenes.digest(seed)
    found: list[LabelledPair] = []
    for number in tqdm(range(len(scenes.features)), unit="scene", disable=quiet):
        name = f"scene-{number:03d}"
        found += load_or_make(folder, name, functools.partial(scenes.pairs_of, number, seed))
    return found


def _composite_pairs(
    cache: Path,
    paths: Sequence[Path],
    others: Sequence[Path],
    data: MatchDataConfig,
    seed: int,
    quiet: bool,
) -> list[LabelledPair]:
    if not paths:
        return []
    preset = with_max_keypoints(get_preset(data.preset), data.max_keypoints)
    extractor = Extractor.from_pretrained(data.preset, device="cpu", config=preset)
    made_of = {
        "images": images_hash(paths),
        "extractor": config_tree(preset),
        "weights": [extractor.provenance[f"{part}_weights"] for part in ("detector", "descriptor")],
        "composites": asdict(data.composites),
        "seed": seed,
    }
    folder = cache / digest_of(made_of)
    behind = [_read_grey(path) for path in from_first_to_last(others, NUM_OTHERS)]

    def make(number: int) -> Iterator[LabelledPair]:
        rng = np.random.default_rng([seed, number])
        views = draw_composite(rng, _read_grey(paths[number]), behind, data.composites)
        yield from composite_pairs(views, extractor)

    found: list[LabelledPair] = []
    for number in tqdm(range(len(paths)), unit="photo", disable=quiet):
        found += load_or_make(folder, f"photo-{number:04d}", functools.partial(make, number))
    return found


def composite_pairs(views: Sequence[CompositeView], extract: Extract) -> Iterator[LabelledPair]:
    """Return the pairs of all views of one photo."""
    features = [extract(view.grey) for view in views]
    for i, j in combinations(range(len(views)), 2):
        index, evidence = match_features(features[i], features[j])
        if len(index) < MIN_MATCHES:
            continue
        keypoints = features[i].keypoints[index[:, 0]]
        matched = features[j].keypoints[index[:, 1]]
        carried, is_seen = carry_to_view(views[i], views[j], keypoints)
        scale = torch.maximum(keypoints.scale, matched.scale).clamp(min=1)
        error = (carried - matched.xy.double()).norm(dim=1) / (RIGHT_PX * scale)
        is_right = is_seen & (error <= 1)
        yield LabelledPair(evidence, is_right, is_right | ~(error <= NEARLY), is_rigid=False)


def _unrelated_pairs(cache: Path, scenes: MatchScenes, count: int, seed: int) -> list[LabelledPair]:
    """Pairs of photos of different scenes, as many of each two scenes."""
    if len(scenes.features) < 2 or count == 0:
        return []

    def make() -> Iterator[LabelledPair]:
        rng = np.random.default_rng(seed)
        stores = [FeatureStore(Path(path)) for path in scenes.features]
        names = [store.names() for store in stores]
        for number in range(count):
            i, j = rng.choice(len(stores), 2, replace=False)
            budget = scenes.budgets[number % len(scenes.budgets)]
            a, b = (
                strongest(stores[k].read(names[k][rng.integers(len(names[k]))]), budget)
                for k in (i, j)
            )
            yield unrelated_pair(a, b)
        for store in stores:
            store.close()

    return load_or_make(cache / f"{scenes.digest(seed)}-{count}", "unrelated", make)


def _read_grey(path: Path) -> Image:
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path} is not an image; take it out of the folder")
    return np.asarray(image, np.uint8)
