"""Metrics of the multiview task by bag size, and the record, tables and curves made of them.

For each bag size: mAA(10) is the mean over bags of the accuracy at 1..10 degrees over all pairs of
a bag; over sizes it is their plain mean, as in the official benchmark.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.extractors.registry import NamedExtractor
from evaluation.imc.bag import BagResult
from evaluation.imc.bags import BagSet
from evaluation.metrics.pose import accuracy
from evaluation.relative_pose.matching import describe_ratios, match_label
from evaluation.relative_pose.report import accuracy_plot
from evaluation.relative_pose.stereo import StereoPlan
from evaluation.reporting.curves import Plot
from evaluation.reporting.report import Cell, Table, today, write_report
from rekd_hloc.config import MatchConfig

PROTOCOL = "imc2021-multiview"
COLUMNS = (
    "method", "matches by", "bag size", "bags", "mAA(5)", "mAA(10)", "seeds",
    "with a model %", "registered %", "points", "track length", "median ATE %", "seconds a bag",
)  # fmt: skip


@dataclass(frozen=True)
class SizeSummary:
    """Metrics of the bags of one size; means unless said otherwise.

    Attributes:
        size: images of a bag; None for the mean over all sizes.
        num_bags: how many bags.
        curve: accuracy at 1..10 degrees.
        success: share of the bags that gave a model.
        registered: share of the images that are in the largest model, over all bags.
        num_points: scene points, over bags with a model.
        track_length: images that see a point, over bags with a model.
        ate_rel: see :class:`evaluation.imc.bag.BagResult`; median over the bags that could be
            aligned, because the error of one camera gone astray has no bound.
        seconds: of a bag.
    """

    size: int | None
    num_bags: int
    curve: tuple[float, ...]
    success: float
    registered: float
    num_points: float
    track_length: float
    ate_rel: float
    seconds: float

    @property
    def maa5(self) -> float:
        """Return mean accuracy at 1..5 degrees."""
        return float(np.mean(self.curve[:5]))

    @property
    def maa10(self) -> float:
        """Return mean accuracy at 1..10 degrees."""
        return float(np.mean(self.curve))


@dataclass(frozen=True)
class MultiviewResult:
    """All bags of one scene, extractor and seed."""

    scene: str
    seed: int
    bags: tuple[BagResult, ...]

    def summaries(self) -> list[SizeSummary]:
        """Return one for each bag size, and at last their plain mean; empty without bags."""
        sizes = sorted({len(bag.names) for bag in self.bags})
        each = [_summarise([b for b in self.bags if len(b.names) == size]) for size in sizes]
        return [*each, _mean(each)] if each else []

    @property
    def maa10(self) -> float:
        """Return mean over bag sizes, the benchmark's metric; nan without bags."""
        return self.summaries()[-1].maa10 if self.bags else float("nan")

    def accuracy(self) -> list[float]:
        """Return share of pairs within 1..10 degrees: means over bags of a size, then over sizes.

        Raises:
            ValueError: there are no bags.
        """
        if not self.bags:
            raise ValueError(f"{self.scene} has no bags to make metrics of")
        return list(self.summaries()[-1].curve)


@dataclass(frozen=True)
class MultiviewRun:
    """One extractor on all scenes, with all seeds.

    Attributes:
        chosen: how its features were matched.
        results: of the bags that are reported, one for each scene and seed.
        tuning: mAA(10) on the bags that ``chosen`` was chosen on, by setting; empty if there was
            but one.
    """

    chosen: MatchConfig
    results: Sequence[MultiviewResult]
    tuning: Mapping[MatchConfig, float] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "multiview_matches": match_label(self.chosen),
            "multiview_tuning": {match_label(m): maa for m, maa in self.tuning.items()},
            "multiview": [
                {"scene": result.scene, "seed": result.seed, "maa10": result.maa10,
                 "bags": [bag.to_record() for bag in result.bags]}
                for result in self.results
            ],
        }  # fmt: skip


def make_tables(runs: Mapping[str, MultiviewRun]) -> list[Table]:
    """Make a table for each scene, and one of the means of several.

    For each method a row for each bag size, the mean over all sizes last; metrics are means over
    seeds, and mAA(10) has its least and largest beside it.

    Args:
        runs: by method, all of the same scenes.
    """
    scenes = list(dict.fromkeys(result.scene for run in runs.values() for result in run.results))
    tables = [
        Table(f"Multiview, {scene}, COLMAP on bags of images", COLUMNS, _rows(runs, [scene]))
        for scene in scenes
    ]
    if len(scenes) > 1:
        title = f"Multiview, mean over {len(scenes)} scenes"
        tables.append(Table(title, COLUMNS, _rows(runs, scenes)))
    return tables


