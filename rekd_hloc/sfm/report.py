"""What a reconstruction gave, in numbers: ``report.json`` and its text form."""

import logging
import platform
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import psutil

from rekd_hloc import __version__
from rekd_hloc.matching.match import describe_fallback
from rekd_hloc.names import counted, one_line
from rekd_hloc.sfm.alignment import Pose, align_to_reference
from rekd_hloc.sfm.camera_report import describe_odd_focals
from rekd_hloc.sfm.changed_images import describe_changes
from rekd_hloc.sfm.image_notes import describe_upright_masks, describe_value_ranges
from rekd_hloc.sfm.mapping import names_in
from rekd_hloc.sfm.refinement_summary import describe_figures
from rekd_hloc.sfm.skipped import shorten_skipped
from rekd_hloc.sfm.verification import Counts
from rekd_hloc.storage.provenance import package_versions

logger = logging.getLogger(__name__)

NUM_WEAKEST = 10
"""Pairs listed one by one."""


class Stopwatch:
    """Seconds of each stage, by its name; time of a stage entered twice adds up.

    Attributes:
        seconds: of each stage.
        shares_found: how much of a stage's work was there already, 0 to 1, where that is told.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.shares_found: dict[str, float] = {}

    def tell_found(self, name: str, num_found: int, num_all: int) -> None:
        """Note that a stage had only a part of its work to do."""
        self.shares_found[name] = num_found / num_all if num_all else 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            logger.info("%s took %.1f s", name, elapsed)


def describe_models(models: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Figures of the largest of the models (``pycolmap.Reconstruction``), which comes first.

    Args:
        models: largest first; may be empty.
        names: of all usable images.
    """
    known = registered_names(models)
    metrics = {
        "num_points3D": 0,
        "num_observations": 0,
        "mean_track_length": 0.0,
        "mean_reprojection_error_px": 0.0,
    }
    if models and models[0].num_points3D():
        metrics = {
            "num_points3D": models[0].num_points3D(),
            "num_observations": models[0].compute_num_observations(),
            "mean_track_length": models[0].compute_mean_track_length(),
            "mean_reprojection_error_px": models[0].compute_mean_reprojection_error(),
        }
    return {
        "num_registered": len(known),
        "num_models": len(models),
        "num_in_other_models": len(names_elsewhere(models)),
        **metrics,
        "unregistered": [name for name in names if name not in known],
        "models": [
            {"num_registered": m.num_reg_images(), "num_points3D": m.num_points3D()} for m in models
        ],
    }


def registered_names(models: Sequence[Any]) -> set[str]:
    """Return images in the first of the models."""
    return names_in(models[0]) if models else set()


def names_elsewhere(models: Sequence[Any]) -> set[str]:
    """Return images that are in one of the models, but not in the first."""
    return set[str]().union(*map(names_in, models[1:])) - registered_names(models)


def num_registered(models: Sequence[Any]) -> int:
    """Return images in the first of the models; 0 if there is none."""
    return int(models[0].num_reg_images()) if models else 0


def describe_pairs(counts: Counts) -> dict[str, Any]:
    """Return matches and inliers: totals, medians, and the pairs with the fewest inliers."""
    matches = [count for count, _ in counts.values()]
    inliers = [count for _, count in counts.values()]
    weakest = sorted(counts.items(), key=lambda item: (item[1][1], item[1][0], item[0]))
    return {
        "num_pairs": len(counts),
        "num_verified": sum(count > 0 for count in inliers),
        "num_matches": sum(matches),
        "num_inliers": sum(inliers),
        "median_matches": float(median(matches)) if matches else 0.0,
        "median_inliers": float(median(inliers)) if inliers else 0.0,
        "weakest": [
            {"images": list(pair), "matches": count, "inliers": good}
            for pair, (count, good) in weakest[:NUM_WEAKEST]
        ],
    }


