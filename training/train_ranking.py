"""Train the ranking of keypoints: ``python -m training.train_ranking --config YAML``.

A small network learns from pairs of real photos how likely a keypoint is to be matched rightly. The
candidates of the photos are extracted once, and a run is resumed as those of other trainings.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.extractors.extraction import digest_of
from rekd_hloc.features.ranking import Ranking, load_ranking, resolve_ranking
from rekd_hloc.weight_files import weights_hash
from training.common.cli import run_cli
from training.common.loop import Validation, load_ahead, run_steps
from training.common.signal_handler import SignalHandler
from training.ranking_run import (
    RankingBatch,
    RankingRun,
    TrainRankingConfig,
    draw_batch,
    validate,
)
from training.scenes.geometry import models_hash
from training.scenes.scene_folders import SceneFolders
from training.selection.candidates import CandidateCache
from training.selection.ranking_samples import RankedImage, ranked_images
from training.selection.study_scenes import load_scenes

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_ranking", __doc__, TrainRankingConfig(), train, argv)


def train(config: TrainRankingConfig, *, quiet: bool = False) -> Path:
    """Train to the end, resuming where there is a run.

    Returns:
        The weights file of the best checkpoint, ``output/ranking.safetensors``.

    Raises:
        ValueError: no scene to learn from or to validate on, or files of another configuration.
        FileNotFoundError: no such model or photo.
        FloatingPointError: the loss is not finite; the message names the step.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    cache = CandidateCache(Path(config.cache), config.candidates)
    teacher = load_ranking(config.teacher) if config.teacher else None
    images = _images(config, config.scenes, "scenes", cache, teacher, quiet)
    held_out = _images(config, config.validation, "validation", cache, None, quiet)
    hashes = {
        "candidates_hash": cache.digest,
        "scenes_hash": _hash_of(config.scenes),
        "validation_hash": _hash_of(config.validation),
        "teacher_hash": weights_hash(resolve_ranking(config.teacher)) if config.teacher else "",
    }
    run = RankingRun(config, images, hashes, cache.descriptor_hash)

    def draw(step: int) -> RankingBatch:
        return draw_batch(images, config, np.random.default_rng([config.seed, step]))

    def validate_run() -> Validation:
        quality = validate(run.network, held_out, config.budget_share)
        run.record(quality)
        summary = " ".join(f"{name} {value:.3f}" for name, value in quality.items())
        return Validation(quality, summary)

    batches = load_ahead(draw, run.step, config.steps, num_threads=0)
    with SignalHandler() as stop:
        run_steps(run, batches, validate_run, stop, quiet=quiet)
    return run.export()


def _images(
    config: TrainRankingConfig,
    folders: SceneFolders,
    name: str,
    cache: CandidateCache,
    teacher: Ranking | None,
    quiet: bool,
) -> list[RankedImage]:
    scenes = load_scenes(folders, cache, seed=config.seed, quiet=quiet)
    images = ranked_images(
        scenes,
        cache.extract.detector,
        pool=config.pool,
        looks_at=config.looks_at,
        teacher=teacher,
    )
    if not images:
        raise ValueError(
            f"{name} give no photo with a right match; name models and photos in "
            f"{name}.models and {name}.images"
        )
    logger.info(
        "%s: %d photos, %d candidates", name, len(images), sum(len(i.score) for i in images)
    )
    return images


def _hash_of(folders: SceneFolders) -> str:
    """Hash of the models, and of how many pairs they give."""
    limits = [folders.max_pairs, folders.max_views]
    return digest_of({"models": models_hash(folders.models), "limits": limits})


if __name__ == "__main__":
    sys.exit(main())
