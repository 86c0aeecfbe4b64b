"""Train the detector: ``python -m training.train_detector --config configs/train_rekd_cpu.yaml``.

Adam on the two losses of REKD over synthetic pairs drawn on the fly. Every step's pairs are a pure
function of the seed and the step, so a run stopped at any step and resumed gives the same weights
as one that was not stopped. On several GPUs:
``torchrun --nproc_per_node 2 -m training.train_detector --config configs/train_rekd.yaml``.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from tqdm import tqdm

from evaluation.image_folders import images_hash, list_image_paths
from training.common.cli import run_cli
from training.common.distributed import any_process, join_processes
from training.common.signal_handler import SignalHandler
from training.common.tensorboard_logger import TensorBoardLogger
from training.detector_config import TrainDetectorConfig
from training.detector_pictures import draw_validation
from training.detector_run import DetectorRun
from training.loading import draw_share, load_ahead, report_skipped
from training.pair_cache import PairCache
from training.pairs import ImageSet, PairBatch
from training.validation import ValidationResult, validate

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_detector", __doc__, TrainDetectorConfig(), train, argv)


def train(
    config: TrainDetectorConfig,
    *,
    quiet: bool = False,
    judged_as: TrainDetectorConfig | None = None,
) -> ValidationResult:
    """Train to the end, resuming from ``output/last.pt`` where there is one.

    Args:
        config: the run's options.
        quiet: no progress bar.
        judged_as: the run whose held-out pairs this one is validated on; its own if None.

    Returns:
        The last validation.

    Raises:
        ValueError: too few photos, or a checkpoint of another configuration.
        FloatingPointError: a loss is not finite; the message names the step and the losses.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    if not config.photos:
        raise ValueError("no photos: give photos=[FOLDER,...] with natural images")
    training_paths, validation_paths = list_image_paths([Path(folder) for folder in config.photos])
    with join_processes(config.device) as process, SignalHandler() as stop:
        process.share_of(config.batch_size)
        judge = _Judge.open(judged_as or config, validation_paths)
        source = _open_source(config, training_paths)
        run = DetectorRun(config, images_hash([*training_paths, *validation_paths]), process)
        _run_steps(run, source, judge, stop, quiet=quiet or not process.is_main)
        return run.last_result


@dataclass(frozen=True)
class _Judge:
    """The held-out photos, and how pairs are drawn from them."""

    photos: ImageSet
    num_pairs: int
    seed: int

    @classmethod
    def open(cls, config: TrainDetectorConfig, paths: Sequence[Path]) -> Self:
        pairs = replace(config.pairs, crop_px=config.validation_crop_px)
        photos = ImageSet(paths, pairs, min_photos=1)
        report_skipped(photos.skipped, len(paths))
        return cls(photos, config.num_validation_pairs, config.seed)


def _open_source(config: TrainDetectorConfig, paths: Sequence[Path]) -> ImageSet | PairCache:
    if config.pair_cache:
        return PairCache(Path(config.pair_cache))
    photos = ImageSet(paths, config.pairs)
    report_skipped(photos.skipped, len(paths))
    return photos


def _run_steps(
    run: DetectorRun,
    source: ImageSet | PairCache,
    judge: _Judge,
    stop: SignalHandler,
    *,
    quiet: bool,
) -> None:
    config, process = run.config, run.process

    def draw(step: int) -> PairBatch:
        return draw_share(
            source, process, seed=config.seed, step=step, batch_size=config.batch_size
        )

    folder = Path(config.output) / "tensorboard"
    wanted = config.tensorboard and process.is_main
    batches = load_ahead(draw, run.step, config.steps, config.load_threads)
    with (
        tqdm(total=config.steps, initial=run.step, disable=quiet, unit="step") as bar,
        closing(TensorBoardLogger(folder, run.step + 1, wanted=wanted)) as board,
        closing(batches),
    ):
        _validate_if_due(run, judge, board, bar)  # stopped between a step and its validation
        for batch in batches:
            rate = run.learning_rate
            losses = run.advance(batch)
            board.add_step(run.step, losses, rate)
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            if any_process(stop.requested, process.device):
                _save_and_leave(run)
            _validate_if_due(run, judge, board, bar)
            if config.checkpoint_every and run.step % config.checkpoint_every == 0:
                _save(run)


def _validate_if_due(run: DetectorRun, judge: _Judge, board: TensorBoardLogger, bar: tqdm) -> None:
    if not (run.is_validation_due and run.process.is_main):
        return
    result = validate(run.network, judge.photos, num_pairs=judge.num_pairs, seed=judge.seed)
    run.record(run.last_losses, result)
    shown = judge.photos.batch(judge.seed, 0, 1)
    pictures = draw_validation(run.network, shown) if board.is_open else None
    board.add_validation(run.step, asdict(result), pictures)
    bar.write(f"step {run.step}: {_summary(result)}", file=sys.stderr)


def _save(run: DetectorRun) -> None:
    if run.process.is_main:
        run.save()


def _save_and_leave(run: DetectorRun) -> None:
    _save(run)
    logger.info("stopped at step %d of %d, kept in %s", run.step, run.config.steps, run.folder.path)
    raise KeyboardInterrupt


def _summary(result: ValidationResult) -> str:
    return (
        f"repeatability {result.repeatability_3px:.3f} at 3 px, {result.repeatability_1px5:.3f} at "
        f"1.5 px; orientation {result.orientation_accuracy:.3f} within 15 degrees, median "
        f"{result.orientation_median_deg:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
