"""All pairs that the match network learns from and is validated on, made once."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of
from evaluation.image_folders import from_first_to_last, images_hash, list_image_paths
from rekd_hloc.config import config_tree, get_preset, with_max_keypoints
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features
from training.match_composites import draw_composite
from training.match_network_config import MatchDataConfig, TrainMatchNetworkConfig
from training.match_pairs import (
    LabelledPair,
    load_or_make,
    match_features,
    read_pyramid,
    strongest,
    unrelated_pair,
)
from training.match_rendered import FIRST_SEED, render_views
from training.match_scenes import MIN_MATCHES, NEARLY, MatchScenes
from training.planar_views import PlanarView, carry_to_view
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
    pair_cache = PairCache(Path(config.cache), data, seed, quiet)
    rendered = range(FIRST_SEED, FIRST_SEED + data.rendered.scenes)
    sets = []
    for name, scenes, photos, num_unrelated, seeds in (
        ("data", data.scenes, learned, data.num_unrelated, rendered),
        ("validation", config.validation, held_out, config.validation_unrelated, range(0)),
    ):
        pairs = pair_cache.of_scenes(scenes)
        pairs += pair_cache.of_composites(photos, paths[0])
        pairs += pair_cache.of_rendered(seeds)
        pairs += pair_cache.of_unrelated(scenes, num_unrelated)
        if not pairs:
            raise ValueError(f"{name} gives no pair; name models, photos and features, or images")
        num_matches = sum(len(pair) for pair in pairs)
        logger.info("%s: %d pairs, %d matches", name, len(pairs), num_matches)
        sets.append(pairs)
    return sets[0], sets[1]


@dataclass(frozen=True)
class PairCache:
    """Makes pairs, or reads those that it made before.

    Attributes:
        folder: of all pairs; each set has a folder of its own, named by what it is made of.
        data: options of the pairs.
        seed: of all that is drawn.
        quiet: show no bars.
    """

    folder: Path
    data: MatchDataConfig
    seed: int
    quiet: bool = False

    def of_scenes(self, scenes: MatchScenes) -> list[LabelledPair]:
        """Return the pairs of photos of reconstructions."""
        if not scenes.features:
            return []

        def make(number: int) -> Iterator[LabelledPair]:
            return scenes.pairs_of(number, self.seed, with_correlation=self.data.correlation)

        folder = self._folder_of(scenes.digest(self.seed))
        return self._collect(folder, "scene", range(len(scenes.features)), make, "scene-{:03d}")

    def of_composites(self, paths: Sequence[Path], others: Sequence[Path]) -> list[LabelledPair]:
        """Return the pairs of views of photos in pieces; ``others`` lie before and behind."""
        if not paths:
            return []
        extractor, made_by = self._extractor
        composites = asdict(self.data.composites)
        made_of = made_by | {"images": images_hash(paths), "composites": composites}
        behind = [_read_grey(path) for path in from_first_to_last(others, NUM_OTHERS)]

        def make(number: int) -> Iterator[LabelledPair]:
            rng = np.random.default_rng([self.seed, number])
            photo = _read_grey(paths[number])
            views = draw_composite(rng, photo, behind, self.data.composites)
            return pairs_of_views(views, extractor, with_correlation=self.data.correlation)

        folder = self._folder_of(digest_of(made_of))
        return self._collect(folder, "photo", range(len(paths)), make, "photo-{:04d}")

    def of_rendered(self, seeds: Sequence[int]) -> list[LabelledPair]:
        """Return the pairs of views of rendered scenes."""
        if not seeds:
            return []
        extractor, made_by = self._extractor
        rendered = self.data.rendered
        made_of = made_by | {"rendered": [rendered.views, list(rendered.size)]}

        def make(seed: int) -> Iterator[LabelledPair]:
            views = render_views(seed, rendered)
            correlation = self.data.correlation
            return pairs_of_views(views, extractor, is_rigid=True, with_correlation=correlation)

        folder = self._folder_of(digest_of(made_of))
        return self._collect(folder, "courtyard", seeds, make, "rendered-{:05d}")

    def of_unrelated(self, scenes: MatchScenes, count: int) -> list[LabelledPair]:
        """Return pairs of photos of different scenes, as many of each two scenes."""
        if len(scenes.features) < 2 or count == 0:
            return []
        folder = self._folder_of(f"{scenes.digest(self.seed)}-{count}")
        make = functools.partial(self._make_unrelated, scenes, count)
        return load_or_make(folder, "unrelated", make)

    def _make_unrelated(self, scenes: MatchScenes, count: int) -> Iterator[LabelledPair]:
        rng = np.random.default_rng(self.seed)
        stores = [FeatureStore(Path(path)) for path in scenes.features]
        names = [store.names() for store in stores]
        for number in range(count):
            i, j = rng.choice(len(stores), 2, replace=False)
            budget = scenes.budgets[number % len(scenes.budgets)]
            drawn = [(k, names[k][rng.integers(len(names[k]))]) for k in (i, j)]
            a, b = (strongest(stores[k].read(name), budget) for k, name in drawn)
            images = None
            if self.data.correlation:
                files = [Path(scenes.folders.images[k]) / name for k, name in drawn]
                images = read_pyramid(files[0]), read_pyramid(files[1])
            yield unrelated_pair(a, b, images)
        for store in stores:
            store.close()

    @functools.cached_property
    def _extractor(self) -> tuple[Extractor, dict[str, Any]]:
        """Return what extracts features of views, and what its pairs depend on."""
        preset = with_max_keypoints(get_preset(self.data.preset), self.data.max_keypoints)
        extractor = Extractor.from_pretrained(self.data.preset, device="cpu", config=preset)
        weights = [extractor.provenance[f"{part}_weights"] for part in ("detector", "descriptor")]
        return extractor, {"extractor": config_tree(preset), "weights": weights, "seed": self.seed}

    def _folder_of(self, digest: str) -> Path:
        return self.folder / (f"{digest}-correlation" if self.data.correlation else digest)

    def _collect(
        self,
        folder: Path,
        unit: str,
        numbers: Sequence[int],
        make: Callable[[int], Iterator[LabelledPair]],
        kind: str,
    ) -> list[LabelledPair]:
        found: list[LabelledPair] = []
        for number in tqdm(numbers, unit=unit, disable=self.quiet):
            found += load_or_make(folder, kind.format(number), functools.partial(make, number))
        return found


def pairs_of_views(
    views: Sequence[PlanarView],
    extract: Extract,
    *,
    is_rigid: bool = False,
    with_correlation: bool = False,
) -> Iterator[LabelledPair]:
    """Return the pairs of all views of one photo or scene.

    Args:
        views: each two of them are a pair.
        extract: gives the features of a grey image.
        is_rigid: whether the planes stand still, so that one epipolar geometry holds for all.
        with_correlation: tell how well the views correlate about each match.
    """
    features = [extract(view.grey) for view in views]
    pyramids = []
    if with_correlation:
        pyramids = [ImagePyramid.of(torch.from_numpy(view.grey) / 255) for view in views]
    for i, j in combinations(range(len(views)), 2):
        images = (pyramids[i], pyramids[j]) if with_correlation else None
        index, evidence = match_features(features[i], features[j], images)
        if len(index) < MIN_MATCHES:
            continue
        keypoints = features[i].keypoints[index[:, 0]]
        matched = features[j].keypoints[index[:, 1]]
        carried, is_seen = carry_to_view(views[i], views[j], keypoints)
        scale = torch.maximum(keypoints.scale, matched.scale).clamp(min=1)
        error = (carried - matched.xy.double()).norm(dim=1) / (RIGHT_PX * scale)
        is_right = is_seen & (error <= 1)
        yield LabelledPair(evidence, is_right, is_right | ~(error <= NEARLY), is_rigid=is_rigid)


def _read_grey(path: Path) -> Image:
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path} is not an image; take it out of the folder")
    return np.asarray(image, np.uint8)
