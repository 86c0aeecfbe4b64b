"""Tables, curves and records of stereo runs, for ``evaluation.imc`` and ``evaluation.pose``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.metrics.auc import area_under_curve
from evaluation.metrics.pose import AUC_THRESHOLDS_DEG, NUM_BINS, accuracy
from evaluation.relative_pose.estimation import PairResult
from evaluation.relative_pose.matching import match_label
from evaluation.relative_pose.refinement_report import describe_levels, refinement_table
from evaluation.relative_pose.stereo import ExtractorRun, SceneRun, maa_of
from evaluation.reporting.curves import Plot
from evaluation.reporting.report import Cell, Table

COLUMNS = (
    "method", "matches by", "threshold px", "keypoints", "matches", "inliers", "mAA(10)", "seeds",
    *(f"AUC@{threshold:.0f}" for threshold in AUC_THRESHOLDS_DEG), "failed %", "s/pair",
)  # fmt: skip
CSV_COLUMNS = (
    "scene", "method", "seed", "image_a", "image_b", "reported", "rotation_error_deg",
    "direction_error_deg", "num_matches", "num_inliers", "seconds",
)  # fmt: skip


def summarise(results: Sequence[PairResult]) -> dict[str, Any]:
    """Return the metrics of one seed, shares in 0..1; see :mod:`evaluation.metrics.pose`."""
    errors = [result.error_deg for result in results]
    return {
        "num_pairs": len(results),
        "maa10": maa_of(results),
        "accuracy": accuracy(errors).tolist(),
        "auc": {f"{t:.0f}": area_under_curve(errors, t) for t in AUC_THRESHOLDS_DEG},
        "median_error_deg": float(np.median(errors)) if errors else None,
        "failed": float(np.mean(~np.isfinite(errors))) if errors else None,
        "num_matches": float(np.mean([r.num_matches for r in results])),
        "num_inliers": float(np.mean([r.num_inliers for r in results])),
        "seconds_per_pair": float(np.mean([r.seconds for r in results])),
    }


def summarise_scene(run: SceneRun) -> dict[str, Any]:
    """Return the metrics of a scene: by seed, their mean, and the mAA of every setting tried."""
    by_seed = {seed: summarise(run.reported_results(seed)) for seed in run.by_seed}
    maa = [metrics["maa10"] for metrics in by_seed.values()]
    first = next(iter(by_seed.values()))
    mean: dict[str, Any] = {
        key: float(np.mean([metrics[key] for metrics in by_seed.values()]))
        for key, value in first.items()
        if isinstance(value, float)
    }
    mean["auc"] = {
        key: float(np.mean([metrics["auc"][key] for metrics in by_seed.values()]))
        for key in first["auc"]
    }
    mean["accuracy"] = np.mean([f["accuracy"] for f in by_seed.values()], axis=0).tolist()
    sweep = [
        {**asdict(setting.match), **asdict(setting.ransac), "maa10_all_pairs": maa_of(results),
         "num_matches": float(np.mean([r.num_matches for r in results]))}
        for setting, results in run.sweep.items()
    ]  # fmt: skip
    described: dict[str, Any] = {}
    if run.levels:
        described["refined_by_level"] = describe_levels(run.levels)
    return {
        **described,
        "scene": run.key,
        "keypoints_per_image": run.keypoints_per_image,
        "num_pairs": first["num_pairs"],
        "mean": mean,
        "maa10_spread": [min(maa), max(maa)],
        "by_seed": by_seed,
        "sweep": sweep,
        "timing": {
            "images_extracted": run.features.num_extracted,
            "extraction_seconds": run.features.seconds,
            "pairs_matched": sum(m.num_matched for m in run.matched.values()),
            "matching_seconds": sum(m.seconds for m in run.matched.values()),
        },
    }


def describe_run(run: ExtractorRun) -> dict[str, Any]:
    """Return an extractor's entry in results.json."""
    return {
        **run.method.describe(),
        "setting": {**asdict(run.chosen.match), **asdict(run.chosen.ransac)},
        "scenes": [summarise_scene(scene) for scene in run.scenes],
    }