def write_multiview(
    out: Path,
    methods: Sequence[NamedExtractor],
    runs: Mapping[str, MultiviewRun],
    plan: StereoPlan,
    record: Mapping[str, Any],
) -> str:
    """Write results.json, table.md, curves and report.html.

    Args:
        out: folder.
        methods: in the order of the tables.
        runs: of each by name.
        plan: that they followed.
        record: ``description``, ``data``, and whatever else belongs into the file.

    Returns:
        The text of table.md.
    """
    described = {
        "date": today(),
        "protocol": PROTOCOL,
        "seeds": list(plan.seeds),
        **record,
        "methods": {
            method.name: {**method.describe(), **runs[method.name].to_record()}
            for method in methods
        },
    }
    return write_report(out, described, make_tables(runs), make_plots(runs))


def describe_multiview(plan: StereoPlan, num_keypoints: int) -> str:
    """One line on what was done."""
    text = (
        "COLMAP models of bags of images from unknown intrinsics, error = max of rotation and "
        "sign-free translation direction over all pairs of a bag, pairs of an image without a "
        f"pose fail, mAA over 1..10 degrees; best {num_keypoints} keypoints; "
        f"seeds: {len(plan.seeds)} (mean, least..largest)"
    )
    if len(plan.matches) == 1:
        return text
    return (
        f"{text}; chosen on every second bag of a size from ratios "
        f"{describe_ratios(plan.matches)}, reported on the other bags"
    )


def describe_bags(bags: BagSet) -> str:
    """``40 bags of 5, 40 of 10``."""
    counts = sorted(Counter(len(bag) for bag in bags.bags).items())
    text = ", ".join(f"{count} of {size}" for size, count in counts)
    return text.replace(" of", " bags of", 1)


def make_plots(runs: Mapping[str, MultiviewRun]) -> list[Plot]:
    """Accuracy over 1..10 degrees, one plot a scene; means over sizes and seeds."""
    scenes = dict.fromkeys(result.scene for run in runs.values() for result in run.results)
    plots = []
    for scene in scenes:
        curves = {
            name: np.mean([r.accuracy() for r in run.results if r.scene == scene], axis=0).tolist()
            for name, run in runs.items()
        }
        plots.append(accuracy_plot(f"multiview-{scene}", f"multiview, {scene}", curves))
    return plots


def _rows(runs: Mapping[str, MultiviewRun], scenes: Sequence[str]) -> list[list[Cell]]:
    rows = []
    for method, run in runs.items():
        by_seed: dict[int, list[SizeSummary]] = {}
        for result in run.results:
            if result.scene in scenes:
                by_seed.setdefault(result.seed, []).extend(result.summaries())
        sizes = {summary.size for of_seed in by_seed.values() for summary in of_seed}
        for size in sorted(sizes, key=lambda size: (size is None, size)):
            start = [method, match_label(run.chosen), "mean" if size is None else str(size)]
            of_size = [[s for s in of_seed if s.size == size] for of_seed in by_seed.values()]
            rows.append([*start, *_cells([summaries for summaries in of_size if summaries])])
    return rows


def _cells(by_seed: Sequence[Sequence[SizeSummary]]) -> list[Cell]:
    """Metrics of one extractor and bag size from the summaries of all scenes by seed."""
    mean = _mean([summary for summaries in by_seed for summary in summaries])
    maa10 = [_mean(summaries).maa10 for summaries in by_seed]
    ate = None if np.isnan(mean.ate_rel) else f"{100 * mean.ate_rel:.2f}"
    track = None if np.isnan(mean.track_length) else f"{mean.track_length:.2f}"
    return [
        mean.num_bags,
        f"{mean.maa5:.4f}",
        f"{mean.maa10:.4f}",
        f"{min(maa10):.4f}..{max(maa10):.4f}",
        100 * mean.success,
        100 * mean.registered,
        mean.num_points,
        track,
        ate,
        mean.seconds,
    ]


def _summarise(bags: Sequence[BagResult]) -> SizeSummary:
    """Means over bags of one size."""
    size = len(bags[0].names)
    curve = np.mean([accuracy(bag.errors_deg) for bag in bags], axis=0)
    models = [bag for bag in bags if bag.num_registered]
    return SizeSummary(
        size=size,
        num_bags=len(bags),
        curve=tuple(curve.tolist()),
        success=len(models) / len(bags),
        registered=sum(bag.num_registered for bag in bags) / (size * len(bags)),
        num_points=_known_mean(bag.num_points for bag in models),
        track_length=_known_mean(bag.track_length for bag in models),
        ate_rel=_known_median(bag.ate_rel for bag in bags),
        seconds=_known_mean(bag.seconds for bag in bags),
    )


def _mean(summaries: Sequence[SizeSummary]) -> SizeSummary:
    """Plain means of all metrics; what is nan in one is left out of that metric's mean."""
    curve = np.mean([s.curve for s in summaries], axis=0).tolist()
    others = {field.name for field in fields(SizeSummary)} - {"size", "num_bags", "curve"}
    means = {name: _known_mean(getattr(s, name) for s in summaries) for name in others}
    return SizeSummary(None, sum(s.num_bags for s in summaries), tuple(curve), **means)


def _known_median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else float("nan")


def _known_mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
