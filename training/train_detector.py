"""Train the detector: ``python -m training.train_detector --config configs/train_rekd_cpu.yaml``.

Adam on the two losses of REKD over synthetic pairs drawn on the fly. Every step's pairs are a pure
function of the seed and the step, so a run stopped at any checkpoint and resumed gives the same
weights as one that was not stopped.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from evaluation.photos import list_photos, photos_hash
from training.detector_run import DetectorRun, TrainDetectorConfig
from training.pair_cache import PairCache
from training.pairs import PhotoSet
from training.program import run_program
from training.validation import ValidationResult, validate


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_program("training.train_detector", __doc__, TrainDetectorConfig(), train, argv)


def train(config: TrainDetectorConfig, *, quiet: bool = False) -> ValidationResult:
    """Train to the end, resuming from ``output/last.pt`` where there is one.

    Returns:
        The last validation.

    Raises:
        ValueError: too few photos, or a checkpoint of another configuration.
        FloatingPointError: a loss is not finite; the message names the step and the losses.
    """
    if not config.photos:
        raise ValueError("no photos: give photos=[FOLDER,...] with natural images")
    training_paths, validation_paths = list_photos([Path(folder) for folder in config.photos])
    source: PhotoSet | PairCache = (
        PairCache(Path(config.pair_cache))
        if config.pair_cache
        else PhotoSet(training_paths, config.pairs)
    )
    held_out = PhotoSet(
        validation_paths, replace(config.pairs, crop_px=config.validation_crop_px), min_photos=1
    )
    run = DetectorRun(config, photos_hash([*training_paths, *validation_paths]))
    result = run.last_result
    bar = tqdm(total=config.steps, initial=run.step, disable=quiet, unit="step")
    while run.step < config.steps:
        batch = source.batch(config.seed, run.step, config.batch_size)
        losses = run.advance(batch)
        bar.update()
        bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
        if run.step % config.validate_every == 0 or run.step == config.steps:
            result = validate(
                run.network, held_out, num_pairs=config.num_validation_pairs, seed=config.seed
            )
            run.record(losses, result)
            bar.write(f"step {run.step}: {_summary(result)}", file=sys.stderr)
    bar.close()
    return result


def _summary(result: ValidationResult) -> str:
    return (
        f"repeatability {result.repeatability_3px:.3f} at 3 px, {result.repeatability_1px5:.3f} at "
        f"1.5 px; orientation {result.orientation_accuracy:.3f} within 15 degrees, median "
        f"{result.orientation_median_deg:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
