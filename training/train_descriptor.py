"""Train the descriptor: ``python -m training.train_descriptor --config YAML images=[FOLDER,...]``.

HardNet with its hardest-in-batch loss on patches at this project's keypoints, cut at their detected
position, scale and angle in images and in warped views of them, and with ``scenes.folders`` and
``scenes.images`` also in the images of reconstructions. Every step is a pure function of the seed
and the step: a run stopped at any step and resumed gives the same weights as one that was not.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from evaluation.image_folders import from_first_to_last, images_hash, list_image_paths
from rekd_hloc.devices import choose_device
from rekd_hloc.features.descriptor.hardnet import load_hardnet, resolve_hardnet
from rekd_hloc.features.detector.detect import Detector
from rekd_hloc.features.weights import load_detector, resolve_weights
from rekd_hloc.weight_files import weights_hash
from training.common.cli import run_cli
from training.common.loop import Validation, load_ahead, run_steps
from training.common.signal_handler import SignalHandler
from training.descriptor_config import TrainDescriptorConfig
from training.descriptor_real_pairs import make_real_pairs
from training.descriptor_run import DescriptorRun
from training.descriptor_start import read_start
from training.descriptor_validation import (
    Describe,
    Qualities,
    ValidationSet,
    by_network,
    by_root_sift,
)
from training.track_batches import PatchPairs, TrackSet
from training.track_cache import generate_scene_tracks, generate_tracks

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_descriptor", __doc__, TrainDescriptorConfig(), train, argv)


def train(config: TrainDescriptorConfig, *, quiet: bool = False) -> Path:
    """Make the tracks that are missing, then train to the end, resuming where there is a run.

    Returns:
        The weights file of the best checkpoint, ``output/hardnet.safetensors``.

    Raises:
        ValueError: too few images, or files of another configuration.
        FileNotFoundError: no such folder or detector.
        FloatingPointError: the loss is not finite; the message names the step.
        KeyboardInterrupt: stopped from outside, after a checkpoint.
    """
    training_paths, validation_paths = list_image_paths(config.images)
    training_paths = from_first_to_last(training_paths, config.max_images)
    start = read_start(config)  # before the long work, as are the scenes
    weights = resolve_weights(config.detector)
    detector_hash = weights_hash(weights)
    network = load_detector(weights)[0].to(choose_device(config.device))
    detector = Detector(network, config.tracks.detector)
    tracks, scene_hashes = _make_tracks(config, training_paths, detector, detector_hash, quiet)
    logger.info("%d tracks with %d patches", len(tracks), tracks.num_patches)
    held_out = ValidationSet.make(
        from_first_to_last(validation_paths, config.validation_images),
        detector,
        config.tracks,
        max_keypoints=config.validation_keypoints,
        seed=config.seed,
    ).with_real(
        make_real_pairs(
            config.validation_scenes,
            detector,
            config.tracks,
            max_keypoints=config.validation_scene_keypoints,
            seed=config.seed,
        )
    )
    hashes = {
        "data_hash": images_hash([*training_paths, *validation_paths]),
        "detector_hash": detector_hash,
        "scene_hashes": scene_hashes,
    }
    if config.teacher:
        hashes["teacher_hash"] = weights_hash(resolve_hardnet(config.teacher))
    run = DescriptorRun(config, hashes, start)
    _evaluate_peers(run, held_out)
    _run_to_end(run, tracks, held_out, quiet=quiet)
    return run.export(held_out)


def _make_tracks(
    config: TrainDescriptorConfig,
    paths: Sequence[Path],
    detector: Detector,
    detector_hash: str,
    quiet: bool,
) -> tuple[TrackSet, list[str]]:
    """Return all tracks, and a hash for each scene."""
    cache = Path(config.cache or Path(config.output) / "tracks")
    scenes = generate_scene_tracks(
        cache / "scenes", config.scenes, config.tracks, seed=config.seed, quiet=quiet
    )
    generate_tracks(
        cache,
        paths,
        detector,
        config.tracks,
        detector_hash=detector_hash,
        seed=config.seed,
        quiet=quiet,
    )
    tracks = TrackSet(cache, scenes, supports=config.tracks.supports)
    return tracks, [folder.name for folder in scenes]


def _evaluate_peers(run: DescriptorRun, held_out: ValidationSet) -> None:
    descriptors: dict[str, Describe] = {"RootSIFT": by_root_sift}
    descriptors |= {Path(name).stem: by_network(load_hardnet(name)) for name in run.config.peers}
    for name, describe in descriptors.items():
        run.peers[name] = held_out.evaluate(describe)
        logger.info("%s: %s", name, summarise(run.peers[name]))


def _run_to_end(
    run: DescriptorRun, tracks: TrackSet, held_out: ValidationSet, *, quiet: bool
) -> None:
    config = run.config

    def draw(step: int) -> PatchPairs:
        return tracks.batch(np.random.default_rng([config.seed, step]), config.batch)

    def validate_run() -> Validation:
        run.record(held_out.evaluate_network(run.validated_network))
        metrics = {kind: asdict(quality) for kind, quality in run.quality.items()}
        return Validation(metrics, summarise(run.quality))

    batches = load_ahead(draw, run.step, config.steps, num_threads=0)
    with SignalHandler() as stop:
        run_steps(run, batches, validate_run, stop, quiet=quiet)


def summarise(qualities: Qualities) -> str:
    """Return one line of metrics."""
    return "; ".join(
        f"{kind} precision {q.precision:.3f} recall {q.recall:.3f} AP {q.average_precision:.3f} "
        f"FPR95 {q.fpr95:.4f}"
        for kind, q in qualities.items()
    )


if __name__ == "__main__":
    sys.exit(main())
