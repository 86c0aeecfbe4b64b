"""The protocols that measure features under a known homography, each behind its name.

Four protocols call their metric "HPatches repeatability" and give different numbers for the same
features. A metric is therefore never printed without the name of its protocol:

* ``rekd``: that of REKD's code, and of the tables in its paper;
* ``keynet``: Key.Net's, on regions instead of points ("HSequences");
* ``superpoint``: SuperPoint's, symmetric, on small images;
* ``d2net``: D2-Net's matching accuracy without a cap on keypoints;
* ``homography-auc``: the error of the homography estimated from the matches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from evaluation.extractors.classical import NO_CAP
from evaluation.homography.frames import FrameKind
from evaluation.homography.measures import (
    PRECISE_PX,
    THRESHOLDS_PX,
    Metrics,
    PairInput,
    measure_d2net,
    measure_homography,
    measure_keynet,
    measure_rekd,
    measure_superpoint,
)
from evaluation.metrics.auc import area_under_curve
from evaluation.metrics.homography import matching_accuracy

AUC_THRESHOLDS_PX = (1.0, 3.0, 5.0)


@dataclass(frozen=True)
class Column:
    """One column of a protocol's table."""

    header: str
    key: str
    index: int | None = None
    """Index into the list, where the metric is one."""
    percent: bool = True


@dataclass(frozen=True)
class Protocol:
    """A named way to measure."""

    name: str
    description: str
    """Printed with every table."""
    frame: FrameKind
    num_extracted: int
    num_used: int
    measure: Callable[[PairInput], Metrics]
    summarise: Callable[[Sequence[Metrics]], Metrics]
    columns: tuple[Column, ...]
    curve: tuple[str, str] | None = None
    """Key and label of a metric that is a list over 1..10 px."""
    without_high_resolution: bool = False
    precise: tuple[Column, ...] = ()
    """Columns of the table of refined matches, where it is not the same one."""
    measures_matches: bool = True


def average(rows: Sequence[Metrics]) -> Metrics:
    """Return mean of every metric over the rows that have it; lists by element."""
    if not rows:
        return {}
    means: Metrics = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        if not values:
            means[key] = None
            continue
        mean = torch.tensor(values, dtype=torch.float64).mean(dim=0)
        means[key] = mean.tolist()
    return means


def _summarise_homography(rows: Sequence[Metrics]) -> Metrics:
    means = average([{k: v for k, v in row.items() if "error" not in k} for row in rows])
    for suffix in ("", "_filtered"):
        errors = [row[f"corner_error_px{suffix}"] for row in rows]
        if None in errors:  # methods without orientation have no filtered matches
            means |= {f"auc{suffix}": None, f"homography_accuracy{suffix}": None}
            continue
        values = torch.tensor(errors, dtype=torch.float64)
        means[f"auc{suffix}"] = [area_under_curve(values.tolist(), t) for t in AUC_THRESHOLDS_PX]
        means[f"homography_accuracy{suffix}"] = matching_accuracy(values, THRESHOLDS_PX).tolist()
    return means


def _match_columns(key: str, header: str) -> tuple[Column, ...]:
    return (
        Column(f"{header}@1", key, 0),
        Column(f"{header}@3", key, 2),
        Column(f"{header}@5", key, 4),
    )


_MATCHES = (
    *_match_columns("mma", "MMA"),
    Column("matches", "num_matches", percent=False),
    *_match_columns("mma_filtered", "filter: MMA"),
    Column("filter: matches", "num_matches_filtered", percent=False),
)

_PRECISE = tuple(
    Column(f"{header}@{threshold:g}", key, index)
    for key, header in (("mma_precise", "MMA"), ("mma_precise_filtered", "filter: MMA"))
    for index, threshold in enumerate(PRECISE_PX.tolist())
)

_ALL = (
    Protocol(
        name="rekd",
        description=(
            "repeatability = share of all keypoints of image 1 with any keypoint of image 2 within "
            "3 px, points that leave the image are misses; MMA over mutual nearest neighbours, "
            "matches = their mean number (the paper's pred. match); filter = matches within 30 "
            "degrees of the most common rotation; not the paper's: distinct = share of the "
            "keypoints no closer than 3 px to a stronger one, rep of distinct = of these alone"
        ),
        frame="original",
        num_extracted=1500,
        num_used=1000,
        measure=measure_rekd,
        summarise=average,
        columns=(
            Column("rep", "repeatability"),
            Column("distinct", "distinct"),
            Column("rep of distinct", "repeatability_distinct"),
            *_MATCHES,
        ),
        curve=("mma", "matching accuracy"),
        precise=_PRECISE,
    ),
    Protocol(
        name="keynet",
        description=(
            "HSequences: best keypoints among those visible in both images; circles, the larger at "
            "30 px, with IoU >= 0.6, one to one, over the smaller count; single scale = equal radii"
        ),
        frame="original",
        num_extracted=1500,
        num_used=1000,
        measure=measure_keynet,
        summarise=average,
        columns=(
            Column("rep, single scale", "repeatability_single"),
            Column("rep, multi scale", "repeatability_multi"),
            Column("keypoints", "num_keypoints", percent=False),
        ),
        measures_matches=False,
    ),
    Protocol(
        name="superpoint",
        description=(
            "images resized and cropped to 320x240, best keypoints among those visible in both, "
            "symmetric repeatability at 3 px; localisation = mean distance of the repeated"
        ),
        frame="crop-320x240",
        num_extracted=1000,
        num_used=300,
        measure=measure_superpoint,
        summarise=average,
        columns=(
            Column("rep", "repeatability"),
            Column("localisation px", "localisation_px", percent=False),
            Column("keypoints", "num_keypoints", percent=False),
        ),
        curve=("repeatability_curve", "repeatability"),
        measures_matches=False,
    ),
    Protocol(
        name="d2net",
        description=(
            "MMA over mutual nearest neighbours of all keypoints that a method finds, "
            "without the eight HPatches sequences of high resolution"
        ),
        frame="original",
        num_extracted=NO_CAP,
        num_used=NO_CAP,
        measure=measure_d2net,
        summarise=average,
        columns=(Column("keypoints", "num_keypoints", percent=False), *_MATCHES),
        curve=("mma", "matching accuracy"),
        without_high_resolution=True,
        precise=_PRECISE,
    ),
    Protocol(
        name="homography-auc",
        description=(
            "shorter side resized to 480 px, mutual nearest neighbours, OpenCV MAGSAC++ at 3 px, "
            "mean error of the four corners, area under its recall curve"
        ),
        frame="short-480",
        num_extracted=1500,
        num_used=1000,
        measure=measure_homography,
        summarise=_summarise_homography,
        columns=(
            *(Column(f"AUC@{t}", "auc", i) for i, t in enumerate((1, 3, 5))),
            Column("matches", "num_matches", percent=False),
            *(Column(f"filter: AUC@{t}", "auc_filtered", i) for i, t in enumerate((1, 3, 5))),
            Column("filter: matches", "num_matches_filtered", percent=False),
        ),
        curve=("homography_accuracy", "share of homographies within"),
    ),
)

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
