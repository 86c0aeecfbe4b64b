"""Train the descriptor: ``python -m training.train_descriptor --config YAML photos=[FOLDER,...]``.

HardNet with its hardest-in-batch loss on patches at this project's keypoints, cut at their detected
position, scale and angle in photos and in changed views of them, and with ``scenes.folders`` and
``scenes.photos`` also in the photos of reconstructions. Every step is a pure function of
seed and step number: a stopped run that goes on gives the same weights as one that was not stopped.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.image_folders import images_hash, list_image_paths
from rekd_hloc.features.descriptor.hardnet import load_hardnet
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.extractor import choose_device
from rekd_hloc.features.weights import load_detector, resolve_weights, weights_hash
from training.common.cli import run_cli
from training.common.signal_handler import SignalHandler
from training.common.tensorboard_logger import TensorBoardLogger
from training.descriptor_run import (
    DescriptorRun,
    TrainDescriptorConfig,
    read_start,
    summarise,
)
from training.descriptor_validation import (
    Describe,
    MatchingQuality,
    ValidationPair,
    by_network,
    by_root_sift,
    evaluate,
    make_pairs,
)
from training.track_cache import TrackSet, generate_scene_tracks, generate_tracks

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_descriptor", __doc__, TrainDescriptorConfig(), train, argv)


def train(config: TrainDescriptorConfig, *, quiet: bool = False) -> Path:
    """Make what is missing of the tracks, then train to the end, resuming where there is a run.

    Returns:
        The weights file of the best checkpoint, ``output/hardnet.safetensors``.

    Raises:
        ValueError: too few photos, or files of another configuration.
        FileNotFoundError: no such folder or detector.
        FloatingPointError: the loss is not finite; the message names the step.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    if not config.photos:
        raise ValueError("no photos: give photos=[FOLDER,...] with natural images")
    training_paths, validation_paths = list_image_paths([Path(folder) for folder in config.photos])
    training_paths = _spread(training_paths, config.max_photos or len(training_paths))
    start = read_start(config)  # before the long work, as are the scenes
    weights = resolve_weights(config.detector)
    network = load_detector(weights)[0].to(choose_device(config.device))
    detector = Detector(network, config.tracks.detector)
    cache = Path(config.cache or Path(config.output) / "tracks")
    scenes = generate_scene_tracks(
        cache / "scenes", config.scenes, config.tracks, seed=config.seed, quiet=quiet
    )
    generate_tracks(
        cache,
        training_paths,
        detector,
        config.tracks,
        detector_hash=weights_hash(weights),
        seed=config.seed,
        quiet=quiet,
    )
    tracks = TrackSet(cache, scenes)
    logger.info("%d tracks with %d patches", len(tracks), tracks.num_patches)
    held_out = _make_validation(config, validation_paths, detector)
    identity = {
        "data_hash": images_hash([*training_paths, *validation_paths]),
        "detector_hash": weights_hash(weights),
        "scene_hashes": [folder.name for folder in scenes],
    }
    run = DescriptorRun(config, identity, start)
    described: dict[str, Describe] = {"RootSIFT": by_root_sift}
    described |= {Path(name).stem: by_network(load_hardnet(name)) for name in config.peers}
    for name, describe in described.items():
        run.note_peer(name, {k: evaluate(pairs, describe) for k, pairs in held_out.items()})
    _run_steps(run, tracks, held_out, quiet=quiet)
    return run.export(held_out)


def _run_steps(
    run: DescriptorRun,
    tracks: TrackSet,
    held_out: dict[str, list[ValidationPair]],
    *,
    quiet: bool,
) -> None:
    config, folder = run.config, run.folder.path
    with (
        SignalHandler() as stop,
        tqdm(total=config.steps, initial=run.step, disable=quiet, unit="step") as bar,
        closing(
            TensorBoardLogger(folder / "tensorboard", run.step + 1, wanted=config.tensorboard)
        ) as board,
    ):
        while run.step < config.steps:
            rng = np.random.default_rng([config.seed, run.step])
            rate = run.learning_rate
            values = run.advance(tracks.batch(rng, config.batch))
            board.add_step(run.step, values, rate)
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
            if run.step % config.validate_every == 0 or run.step == config.steps:
                run.record(values, held_out)
                board.add_validation(run.step, _figures(run.quality))
                bar.write(f"step {run.step}: {summarise(run.quality)}", file=sys.stderr)
            if stop.requested:
                run.save()
                logger.info("stopped at step %d of %d, kept in %s", run.step, config.steps, folder)
                raise KeyboardInterrupt


def _figures(qualities: Mapping[str, MatchingQuality]) -> dict[str, float]:
    return {
        f"{kind}/{name}": value
        for kind, quality in qualities.items()
        for name, value in asdict(quality).items()
    }


def _make_validation(
    config: TrainDescriptorConfig, paths: list[Path], detector: Detector
) -> dict[str, list[ValidationPair]]:
    if not paths:
        raise ValueError("no photo falls into the validation tenth; give more photos")
    chosen = _spread(paths, config.validation_photos)
    return {
        kind: make_pairs(
            chosen,
            detector,
            config.tracks,
            upright=kind == "upright",
            max_keypoints=config.validation_keypoints,
            seed=config.seed,
        )
        for kind in ("oriented", "upright")
    }


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most ``count`` of the sorted paths, evenly spread, so that every folder is there."""
    picked = np.linspace(0, len(paths) - 1, min(count, len(paths)))
    return [paths[int(i)] for i in picked]


if __name__ == "__main__":
    sys.exit(main())
