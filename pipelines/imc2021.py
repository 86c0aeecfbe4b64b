"""Recipe: a scene's raw images in, the table of IMC2021's stereo task out.

``python -m pipelines.imc2021 DATA OUT --scene reichstag --method rekd rootsift-upright``. Copy it
and change what you need; ``run`` reads from top to bottom. ``python -m evaluation.imc`` does the
same with more options, several processes and nothing done twice.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import evaluation.oriented_ransac.oriented_estimators  # noqa: F401  (registers its estimators)
from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.registry import load_extractor
from evaluation.imc.dataset import list_scenes
from evaluation.metrics.auc import area_under_curve
from evaluation.metrics.pose import (
    mean_average_accuracy,
    pose_error_deg,
    relative_pose,
)
from evaluation.relative_pose.correspondences import correspondences_of
from evaluation.relative_pose.estimators import ESTIMATORS, RansacOptions, estimate_pose
from evaluation.reporting.report import Cell, Table, format_markdown
from rekd_hloc.config import MatchConfig
from rekd_hloc.matching.match import match
from rekd_hloc.ownership import TEXT, refuse_foreign, replace_text

COLUMNS = ("method", "keypoints", "matches", "inliers", "mAA(10)", "AUC@5", "AUC@10", "AUC@20")


def run(
    data: Path,
    *,
    scene: str,
    methods: Sequence[str],
    num_keypoints: int = 2048,
    ratio: float = 0.9,
    estimator: str = "degensac",
    threshold_px: float = 0.5,
    num_pairs: int | None = None,
    weights: Path | None = None,
) -> Table:
    """Evaluate methods on one scene.

    Args:
        data: root of the official layout.
        scene: its name.
        methods: names that :func:`evaluation.extractors.registry.load_extractor` knows.
        num_keypoints: most keypoints of an image; the benchmark's classes are 2048 and 8000.
        ratio: of the ratio test from both images; 1 for none.
        estimator: of the relative pose, one of ``ESTIMATORS``.
        threshold_px: largest distance of an inlier from its epipolar line.
        num_pairs: the first pairs only.
        weights: folder of the peers' weights.

    Returns:
        One row for each method.
    """
    # The scene: images, cameras (x = R X + T), and the pairs that see enough of the same.
    (layout,) = list_scenes(data, [scene])
    pairs = layout.pairs(0.1)[:num_pairs]
    names = sorted({name for pair in pairs for name in pair})
    options = RansacOptions(estimator, threshold_px)

    rows: list[list[Cell]] = []
    for name in methods:
        # Features of every image, once.
        extract = load_extractor(name, num_keypoints, weights=weights)
        features = {n: extract(layout.images[n]) for n in tqdm(names, name, unit="image")}

        errors, num_matches, num_inliers = [], [], []
        for a, b in tqdm(pairs, name, unit="pair"):
            # Mutual nearest neighbours that pass the ratio test from both sides. Without a filter
            # on angles, for fairness; for your own images take MatchConfig().
            config = MatchConfig(ratio=ratio, filter="none")
            matches = match(features[a], features[b], config)
            matched = correspondences_of(features[a], features[b], matches)
            vectors = matched.orientation_a, matched.orientation_b

            # The fundamental matrix, the inliers, the pose by cheirality.
            camera_a, camera_b = layout.calibration[a], layout.calibration[b]
            estimated = estimate_pose(
                matched.xy_a, matched.xy_b, camera_a.K, camera_b.K, options, seed=0,
                orientations=vectors if extract.has_orientation else None,
            )  # fmt: skip

            # The larger of the angles between the rotations and between the directions.
            true = relative_pose(camera_a.R, camera_a.T, camera_b.R, camera_b.T)
            errors.append(pose_error_deg(estimated.pose, true))
            num_matches.append(len(matched))
            num_inliers.append(int(estimated.inliers.sum()))

        # Accuracy at 1, 2, ... 10 degrees, and its mean; areas under the recall curve.
        scores = [
            mean_average_accuracy(errors),
            *(area_under_curve(errors, degrees) for degrees in (5, 10, 20)),
        ]
        counts = [len(entry) for entry in features.values()]
        means = [float(np.mean(values)) for values in (counts, num_matches, num_inliers)]
        rows.append([name, *means, *(f"{score:.4f}" for score in scores)])
    return Table(f"{layout.key}: {len(names)} images, {len(pairs)} pairs", COLUMNS, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 2 for a mistake that the log names."""
    parser = make_parser("pipelines.imc2021", __doc__)
    parser.add_argument("data", type=Path, help="root of the official layout")
    parser.add_argument("out", type=Path, help="Markdown file to write")
    parser.add_argument("--scene", required=True)
    parser.add_argument("--method", dest="methods", nargs="+", default=["rekd"])
    parser.add_argument("--num-keypoints", type=int, default=2048)
    parser.add_argument("--ratio", type=float, default=0.9, help="1 for none")
    parser.add_argument("--estimator", choices=list(ESTIMATORS), default="degensac")
    parser.add_argument("--threshold-px", type=float, default=0.5)
    parser.add_argument("--num-pairs", type=int, help="the first ones only")
    parser.add_argument("--weights", type=Path, help="folder of the peers' weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    options = vars(parser.parse_args(argv))
    out: Path = options.pop("out")
    overwrite: bool = options.pop("overwrite")

    def work() -> None:
        refuse_foreign(out, TEXT, overwrite=overwrite)
        text = format_markdown(run(options.pop("data"), **options))
        replace_text(out, text, overwrite=overwrite)
        sys.stdout.write(text)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
