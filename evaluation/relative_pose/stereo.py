"""The stereo task: one extractor over sets of image pairs.

With more than one setting (ratios, thresholds) all are tried with the first seed. The one with the
best mAA(10) on the tuning half of the pairs, averaged over scenes, is chosen, and the other half is
reported. With one setting all pairs are reported.
"""

import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from evaluation.extractors.extraction import Extracted, extract_images
from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.registry import NamedExtractor
from evaluation.metrics.pose import mean_average_accuracy
from evaluation.relative_pose.dataset import PairSet
from evaluation.relative_pose.estimation import PairResult, estimate_pairs
from evaluation.relative_pose.estimators import RansacOptions, refuse_without_angles
from evaluation.relative_pose.matching import Matched, match_label, match_pairs, without_orientation
from evaluation.relative_pose.refinement import Refining, refine_pairs
from evaluation.relative_pose.refinement_report import LevelCount, count_levels
from rekd_hloc.config import MatchConfig
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """How features are matched and a pose is estimated."""

    match: MatchConfig
    ransac: RansacOptions

    @property
    def label(self) -> str:
        """In short, for tables."""
        return f"{match_label(self.match)}, {self.ransac.estimator} {self.ransac.threshold_px:g} px"


@dataclass(frozen=True)
class StereoPlan:
    """What to run; every combination of ``matches`` and ``ransacs`` is a setting."""

    matches: Sequence[MatchConfig]
    ransacs: Sequence[RansacOptions]
    seeds: Sequence[int] = (0, 1, 2)
    refine: bool = False
    """Whether the positions of matches are refined before the estimation."""

    def __post_init__(self) -> None:
        if not (self.matches and self.ransacs and self.seeds):
            raise ValueError("a stereo run needs a ratio, a threshold and a seed at least")

    @property
    def settings(self) -> list[Setting]:
        """Return all combinations, thresholds fastest."""
        return [Setting(m, r) for m, r in itertools.product(self.matches, self.ransacs)]

    def for_extractor(self, method: NamedExtractor) -> "StereoPlan":
        """Drop orientation filters if keypoints have no angles: they would pass everything."""
        if method.has_orientation:
            return self
        matches = dict.fromkeys(without_orientation(config) for config in self.matches)
        return replace(self, matches=list(matches))


@dataclass(frozen=True)
class Resources:
    """The folder that caches lie in, and what computes: processes, and the device of matching."""

    folder: Path
    pool: Executor | None = None
    jobs: int = 1
    device: str = "cpu"

    def extract(
        self, method: NamedExtractor, key: str, images: Mapping[str, Path],
        wanted: Collection[str] | None = None, masks: Mapping[str, Path] | None = None,
    ) -> Extracted:  # fmt: skip
        """Extract the images of the scene ``key``, see :func:`extract_images`."""
        return extract_images(
            images, method, self.folder / "features",
            wanted=wanted, masks=masks, label=key.replace("/", "-"),
        )  # fmt: skip

    def match(self, features: Extracted, pairs: Iterable[Pair], config: MatchConfig) -> Matched:
        """Match pairs, see :func:`match_pairs`."""
        return match_pairs(
            features.path, pairs, config, self.folder / "matches",
            jobs=self.jobs, device=self.device,
        )  # fmt: skip

    def refine(
        self, pairs: PairSet, features: Extracted, matched: Matched, options: Refining, label: str
    ) -> Path:
        """Refine matched positions, see :func:`refine_pairs`."""
        return refine_pairs(
            pairs, features.path, matched.path, options, self.folder / "refined",
            pool=self.pool, label=label,
        )  # fmt: skip


@dataclass(frozen=True)
class SceneRun:
    """One extractor on one scene.

    Attributes:
        key: of the scene.
        keypoints_per_image: mean.
        features: file of features, and what extracting took.
        matched: file of matches, by options of matching.
        refined: file of refined positions, likewise; empty without refinement.
        sweep: results of all pairs by setting, with the first seed.
        by_seed: results of all pairs with the chosen setting.
        reported: which pairs the metrics are of.
    """

    key: str
    keypoints_per_image: float
    features: Extracted
    matched: Mapping[MatchConfig, Matched]
    refined: Mapping[MatchConfig, Path]
    sweep: Mapping[Setting, Sequence[PairResult]] = field(repr=False)
    by_seed: Mapping[int, Sequence[PairResult]] = field(repr=False)
    reported: Sequence[bool] = field(repr=False)
    levels: Sequence[LevelCount] = ()
    """What refinement did with the chosen matches, by octave of scale; empty without it."""

    def reported_results(self, seed: int) -> list[PairResult]:
        """Return the results that the metrics are made of."""
        return list(itertools.compress(self.by_seed[seed], self.reported))


