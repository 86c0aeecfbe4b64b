"""Images, keypoints and tracks for the tests of the descriptor's training, without any weights."""

import math

import cv2
import numpy as np
import torch

from rekd_hloc.types import Keypoints
from tests.helpers import textured_image
from training.descriptor_config import TrainDescriptorConfig
from training.descriptor_run import DescriptorRun
from training.descriptor_start import read_start
from training.descriptor_validation import ValidationSet
from training.track_batches import BatchPlan, TrackSet
from training.track_cache import generate_tracks
from training.tracks import TrackConfig
from training.warps import WarpConfig

GENTLE = WarpConfig(scale_range=(0.9, 1.1), blur_px=0, noise=2, jpeg_quality=90, perspective=0.02)
TRACKS = TrackConfig(warps=GENTLE, num_views=2, min_tracks=4, max_tracks=60)


class CornerDetector:
    """Stands for the trained detector: OpenCV's SIFT points, so that no weights are needed."""

    def detect(self, image):
        """The 150 strongest keypoints."""
        grey = (image.numpy() * 255).round().astype(np.uint8)
        points = sorted(cv2.SIFT.create().detect(grey, None), key=lambda p: -p.response)[:150]
        if not points:
            return Keypoints.empty()
        rows = torch.tensor([(*p.pt, p.size / 8, math.radians(p.angle), 1.0) for p in points])
        return Keypoints(rows[:, :2], rows[:, 2], rows[:, 3], rows[:, 4])


def rgb_image(seed=0, height=240, width=320):
    """A textured image in grey, with three channels."""
    return np.repeat(textured_image(height, width, seed)[..., None], 3, axis=2)


def write_images(folder, count, size=(240, 320)):
    """Write ``p0.png`` and on; of 12 or more, the rule on their names holds some out."""
    for seed in range(count):
        assert cv2.imwrite(str(folder / f"p{seed}.png"), rgb_image(seed, *size))
    return folder


def write_tracks(path, folder, config=TRACKS):
    """Generate the tracks of a folder's images at the keypoints of :class:`CornerDetector`."""
    generate_tracks(
        path,
        sorted(folder.glob("*.png")),
        CornerDetector(),
        config,
        detector_hash="corner",
        seed=0,
        quiet=True,
    )
    return path


def run_config(folder, cache, output, **changes):
    """Options of six quick steps on the tracks of :func:`write_tracks`."""
    plan = BatchPlan(batch_size=16, images=3)
    values = {
        "images": (str(folder),),
        "output": str(output),
        "batch": plan,
        "steps": 6,
        "warmup_steps": 1,
        "learning_rate": 5e-3,
        "dropout": 0.1,
        "validate_every": 3,
        "tracks": TRACKS,
        **changes,
    }
    return TrainDescriptorConfig(cache=str(cache), **values)


def run_steps(config, cache, count, pairs):
    """Take some steps of a run, new or resumed; returns the run and the losses."""
    run, losses = DescriptorRun(config, {"data_hash": "x"}, read_start(config)), []
    tracks = TrackSet(cache, supports=config.tracks.supports)
    for _ in range(count):
        rng = np.random.default_rng([config.seed, run.step])
        values = run.advance(tracks.batch(rng, config.batch))
        losses.append(values["loss"])
        if run.step % config.validate_every == 0:
            run.record(ValidationSet({"oriented": pairs}).evaluate_network(run.validated_network))
    return run, losses
