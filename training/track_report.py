"""Say what joining keypoints gives: ``python -m training.track_report FEATURES SOURCE IMAGES``.

FEATURES is a file of this project's features, SOURCE what ``scenes.models`` takes: a COLMAP model,
a folder of matches or a file of pairs. Positives are pairs of keypoints at one place. Of these, the
ones that the features' own matches find already teach little that is new. The errors are by how
much a keypoint differs from where its partner puts it. Prints one JSON object.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.storage.features import FeatureStore
from training.scenes.joined_keypoints import (
    find_all,
    join_found,
    measure_errors,
)
from training.scenes.joined_tracks import read_carrier
from training.tracks import TrackConfig

RATIO = 0.95
"""Of the nearest to the second nearest distance of a match, as the presets have it."""


@dataclass(frozen=True)
class TrackReport:
    """What joining the keypoints of a scene gives."""

    num_photos: int
    num_pairs: int
    """Pairs of photos between which keypoints can be carried."""
    num_keypoints: int
    num_tracks: int
    num_observations: int
    """Keypoints of all tracks."""
    num_seen: int
    """Keypoints that can be carried to another photo, counted for each pair of photos."""
    num_positives: int
    """Those that have a partner there."""
    num_matched: int
    """Those of the positives that nearest descriptors find, mutually and by the ratio test."""
    offset: float
    """Root mean square of the positives' errors along either axis, in units of the scale."""
    log_scale: float
    """The same of the natural logarithm of the ratio of scales."""
    angle_deg: float
    """The same of the angle."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = make_parser("training.track_report", __doc__)
    add = parser.add_argument
    add("features", type=Path, help="this project's features of the photos")
    add("source", type=Path, help="COLMAP model, folder of matches, or file of pairs")
    add("images", type=Path, help="folder of the photos")
    arguments = parser.parse_args(argv)

    def work() -> None:
        report = report_tracks(arguments.features, arguments.source, arguments.images)
        sys.stdout.write(json.dumps(asdict(report)) + "\n")

    return exit_status(work)


def report_tracks(
    features: Path, source: Path, images: Path, config: TrackConfig | None = None
) -> TrackReport:
    """Join the keypoints of a scene and count what that gives.

    Args:
        features: this project's features of the photos.
        source: a COLMAP model, a folder of matches or a file of pairs.
        images: folder of the photos.
        config: how far keypoints of a track may disagree; by default as the descriptor's training.

    Raises:
        FileNotFoundError, ValueError: as reading these.
    """
    carrier = read_carrier(features, source, images)
    found = find_all(carrier, config or TrackConfig())
    joined = join_found(carrier, found, np.random.default_rng(0), placed_share=0.0)
    errors = measure_errors(carrier, found)
    offset, log_scale, angle = errors.spread()
    with FeatureStore(features) as store:
        descriptors = [store.read(name).descriptors for name in carrier.names]
    num_matched = 0
    for (of, to), pair in found.items():
        index = match_nearest(descriptors[of], descriptors[to], ratio=RATIO).index
        partner = torch.from_numpy(pair.partner)
        num_matched += int((partner[index[:, 0]] == index[:, 1]).sum())
    return TrackReport(
        num_photos=len(carrier.names),
        num_pairs=len(found),
        num_keypoints=sum(len(points) for points in carrier.keypoints),
        num_tracks=len(joined),
        num_observations=len(joined.seen.point),
        num_seen=sum(int(pair.is_seen.sum()) for pair in found.values()),
        num_positives=len(errors),
        num_matched=num_matched,
        offset=offset,
        log_scale=log_scale,
        angle_deg=float(np.rad2deg(angle)),
    )


if __name__ == "__main__":
    sys.exit(main())