def describe_errors(models: Sequence[Any], reference: Mapping[str, Pose]) -> dict[str, Any]:
    """Pose errors of the largest model against true poses, after a similarity alignment.

    Where the two cannot be aligned, both errors are None and ``alignment_failure`` says why.
    """
    record: dict[str, Any] = {
        "num_compared": 0,
        "rotation_error_deg": None,
        "center_error_rel": None,
    }
    if not models:
        return {**record, "alignment_failure": "there is no model"}
    try:
        errors = align_to_reference(models[0], reference)
    except ValueError as error:
        return {**record, "alignment_failure": str(error)}
    return {
        "num_compared": len(errors.names),
        "rotation_error_deg": _summarise(errors.rotation_deg),
        "center_error_rel": _summarise(errors.center_rel),
    }


def describe_run(provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return weights of the features, versions, and the memory used so far."""
    suffix = "_weights"
    weights = {k.removesuffix(suffix): v for k, v in provenance.items() if k.endswith(suffix)}
    return {
        "peak_memory_mib": peak_memory_mib(),
        "weights": weights,
        "versions": {
            "rekd_hloc": __version__,
            "python": platform.python_version(),
            **{name: version for name, version in package_versions().items() if version},
        },
    }


def peak_memory_mib() -> float:
    """Return largest resident memory of this process since it started, MiB."""
    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return float(info.peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)


def _describe_others(report: Mapping[str, Any]) -> str:
    others = report.get("num_in_other_models", 0)
    return f"; {others} more in the smaller ones" if others else ""


def format_report(report: Mapping[str, Any]) -> str:
    """Return the same in a few lines for a person."""
    pairs = report["pairs"]
    lines = [
        f"images        {report['num_registered']} of {report['num_images']} registered, "
        f"{counted(report['num_models'], 'model')}{_describe_others(report)}",
        f"points        {report['num_points3D']}, {report['num_observations']} observations, "
        f"track length {report['mean_track_length']:.2f}",
        f"reprojection  {report['mean_reprojection_error_px']:.3f} px",
        f"pairs         {pairs['num_verified']} of {pairs['num_pairs']} verified, "
        f"{pairs['num_inliers']} inliers of {pairs['num_matches']} matches",
    ]
    if report.get("rotation_error_deg"):
        rotation, center = report["rotation_error_deg"], report["center_error_rel"]
        lines += [
            f"rotation      median {rotation['median']:.3f}, largest {rotation['max']:.3f} degrees",
            f"centres       median {center['median']:.3%}, largest {center['max']:.3%} of extent",
        ]
    elif report.get("alignment_failure"):
        lines.append(f"reference     not compared: {report['alignment_failure']}")
    lines += _describe_inputs(report)
    if refinement := report.get("refinement"):
        lines += [f"refined       {line}" for line in describe_figures(refinement)]
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report["seconds"].items())
    lines.append(f"seconds       {stages}; peak memory {report['peak_memory_mib']:.0f} MiB")
    changes = describe_changes(
        report.get("changed", ()),
        report.get("removed", ()),
        report.get("num_rematched", 0),
        report.get("added", ()),
    )
    lines += [f"changed       {line}" for line in changes]
    for name, reason in shorten_skipped(report["skipped"], "report.json lists all"):
        lines.append(f"skipped       {name}: {reason}")
    if report.get("previous_model"):
        lines.append(f"model         the one before is in {report['previous_model']} now")
    lines += [f"note          {note}" for note in report.get("geometry", {}).get("notes", ())]
    if report["diagnosis"]:
        lines.append(f"diagnosis     {report['diagnosis']}")
    return "\n".join(map(one_line, lines))


def _describe_inputs(report: Mapping[str, Any]) -> list[str]:
    """Return lines about images, masks, cameras and pairs that are not as one would expect."""
    ranges = report.get("value_ranges")
    notes = {
        "depth": describe_value_ranges(ranges) if ranges else "",
        "masks": describe_upright_masks(report.get("mask_frames", {})),
        "focal length": describe_odd_focals(report.get("cameras", [])),
        "consensus": describe_fallback(report.get("num_fallback", 0), report["pairs"]["num_pairs"]),
    }
    return [f"{label:<14}{text}" for label, text in notes.items() if text]


def _summarise(errors: Collection[float]) -> dict[str, float]:
    return {"median": float(np.median(list(errors))), "max": float(np.max(list(errors)))}
