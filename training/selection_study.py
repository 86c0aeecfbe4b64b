"""Ways to choose keypoints, measured on real scenes: ``python -m training.selection_study``.

Every image gives some thousand candidates once; each way keeps a budget of them, and the pairs of
the scene say how many of their matches are right, and how good the relative pose is. Each result is
stored as soon as it is there.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from evaluation.extractors.extraction import digest_of, file_digest
from evaluation.relative_pose.estimation import ResultLog
from rekd_hloc.config import DetectorConfig, with_max_keypoints
from rekd_hloc.features.described import Described
from rekd_hloc.features.descriptor.hardnet import load_hardnet
from rekd_hloc.features.grey_images import grey_from_array
from rekd_hloc.features.ranking import load_ranking, resolve_ranking
from rekd_hloc.files import write_json, write_text
from rekd_hloc.images import read_image
from rekd_hloc.matching.match import match
from rekd_hloc.weight_files import weights_hash
from training.common.cli import run_cli
from training.scenes.geometry import models_hash
from training.scenes.scene_folders import SceneFolders
from training.selection.candidates import CandidateCache, CandidateConfig
from training.selection.choices import (
    CHOICES,
    Choose,
    by_level_shares,
    by_ranking,
    by_score,
    level_of,
)
from training.selection.scoring import MATCHINGS, Chosen, PairScore, score_pair
from training.selection.study_scenes import StudyScene, load_scenes
from training.selection.summary import Scores, to_table
from training.selection.variants import AffineShapes, add_second_angles, describe_upright

logger = logging.getLogger(__name__)

BASELINE = "score"
"""What the others are compared with."""
Make = Callable[[Described, Path], Chosen]
"""From the candidates of an image to those that are kept."""


@dataclass(frozen=True)
class StudyConfig:
    """What is measured, and where."""

    scenes: SceneFolders = SceneFolders()
    """Scenes that decide; none of them is trained on."""
    training: SceneFolders = SceneFolders()
    """Scenes that tell the shares of the levels; empty leaves that choice out."""
    candidates: CandidateConfig = CandidateConfig()
    budget: int = 2048
    """Keypoints kept in an image."""
    rankings: tuple[str, ...] = ()
    """Weights of rankings, files of ``training.train_ranking``; each is a further choice."""
    ranking_pool: float = 2.0
    """Candidates that a ranking chooses from, times the budget."""
    affnet: str = ""
    """Weights of AffNet; empty leaves affine frames out."""
    only: tuple[str, ...] = ()
    """Names of the choices to measure; empty takes all."""
    with_pose: bool = True
    """Estimate relative poses too."""
    seed: int = 0
    cache: str = "runs/candidates"
    """Folder of the candidates."""
    output: str = "runs/selection"
    """Folder of results, table and raw figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.selection_study", __doc__, StudyConfig(), study, argv)


def study(config: StudyConfig, *, quiet: bool = False) -> Scores:
    """Measure every choice on every scene, and write the table.

    Returns:
        Scores by choice and matching, of the same pairs in the same order.

    Raises:
        FileNotFoundError: no such model, photo or weights.
        ValueError: an unknown choice is asked for.
    """
    cache = CandidateCache(Path(config.cache), config.candidates)
    makers = _makers(config, cache, quiet)
    unknown = sorted(set(config.only) - set(makers))
    if unknown:
        raise ValueError(f"no choice {unknown[0]!r}; choices are {', '.join(makers)}")
    digest = _digest_of_inputs(config, cache)
    log = ResultLog(Path(config.output) / "pairs.jsonl", PairScore.from_record)
    scores: Scores = {}
    for scene in load_scenes(config.scenes, cache, seed=config.seed, quiet=quiet):
        for name, make in makers.items():
            if not config.only or name in config.only:
                _score_scene(scene, name, make, config, digest, log, scores, quiet)
    table = to_table(scores, BASELINE)
    write_text(Path(config.output) / "table.md", table)
    write_json(
        Path(config.output) / "scores.json",
        {" ".join(key): [s.to_record() for s in rows] for key, (_, rows) in scores.items()},
    )
    logger.info("%s", table)
    return scores