@dataclass(frozen=True)
class ExtractorRun:
    """One extractor on all scenes."""

    method: NamedExtractor
    chosen: Setting
    scenes: Sequence[SceneRun]
    is_refined: bool = False

    @property
    def label(self) -> str:
        """Return the method's name in tables; it says whether matches were refined."""
        return self.method.name + (REFINED if self.is_refined else "")


def run_stereo(
    sets: Sequence[PairSet], method: NamedExtractor, plan: StereoPlan, resources: Resources
) -> ExtractorRun:
    """Extract, match and estimate what earlier runs have not; choose the setting.

    Raises:
        ValueError: an image cannot be read, features cannot be matched, a scene has too few pairs
            to choose a setting on one half of them, or the estimator needs angles that keypoints
            do not have.
        ImportError: the estimator's package is missing.
    """
    plan = plan.for_extractor(method)
    if not method.has_orientation:
        for ransac in plan.ransacs:
            refuse_without_angles(ransac.estimator, f"the features of {method.name}")
    is_sweep = len(plan.settings) > 1
    if is_sweep:
        _require_both_halves(sets)
    runs = [_sweep_scene(pairs, method, plan, resources) for pairs in sets]
    chosen = _choose(plan.settings, sets, runs)
    if is_sweep:
        logger.info("%s: chosen %s", method.name, chosen.label)
    finished = []
    for pairs, run in zip(sets, runs, strict=True):
        by_seed = {plan.seeds[0]: run.sweep[chosen]}
        for seed in plan.seeds[1:]:
            by_seed[seed] = _estimate(pairs, run, chosen, seed, resources, method.name)
        levels: list[LevelCount] = []
        if plan.refine:
            names = [pair.names for pair in pairs.pairs]
            levels = count_levels(run.refined[chosen.match], names)
        finished.append(replace(run, by_seed=by_seed, levels=levels))
    return ExtractorRun(method, chosen, finished, plan.refine)


def maa_of(results: Sequence[PairResult]) -> float:
    """Return mAA(10) of results."""
    return mean_average_accuracy([result.error_deg for result in results])


def _sweep_scene(
    pairs: PairSet, method: NamedExtractor, plan: StereoPlan, resources: Resources
) -> SceneRun:
    extracted = resources.extract(method, pairs.key, pairs.images, pairs.used_images(), pairs.masks)
    counts = list(extracted.num_keypoints.values())
    names = [pair.names for pair in pairs.pairs]
    matched = {config: resources.match(extracted, names, config) for config in plan.matches}
    refined: dict[MatchConfig, Path] = {}
    if plan.refine:
        options = Refining(plan.ransacs[0].estimator, method.level_scale)
        label = f"{pairs.key} {method.name} refine"
        refined = {
            config: resources.refine(pairs, extracted, found, options, label)
            for config, found in matched.items()
        }
    is_sweep = len(plan.settings) > 1
    reported = [not (is_sweep and pair.is_for_tuning) for pair in pairs.pairs]
    run = SceneRun(pairs.key, float(np.mean(counts)), extracted, matched, refined, {}, {}, reported)
    sweep = {
        setting: _estimate(pairs, run, setting, plan.seeds[0], resources, method.name)
        for setting in plan.settings
    }
    return replace(run, sweep=sweep)


def _estimate(
    pairs: PairSet, run: SceneRun, setting: Setting, seed: int, resources: Resources, method: str
) -> list[PairResult]:
    return estimate_pairs(
        pairs.pairs, run.features.path, run.matched[setting.match].path, setting.ransac, seed,
        resources.folder / "poses", refined_path=run.refined.get(setting.match),
        pool=resources.pool,
        label=f"{run.key} {method} {setting.ransac.threshold_px:g} px, seed {seed}",
    )  # fmt: skip


def _choose(
    settings: Sequence[Setting], sets: Sequence[PairSet], runs: Sequence[SceneRun]
) -> Setting:
    """Return the best setting on the tuning pairs; of equal ones the first."""
    if len(settings) == 1:
        return settings[0]

    def score(setting: Setting) -> float:
        return float(np.mean([
            maa_of([r for p, r in zip(s.pairs, run.sweep[setting], strict=True) if p.is_for_tuning])
            for s, run in zip(sets, runs, strict=True)
        ]))  # fmt: skip

    return max(settings, key=score)


def _require_both_halves(sets: Sequence[PairSet]) -> None:
    for pairs in sets:
        num_tuning = sum(pair.is_for_tuning for pair in pairs.pairs)
        if num_tuning in (0, len(pairs.pairs)):
            raise ValueError(
                f"{pairs.key} has {len(pairs.pairs)} pairs, too few to choose a setting on one "
                "half and report it on the other; give one ratio and one threshold"
            )