def make_tables(runs: Sequence[ExtractorRun]) -> list[Table]:
    """Make a table for each scene, and one of the means of several; mAA and AUC are in 0..1."""
    entries = [(run, [summarise_scene(scene) for scene in run.scenes]) for run in runs]
    tables = []
    for number, scene in enumerate(runs[0].scenes):
        rows = [_row(run, [scenes[number]]) for run, scenes in entries]
        pairs = entries[0][1][number]["num_pairs"]
        tables.append(Table(f"Stereo, {scene.key}, pairs: {pairs}", COLUMNS, rows))
        levels = {r.label: r.scenes[number].levels for r in runs if r.scenes[number].levels}
        if levels:
            tables.append(refinement_table(f"Refined matches, {scene.key}", levels))
    if len(runs[0].scenes) > 1:
        rows = [_row(run, scenes) for run, scenes in entries]
        title = f"Stereo, mean over {len(runs[0].scenes)} scenes"
        tables.append(Table(title, COLUMNS, rows))
    return tables


def make_plots(runs: Sequence[ExtractorRun]) -> list[Plot]:
    """Plot accuracy over 1..10 degrees, and mAA(10) over thresholds where several were tried."""
    plots = []
    for number, scene in enumerate(runs[0].scenes):
        name = scene.key.replace("/", "-")
        curves = {
            run.label: summarise_scene(run.scenes[number])["mean"]["accuracy"] for run in runs
        }
        plots.append(accuracy_plot(f"accuracy-{name}", f"stereo, {scene.key}", curves))
        if plot := _threshold_plot(runs, number, name):
            plots.append(plot)
    return plots


def accuracy_plot(name: str, title: str, accuracies: Mapping[str, Sequence[float]]) -> Plot:
    """Plot the share of pairs within 1..10 degrees, 0..1, of each method."""
    x = [float(degree) for degree in range(1, NUM_BINS + 1)]
    curves = {method: _percent(shares) for method, shares in accuracies.items()}
    axes = "pose error, degrees", "pairs below, %"
    return Plot(name.replace("/", "-"), title, *axes, x, curves)


def make_pair_rows(runs: Sequence[ExtractorRun]) -> list[list[Cell]]:
    """Make rows of the CSV of all pairs with the chosen settings; see ``CSV_COLUMNS``."""
    rows: list[list[Cell]] = []
    for run in runs:
        for scene in run.scenes:
            for seed, results in scene.by_seed.items():
                for result, is_reported in zip(results, scene.reported, strict=True):
                    rows.append([
                        scene.key, run.label, seed, result.a, result.b, int(is_reported),
                        result.rotation_error_deg, result.direction_error_deg,
                        result.num_matches, result.num_inliers, result.seconds,
                    ])  # fmt: skip
    return rows


def _threshold_plot(runs: Sequence[ExtractorRun], number: int, name: str) -> Plot | None:
    """Over thresholds, for the chosen way of matching; all pairs, first seed."""
    curves, x = {}, []
    for run in runs:
        scene = run.scenes[number]
        swept = {
            setting.ransac.threshold_px: maa_of(results)
            for setting, results in scene.sweep.items()
            if setting.match == run.chosen.match
        }
        x = sorted(swept)
        curves[run.label] = _percent([swept[threshold] for threshold in x])
    if len(x) < 2:
        return None
    estimator = runs[0].chosen.ransac.estimator
    return Plot(f"threshold-{name}", f"stereo, {runs[0].scenes[number].key}, all pairs",
                f"threshold of {estimator}, px", "mAA(10), %", x, curves)  # fmt: skip


def _row(run: ExtractorRun, scenes: Sequence[dict[str, Any]]) -> list[Cell]:
    means = [scene["mean"] for scene in scenes]
    by_seed = np.mean(
        [[metrics["maa10"] for metrics in scene["by_seed"].values()] for scene in scenes], axis=0
    )

    def mean(key: str) -> float:
        return float(np.mean([m[key] for m in means]))

    return [
        run.label,
        match_label(run.chosen.match),
        f"{run.chosen.ransac.threshold_px:g}",
        float(np.mean([scene["keypoints_per_image"] for scene in scenes])),
        mean("num_matches"),
        mean("num_inliers"),
        f"{by_seed.mean():.4f}",
        f"{by_seed.min():.4f}..{by_seed.max():.4f}",
        *(f"{np.mean([m['auc'][f'{t:.0f}'] for m in means]):.4f}" for t in AUC_THRESHOLDS_DEG),
        100 * mean("failed"),
        f"{mean('seconds_per_pair'):.3f}",
    ]


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]