def level_shares(scene: StudyScene, detector: DetectorConfig) -> Counter[int]:
    """Count the right matches of a scene by the levels of their keypoints."""
    counts: Counter[int] = Counter()
    for pair, truth in scene.truths():
        sides = [
            Chosen.of(scene.candidates[v], torch.arange(len(scene.candidates[v])), (1, 1))
            for v in pair
        ]
        index = match(sides[0].features, sides[1].features, MATCHINGS["filtered"]).index
        right = index[truth.is_right(index)]
        for side in (0, 1):
            keypoints = sides[side].features.keypoints[right[:, side]]
            counts.update(level_of(keypoints, detector).tolist())
    return counts


def _digest_of_inputs(config: StudyConfig, cache: CandidateCache) -> str:
    """Hash of what choices depend on beside their names: candidates, training scenes, AffNet."""
    return digest_of(
        {
            "candidates": cache.digest,
            "training": models_hash(config.training.models),
            "affnet": file_digest(Path(config.affnet)) if config.affnet else "",
        }
    )


def _makers(config: StudyConfig, cache: CandidateCache, quiet: bool) -> dict[str, Make]:
    detector = with_max_keypoints(cache.extract, config.budget).detector
    choices = dict(CHOICES)
    if config.training.models:
        counts: Counter[int] = Counter()
        for scene in load_scenes(config.training, cache, seed=config.seed, quiet=quiet):
            counts += level_shares(scene, detector)
        total = counts.total()
        logger.info("right matches by level: %s", {k: n / total for k, n in sorted(counts.items())})
        choices["level-shares"] = by_level_shares(counts)

    def plain(choose: Choose) -> Make:
        def make(candidates: Described, _: Path) -> Chosen:
            return Chosen.of(candidates, choose(candidates, detector), (1, 1))

        return make

    for file in config.rankings:
        path = resolve_ranking(file)
        name = f"{path.parent.name}/{path.stem} {weights_hash(path)[:6]}"  # a run's file is ranking
        choices[name] = by_ranking(load_ranking(file), config.ranking_pool)
    makers = {name: plain(choose) for name, choose in choices.items()}
    return makers | _described_again(config, cache, detector)


def _described_again(
    config: StudyConfig, cache: CandidateCache, detector: DetectorConfig
) -> dict[str, Make]:
    """Choices by score whose keypoints are described in other ways."""
    options = cache.extract.descriptor
    network = load_hardnet(options.weights)
    ways = {"second-angle": add_second_angles, "upright": describe_upright}
    if config.affnet:
        ways["square-frame"] = AffineShapes(None).describe
        ways["affine-frame"] = AffineShapes(Path(config.affnet)).describe

    def maker(way: Callable[..., Chosen]) -> Make:
        @torch.inference_mode()
        def make(candidates: Described, path: Path) -> Chosen:
            grey = grey_from_array(read_image(path))
            return way(candidates, by_score(candidates, detector), grey, network, options)

        return make

    return {name: maker(way) for name, way in ways.items()}


def _score_scene(
    scene: StudyScene,
    name: str,
    make: Make,
    config: StudyConfig,
    digest: str,
    log: "ResultLog[PairScore]",
    scores: Scores,
    quiet: bool,
) -> None:
    views, chosen, lifted = scene.pairs.geometry.views, {}, None
    for pair in tqdm(scene.pairs.pairs, desc=f"{scene.name} {name}", disable=quiet or None):
        names = [views[view].name for view in pair]
        asked = [scene.model_hash, *names, name, config.budget, config.with_pose, digest]
        keys = {m: digest_of({"asked": [*asked, m]}) for m in MATCHINGS}
        if any(key not in log for key in keys.values()):
            if lifted is None:
                lifted = scene.pairs.lift({v: c.keypoints for v, c in scene.candidates.items()})
            for view in pair:
                if view not in chosen:
                    chosen[view] = make(scene.candidates[view], views[view].path)
            truth = scene.pairs.truth(lifted, pair)
            sides = chosen[pair[0]], chosen[pair[1]]
            for matching, key in keys.items():
                options = MATCHINGS[matching]
                pose = config.with_pose and matching == "filtered"
                log.add(key, score_pair(scene.pairs, pair, truth, sides, options, with_pose=pose))
        for matching, key in keys.items():
            names_and_scores = scores.setdefault((name, matching), ([], []))
            names_and_scores[0].append(scene.name)
            names_and_scores[1].append(log.get(key))


if __name__ == "__main__":
    sys.exit(main())
