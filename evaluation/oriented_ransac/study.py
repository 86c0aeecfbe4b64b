"""Oriented minimal samples against points at equal time, on synthetic scenes and on real images.

    python -m evaluation.oriented_ransac.study --out OUT [--data IMC] [--scene NAME ...]

Synthetic: the share of scenes whose model is found within budgets of CPU time, at several
shares of right matches. Real images: mAA(10) of the pose within the same budgets, over the pairs of
all scenes, and with the usual stopping rule; what a sampling gains over points within the least
budget has the interval of a paired bootstrap. Writes results.json, table.md and report.html;
an interrupted run goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.extraction import extract_images
from evaluation.extractors.registry import load_extractor
from evaluation.imc.dataset import Scene, list_scenes
from evaluation.metrics.pose import mean_average_accuracy, paired_difference, relative_pose
from evaluation.oriented_ransac.planes import load_plane_pairs, study_planes
from evaluation.oriented_ransac.samplers import SAMPLERS
from evaluation.oriented_ransac.trials import (
    Metrics,
    PosedPair,
    TrialLog,
    adaptive_trial,
    feature_metrics,
    pose_trial,
    synthetic_trial,
)
from evaluation.relative_pose.correspondences import correspondences_of
from evaluation.reporting.report import Cell, Table, today, write_report
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.storage.features import FeatureStore

EXTRACTORS = ("rekd-fast", "rootsift")
NUM_PLANE_SEEDS = 5
SHARES = (0.1, 0.3, 0.5)
POSE_KINDS = ("fundamental", "essential")


@dataclass(frozen=True)
class StudyOptions:
    """How much is measured."""

    budgets: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Seconds of CPU time, ascending."""
    num_scenes: int = 12
    """Synthetic scenes of each kind and share."""
    max_pairs: int = 40
    """Pairs of images of each scene."""
    num_keypoints: int = 2048
    """Of each image."""
    ratios: tuple[float, ...] = (1.0, 0.9)
    """Ratio tests of the matches, both ways; 1 is none, which leaves more wrong matches."""
    threshold_px: float = 1.0
    """Of inliers on real images."""
    seed: int = 0
    """Of the choice of pairs and of all samples."""

    def __post_init__(self) -> None:
        if not self.budgets or list(self.budgets) != sorted(self.budgets) or self.budgets[0] <= 0:
            raise ValueError(f"budgets must be positive and ascending, got {self.budgets}")
        for name in ("num_scenes", "max_pairs", "num_keypoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def study_synthetic(log: TrialLog, options: StudyOptions) -> list[Table]:
    """Share of scenes whose model is found, in per cent, by kind, share of inliers and budget."""
    tables = []
    for kind, samplers in SAMPLERS.items():
        rows: list[list[Cell]] = []
        for sampling in tqdm(samplers, f"synthetic {kind}", unit="sampling", disable=None):
            cells: list[Cell] = []
            costs = []
            for share in SHARES:
                trials = [
                    _synthetic(log, kind, sampling, share, options.seed + i, options)
                    for i in range(options.num_scenes)
                ]
                found = np.mean([trial["found"] for trial in trials], axis=0)
                cells += [100 * float(value) for value in found]
                costs.append(_microseconds(trials))
            rows.append([sampling, samplers[sampling].size, float(np.mean(costs)), *cells])
        heads = [f"{100 * s:.0f} %, {b:g} s" for s in SHARES for b in options.budgets]
        title = f"synthetic {kind}: models found, % of {options.num_scenes} scenes"
        tables.append(Table(title, ["sampling", "sample", "us a sample", *heads], rows))
    return tables


def study_images(
    log: TrialLog, scenes: Mapping[str, Sequence[PosedPair]], label: str, options: StudyOptions
) -> list[Table]:
    """mAA(10) in per cent at equal time and by the usual rule, and what the matches are like.

    Args:
        log: of finished trials.
        scenes: pairs of each scene; the metrics are over all of them.
        label: of the matches.
        options: how much is measured.
    """
    threshold = options.threshold_px
    pairs = [
        (f"{name}, {label}", pair, options.seed + i)
        for name, members in scenes.items()
        for i, pair in enumerate(members)
    ]
    facts = [
        log.get(f"facts|{key}|{pair.key}", lambda p=pair: feature_metrics(p, threshold))  # type: ignore[misc]
        for key, pair, _ in pairs
    ]
    title = f"{' + '.join(scenes)}, {label}"
    tables = [_facts_table(facts, title, threshold)]
    tables.append(_pose_table(log, pairs, title, options))
    return tables


def _pose_table(
    log: TrialLog, pairs: Sequence[tuple[str, PosedPair, int]], title: str, options: StudyOptions
) -> Table:
    """Rows of all samplings; a pair comes with the start of its trials' keys, and its seed."""
    rows: list[list[Cell]] = []
    for kind in POSE_KINDS:
        of_points: Sequence[float] = ()
        for sampling in tqdm(SAMPLERS[kind], f"{title} {kind}", unit="sampling", disable=None):
            timed, usual = [], []
            for key, pair, seed in pairs:
                given, trial = (pair, kind, sampling, seed), f"{key}|{kind}|{sampling}|{pair.key}"
                timed.append(_timed(log, f"timed|{trial}", given, options))
                usual.append(_usual(log, f"usual|{trial}", given, options))
            columns = list(zip(*(trial["errors_deg"] for trial in timed), strict=True))
            maa = [100 * mean_average_accuracy(errors) for errors in columns]
            maa_usual = 100 * mean_average_accuracy([t["error_deg"] for t in usual])
            seconds = float(np.mean([trial["seconds"] for trial in usual]))
            gain = _gain(columns[0], of_points) if of_points else None
            of_points = of_points or columns[0]
            row: list[Cell] = [f"{kind} {sampling}", SAMPLERS[kind][sampling].size]
            rows.append([*row, _microseconds(timed), *maa, gain, maa_usual, 1000 * seconds])
    heads = [f"mAA(10), {budget:g} s" for budget in options.budgets]
    gain_head = f"over points, {options.budgets[0]:g} s (95 %)"
    first_heads = ["sampling", "sample", "us a sample", *heads, gain_head]
    title = f"{title}: mAA(10) in % of {len(pairs)} pairs"
    return Table(title, [*first_heads, "mAA(10), usual stop", "ms"], rows)


def load_pairs(
    scene: Scene, method_name: str, ratio: float, cache: Path, options: StudyOptions
) -> list[PosedPair]:
    """Matched pairs of a scene with true poses, at most as many as the options say.

    Raises:
        ValueError: the method or an image is wrong.
        FileNotFoundError: the method lacks its weights.
    """
    method = load_extractor(method_name, options.num_keypoints)
    store = FeatureStore(extract_images(scene.images, method, cache, label=scene.name).path)
    everything = scene.pairs()
    chosen = np.random.default_rng(options.seed).permutation(len(everything))[: options.max_pairs]
    pairs = []
    for index in sorted(chosen.tolist()):
        name_a, name_b = everything[index]
        a, b = store.read(name_a), store.read(name_b)
        matches = match_nearest(a.descriptors, b.descriptors, ratio=ratio)
        camera_a, camera_b = scene.calibration[name_a], scene.calibration[name_b]
        pose = relative_pose(camera_a.R, camera_a.T, camera_b.R, camera_b.T)
        c = correspondences_of(a, b, matches)
        pairs.append(PosedPair(f"{name_a}-{name_b}", c, camera_a.K, camera_b.K, pose))
    return pairs


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser("evaluation.oriented_ransac.study", __doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    add("--data", type=Path, metavar="DIR", help="IMC data; without, synthetic scenes only")
    add("--homographies", type=Path, metavar="DIR", help="HPatches or Oxford sequences as well")
    add("--scene", nargs="+", default=["sacre_coeur"], help="default sacre_coeur")
    add("--method", action="append", default=[], help="default rekd-fast and rootsift")
    add("--budgets", type=float, nargs="+", default=StudyOptions.budgets, metavar="SECONDS")
    add("--num-scenes", type=int, default=StudyOptions.num_scenes, metavar="N")
    add("--max-pairs", type=int, default=StudyOptions.max_pairs, metavar="N", help="of each scene")
    add("--num-keypoints", type=int, default=StudyOptions.num_keypoints, metavar="N")
    add("--ratios", type=float, nargs="+", default=StudyOptions.ratios, metavar="R")
    add("--threshold-px", type=float, default=StudyOptions.threshold_px, metavar="PX")
    add("--seed", type=int, default=0)
    add("--skip-synthetic", action="store_true", help="real images only")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: _study(arguments))


def _study(arguments: argparse.Namespace) -> None:
    options = StudyOptions(
        tuple(arguments.budgets), arguments.num_scenes, arguments.max_pairs,
        arguments.num_keypoints, tuple(arguments.ratios), arguments.threshold_px, arguments.seed,
    )  # fmt: skip
    sys.stdout.write(_run(arguments, options))


def _run(arguments: argparse.Namespace, options: StudyOptions) -> str:
    budgets = "-".join(f"{b:g}" for b in options.budgets)
    stem = f"trials-{budgets}-{options.threshold_px:g}px-{options.num_keypoints}-{options.seed}"
    log = TrialLog(arguments.out / f"{stem}.jsonl")
    tables = [] if arguments.skip_synthetic else study_synthetic(log, options)
    methods: dict[str, Any] = {}
    scenes = [] if arguments.data is None else list_scenes(arguments.data, arguments.scene)
    scene_names = [scene.key for scene in scenes]
    scene_names += [] if arguments.homographies is None else [arguments.homographies.name]
    data = [*([] if arguments.skip_synthetic else ["synthetic scenes"]), *scene_names]
    if not data:
        raise ValueError(
            "nothing to measure: give --data or --homographies, or no --skip-synthetic"
        )
    for name in (arguments.method or EXTRACTORS) if scene_names else ():
        method = load_extractor(name, options.num_keypoints)
        methods[name] = method.describe()
        for ratio in options.ratios:
            label = f"{name}, ratio {ratio:g}"
            cache = arguments.out / "features"
            pairs = {s.name: load_pairs(s, name, ratio, cache, options) for s in scenes}
            tables += study_images(log, pairs, label, options) if pairs else []
            if arguments.homographies is not None:
                planes = load_plane_pairs(
                    arguments.homographies, name, ratio, options.num_keypoints, cache
                )
                seeds = range(options.seed, options.seed + NUM_PLANE_SEEDS)
                tables.append(study_planes(log, planes, label, seeds, options.budgets))
    record = {
        "program": "oriented_study",
        "protocol": "oriented",
        "description": "RANSAC that differs in its minimal samples only, at equal CPU time",
        "data": ", ".join(data),
        "date": today(),
        "threshold_px": options.threshold_px,
        "methods": methods,
    }
    return write_report(arguments.out, record, tables, [])


def _synthetic(
    log: TrialLog, kind: str, sampling: str, share: float, seed: int, options: StudyOptions
) -> Metrics:
    key = f"synthetic|{kind}|{sampling}|{share:g}|{seed}"
    return log.get(key, lambda: synthetic_trial(kind, sampling, share, seed, options.budgets))


def _timed(
    log: TrialLog, key: str, given: tuple[PosedPair, str, str, int], options: StudyOptions
) -> Metrics:
    return log.get(key, lambda: pose_trial(*given, options.budgets, options.threshold_px))


def _usual(
    log: TrialLog, key: str, given: tuple[PosedPair, str, str, int], options: StudyOptions
) -> Metrics:
    limit = options.budgets[-1]
    return log.get(key, lambda: adaptive_trial(*given, limit, options.threshold_px))


def _facts_table(facts: Sequence[Metrics], label: str, threshold_px: float) -> Table:
    """Means over the pairs that have the metric."""
    keys = ("right", "signs_of_right", "signs_of_wrong", "residual_median")
    means = [float(np.nanmean(np.array([f[key] for f in facts], dtype=np.float64))) for key in keys]
    row: list[Cell] = [float(np.mean([f["num_matches"] for f in facts]))]
    row += [100 * value for value in means[:3]]
    row.append(f"{means[3]:.3f}")
    heads = ["matches", "right, %", "right signs of right, %", "of wrong, %", "residual of right"]
    return Table(f"{label}: matches under the true pose at {threshold_px:g} px", heads, [row])


def _microseconds(trials: Sequence[Metrics]) -> float:
    """CPU time of a sample with all that the loop does."""
    seconds = sum(float(trial["seconds"]) for trial in trials)
    return 1e6 * seconds / max(sum(int(trial["num_samples"]) for trial in trials), 1)


def _gain(errors: Sequence[float], of_points: Sequence[float]) -> str:
    gain, low, high = (100 * value for value in paired_difference(errors, of_points))
    return f"{gain:+.1f} ({low:.1f}..{high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
