"""What the command lines of ``evaluation.imc`` and ``evaluation.pose`` share."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation.command_line import require_positive
from evaluation.extractors.options import add_extractor_options
from evaluation.relative_pose.estimation import open_pool
from evaluation.relative_pose.estimators import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    RansacOptions,
    default_threshold,
    require,
)
from evaluation.relative_pose.matching import FILTERS, OLD_FILTERS, describe_ratios, match_config
from evaluation.relative_pose.refinement import loose_options
from evaluation.relative_pose.report import (
    CSV_COLUMNS,
    describe_run,
    make_pair_rows,
    make_plots,
    make_tables,
)
from evaluation.relative_pose.stereo import ExtractorRun, Resources, StereoPlan
from evaluation.reporting.report import today, write_csv, write_report
from rekd_hloc.processor import num_cores

NUM_SEEDS = 3
NUM_KEYPOINTS = 2048
MATCHERS = ("nn", "adalam")
"""Values of the option that AdaLAM was chosen by before it became a filter."""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add options that say what extracts, and where results go."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for results and caches"
    )
    add_extractor_options(parser, NUM_KEYPOINTS)


def add_stereo_options(parser: argparse.ArgumentParser) -> None:
    """Add options of matching and robust estimation."""
    add = parser.add_argument_group("stereo").add_argument
    add("--estimator", choices=list(ESTIMATORS), default=DEFAULT_ESTIMATOR,
        help=f"default {DEFAULT_ESTIMATOR}; essential* know the intrinsics, *-oriented and "
        "*-frames sample fewer matches, with their angles and scales")  # fmt: skip
    add("--thresholds", type=float, nargs="+", metavar="PX",
        help="of inliers; several: chosen on one half of the pairs, reported on the other",
    )  # fmt: skip
    add("--ratio", nargs="+", default=["none"], metavar="R",
        help="ratio test from both images, or none (default); several as above")  # fmt: skip
    add("--filter", choices=FILTERS, default="none", type=_read_filter,
        help="orientation filter, or adalam, another matcher; default none")  # fmt: skip
    add("--guided", action="store_true",
        help="add matches that lie where those that passed the filter lead")  # fmt: skip
    add("--matcher", choices=MATCHERS, default="nn", help=argparse.SUPPRESS)
    add("--refine", action="store_true",
        help="refine the positions of matches near a loose geometry; --thresholds are those of "
        "the estimation after it")  # fmt: skip
    add("--seeds", type=int, default=NUM_SEEDS, metavar="N", help=f"default {NUM_SEEDS}")
    add("--max-iterations", type=int, default=100_000, metavar="N", help="default 100000")
    add("--num-pairs", type=int, metavar="N", help="of each scene, to try things out")
    add("--jobs", type=int, default=0, metavar="N", help="processes; default: one a core")


def read_plan(arguments: argparse.Namespace) -> StereoPlan:
    """Read the settings to try.

    Raises:
        ValueError: an option is out of range.
        ImportError: the package of the estimation before refinement is missing.
    """
    require_positive(arguments, "seeds", "num_keypoints")
    if arguments.matcher == "adalam" and arguments.filter not in ("none", "adalam"):
        raise ValueError(f"adalam has a filter of its own; leave --filter {arguments.filter} out")
    if arguments.refine:
        require(loose_options(arguments.estimator).estimator)
    filter_name = "adalam" if arguments.matcher == "adalam" else arguments.filter
    thresholds = arguments.thresholds or [default_threshold(arguments.estimator)]
    ratios = [_read_ratio(text) for text in arguments.ratio]
    return StereoPlan(
        matches=[
            match_config(ratio, filter_name, guided=arguments.guided)
            for ratio in dict.fromkeys(ratios)
        ],
        ransacs=[
            RansacOptions(arguments.estimator, threshold, max_iterations=arguments.max_iterations)
            for threshold in sorted(set(thresholds))
        ],
        seeds=tuple(range(arguments.seeds)),
        refine=arguments.refine,
    )


@contextmanager
def open_resources(arguments: argparse.Namespace) -> Iterator[Resources]:
    """Open the caches under ``--out`` and the processes of ``--jobs``."""
    jobs = arguments.jobs or num_cores()
    device = "cpu" if arguments.device == "auto" else arguments.device
    with open_pool(jobs) as pool:
        yield Resources(arguments.out / "cache", pool, jobs, device)


def write_stereo(
    out: Path, runs: Sequence[ExtractorRun], plan: StereoPlan, record: Mapping[str, Any]
) -> str:
    """Write results.json, table.md, pairs.csv, curves and report.html.

    Args:
        out: folder.
        runs: of all extractors.
        plan: that they followed.
        record: ``protocol``, ``description``, ``data``, and whatever else belongs into the file.

    Returns:
        The text of table.md.
    """
    write_csv(out / "pairs.csv", CSV_COLUMNS, make_pair_rows(runs))
    methods = {run.label: describe_run(run) for run in runs}
    described = {"date": today(), "seeds": list(plan.seeds), **record, "methods": methods}
    return write_report(out, described, make_tables(runs), make_plots(runs))


def describe_stereo(plan: StereoPlan, num_keypoints: int) -> str:
    """Return one line on what was done."""
    estimator = plan.ransacs[0].estimator
    text = (
        f"relative poses by {estimator} ({plan.ransacs[0].max_iterations} iterations at most), "
        f"error = max of rotation and sign-free translation direction, mAA over 1..10 degrees; "
        f"best {num_keypoints} keypoints; seeds: {len(plan.seeds)} (mean, least..largest)"
    )
    if len(plan.settings) == 1:
        return text
    thresholds = ", ".join(f"{r.threshold_px:g}" for r in plan.ransacs)
    return (
        f"{text}; chosen on one half of the pairs from thresholds {thresholds} px and ratios "
        f"{describe_ratios(plan.matches)}, reported on the other half"
    )


def plain_parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options as JSON can hold them."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(arguments).items()
    }


def _read_filter(name: str) -> str:
    return OLD_FILTERS.get(name, name)


def _read_ratio(text: str) -> float:
    if text == "none":
        return 1.0
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"ratio must be a number in (0, 1] or none, got {text!r}") from error
