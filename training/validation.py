"""How good a detector is on held-out photos: repeatability and orientation accuracy.

Pairs come from the same generator as in training, from photos that no step has seen, always the
same ones for one seed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.features.detector.keypoints import find_local_maxima, refine_positions
from rekd_hloc.features.detector.network import Rekd
from rekd_hloc.features.detector.orientation import angle_from_bin, find_peak, read_logits
from rekd_hloc.geometry import angle_difference, warp_points
from training.pairs import ImageSet, PairBatch

NUM_POINTS = 60
NMS_WINDOW_PX = 9
BORDER_PX = 16
ORIENTATION_TOLERANCE_DEG = 15.0


@dataclass(frozen=True)
class ValidationResult:
    """Shares in [0, 1] over all pairs, and the median angle error in degrees."""

    repeatability_3px: float
    """Visible points of a with a point of b within 3 px of their warp."""
    repeatability_1px5: float
    """The same within 1.5 px."""
    orientation_accuracy: float
    """Points found again within 1.5 px whose angle is right within 15 degrees."""
    orientation_median_deg: float
    """Median angle error of the points found again within 1.5 px."""

    @property
    def quality(self) -> float:
        """What the best checkpoint is chosen by: points found again with the right angle."""
        return self.repeatability_1px5 * self.orientation_accuracy


@dataclass(frozen=True)
class FoundAgain:
    """Points of a that b can see, as detected in a, and what b has nearest to their warp."""

    xy_a: Float[Tensor, "point 2"]
    xy_b: Float[Tensor, "other 2"]
    nearest: Int64[Tensor, " point"]
    """Row of ``xy_b``; there is none if ``xy_b`` is empty."""
    distance_px: Float[Tensor, " point"]
    """Infinite if ``xy_b`` is empty."""
    angle_error_deg: Float[Tensor, " point"]
    """Error of the nearest point's angle, 0..180."""


@torch.no_grad()
def validate(network: Rekd, photos: ImageSet, *, num_pairs: int, seed: int) -> ValidationResult:
    """Run the network on ``num_pairs`` pairs of held-out photos."""
    was_training = network.training
    network.eval()  # once for all pairs: e2cnn expands its filters at every change of mode
    counts = torch.zeros(3)
    errors: list[Tensor] = []
    for index in range(num_pairs):
        found = find_again(network, photos.batch(seed, index, 1))
        close = found.distance_px <= 1.5
        counts += torch.tensor([len(close), (found.distance_px <= 3).sum(), close.sum()])
        errors.append(found.angle_error_deg[close])
    network.train(was_training)
    error = torch.cat(errors)
    total = max(float(counts[0]), 1.0)
    return ValidationResult(
        repeatability_3px=float(counts[1]) / total,
        repeatability_1px5=float(counts[2]) / total,
        orientation_accuracy=float((error < ORIENTATION_TOLERANCE_DEG).float().mean())
        if len(error)
        else 0.0,
        orientation_median_deg=float(error.median()) if len(error) else 180.0,
    )


@torch.no_grad()
def find_again(network: Rekd, pair: PairBatch) -> FoundAgain:
    """Detect in both crops of one pair and look for the points of a in b."""
    was_training = network.training
    network.eval()
    xy_a, angle_a = _detect(network, pair.image_a)
    xy_b, angle_b = _detect(network, pair.image_b)
    network.train(was_training)
    warped = warp_points(pair.b_from_a[0], xy_a)
    side = pair.image_b.shape[-1]
    visible = ((warped >= BORDER_PX) & (warped <= side - 1 - BORDER_PX)).all(dim=1)
    xy_a, warped, turned = xy_a[visible], warped[visible], angle_a[visible] + pair.angle[0]
    if len(xy_b) == 0:
        nowhere = torch.full((len(xy_a),), torch.inf)
        return FoundAgain(xy_a, xy_b, torch.zeros(len(xy_a), dtype=torch.int64), nowhere, nowhere)
    distance, nearest = torch.cdist(warped, xy_b).min(dim=1)
    error = angle_difference(angle_b[nearest], turned).abs().rad2deg()
    return FoundAgain(xy_a, xy_b, nearest, distance, error)


def _detect(
    network: Rekd, image: Float[Tensor, "1 1 side side"]
) -> tuple[Float[Tensor, "keypoint 2"], Float[Tensor, " keypoint"]]:
    score, levels = network.level_maps(image.to(next(network.parameters()).device))
    score, levels = score.cpu(), [level.cpu() for level in levels]
    peaks = find_local_maxima(score[0, 0], window_px=NMS_WINDOW_PX, border_px=BORDER_PX)
    xy, _ = refine_positions(score[0, 0], peaks[:NUM_POINTS])
    logits = read_logits(levels, xy, (image.shape[-1], image.shape[-2]))
    return xy, angle_from_bin(find_peak(logits), logits.shape[1])
