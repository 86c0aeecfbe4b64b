"""What the multiview task writes: its own record, with tables and curves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.extractors.registry import NamedExtractor
from evaluation.imc.multiview_sweep import BagSet
from evaluation.imc.multiview_table import MultiviewRun, make_tables
from evaluation.metrics.pose import NUM_BINS
from evaluation.relative_pose.matching import describe_ratios
from evaluation.relative_pose.stereo import StereoPlan
from evaluation.reporting.curves import Plot
from evaluation.reporting.report import today, write_report

PROTOCOL = "imc2021-multiview"


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
            method.name: {
                "provenance": method.provenance,
                "weights": method.weights,
                **runs[method.name].to_record(),
            }
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
    x = [float(degree) for degree in range(1, NUM_BINS + 1)]
    scenes = dict.fromkeys(result.scene for run in runs.values() for result in run.results)
    plots = []
    for scene in scenes:
        curves = {
            name: (
                100 * np.mean([r.accuracy() for r in run.results if r.scene == scene], axis=0)
            ).tolist()
            for name, run in runs.items()
        }
        plots.append(Plot(f"multiview-{scene.replace('/', '-')}", f"multiview, {scene}",
                          "pose error, degrees", "pairs below, %", x, curves))  # fmt: skip
    return plots
