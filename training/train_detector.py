"""Train the detector: ``python -m training.train_detector --config configs/train_rekd_cpu.yaml``.

Adam on the two losses of REKD over synthetic pairs drawn on the fly. Every step's pairs are a pure
function of the seed and the step, so a run stopped at any step and resumed gives the same weights
as one that was not stopped. On several GPUs:
``torchrun --nproc_per_node 2 -m training.train_detector --config configs/train_rekd.yaml``.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluation.image_folders import images_hash, list_image_paths
from training.common.cli import run_cli
from training.common.distributed import join_processes
from training.common.loop import Validation, load_ahead, run_steps
from training.common.signal_handler import SignalHandler
from training.detector_config import TrainDetectorConfig
from training.detector_run import DetectorRun
from training.detector_validation import (
    ValidationResult,
    ValidationSet,
    draw_validation,
    validate,
)
from training.pair_cache import PairCache, draw_share
from training.pairs import ImageSet, PairBatch
from training.scenes.geometry import models_hash
from training.scenes.planar_pairs import PlanarPairs


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_detector", __doc__, TrainDetectorConfig(), train, argv)


def train(
    config: TrainDetectorConfig,
    *,
    quiet: bool = False,
    validated_as: TrainDetectorConfig | None = None,
) -> ValidationResult:
    """Train to the end, resuming from ``output/last.pt`` where there is one.

    Args:
        config: the run's options.
        quiet: no progress bar.
        validated_as: the run whose held-out pairs validate this one; ``config`` if None.

    Returns:
        The last validation.

    Raises:
        ValueError: too few images, or a checkpoint of another configuration.
        FloatingPointError: a loss is not finite; the message names the step and the losses.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    training_paths, validation_paths = list_image_paths(config.images)
    with join_processes(config.device) as process, SignalHandler() as stop:
        process.share_of(config.batch_size)
        held_out = ValidationSet.open(validated_as or config, validation_paths)
        source = _open_source(config, training_paths)
        data_hash = images_hash([*training_paths, *validation_paths])
        if config.scene_share > 0:
            data_hash += "+" + models_hash(config.scene_models)
        run = DetectorRun(config, data_hash, process)

        def draw(step: int) -> PairBatch:
            return draw_share(
                source, process, seed=config.seed, step=step, batch_size=config.batch_size
            )

        batches = load_ahead(draw, run.step, config.steps, config.load_threads)
        validate_run = _validator(run, held_out)
        run_steps(run, batches, validate_run, stop, quiet=quiet or not process.is_main)
        return run.last_result


def _open_source(config: TrainDetectorConfig, paths: Sequence[Path]) -> ImageSet | PairCache:
    if config.pair_cache:
        return PairCache(Path(config.pair_cache))
    source = ImageSet(paths, config.pairs, photo_share=config.scene_share)
    if config.scene_share > 0:
        source.photo_pairs = PlanarPairs.read(
            config.scene_models, config.scene_images, config.pairs
        )
    return source


def _validator(run: DetectorRun, held_out: ValidationSet) -> Callable[[], Validation]:
    def validate_run() -> Validation:
        result = validate(
            run.network, held_out.images, num_pairs=held_out.num_pairs, seed=held_out.seed
        )
        run.record(result)
        return Validation(
            asdict(result),
            _summary(result),
            lambda: draw_validation(run.network, held_out.first_pair()),
        )

    return validate_run


def _summary(result: ValidationResult) -> str:
    return (
        f"repeatability {result.repeatability_3px:.3f} at 3 px, {result.repeatability_1px5:.3f} at "
        f"1.5 px; orientation {result.orientation_accuracy:.3f} within 15 degrees, median "
        f"{result.orientation_median_deg:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
