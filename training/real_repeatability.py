"""Does a detector find the same points in real photos, and the same angles and scales there?

    python -m training.real_repeatability --method rekd-fast --method sift \
        --model A/sparse/0 --images A/photos --out OUT

The models say where the keypoints of one photo lie in the other. Give --model and --images again
for each scene. Features of an image are stored in OUT and not extracted again.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluation.command_line import exit_status, make_parser, require_positive
from evaluation.extractors.extraction import extract_by_content
from evaluation.extractors.options import add_extractor_options, load_extractors
from evaluation.extractors.registry import NamedExtractor
from evaluation.reporting.report import Cell, Table, today, write_report
from rekd_hloc.geometry import angle_difference
from rekd_hloc.types import Keypoints
from training.scenes.real_pairs import RIGHT_PX, PairTruth, RealPairs, repeatability
from training.scenes.scene_folders import SceneFolders

NUM_KEYPOINTS = 1000
RIGHT_DEG = 15.0
"""Largest error of a right angle, in degrees."""
RIGHT_FACTOR = math.sqrt(2)
"""Largest factor between right scales."""


@dataclass(frozen=True)
class RealRepeatability:
    """What a detector finds again; shares of 1."""

    repeatability: float
    """Distinct keypoints that have one within 3 px in the other photo."""
    right_angles: float
    """Of the keypoints with a partner at their place, those whose angles agree to 15 degrees."""
    right_scales: float
    """The same of scales, to a factor of the square root of 2."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("training.real_repeatability", __doc__)
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="DIR",
        help="COLMAP model of a scene, of any features; may be given again")  # fmt: skip
    add("--images", action="append", required=True, metavar="DIR", help="its photos, as often")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    add("--max-pairs", type=int, default=12, metavar="N", help="pairs of a scene; default 12")
    add("--max-views", type=int, default=12, metavar="N",
        help="photos of a scene, the first by name; default 12")  # fmt: skip
    add_extractor_options(parser, NUM_KEYPOINTS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(arguments))


def measure(truth: PairTruth, max_keypoints: int, *, has_orientation: bool) -> RealRepeatability:
    """Measure one pair.

    Args:
        truth: of a pair.
        max_keypoints: the strongest so many of each photo are taken.
        has_orientation: without it the share of right angles is not a number.
    """
    few = truth.select(*(points.strongest(max_keypoints) for points in (truth.a, truth.b)))
    found = torch.nonzero(few.partner >= 0)[:, 0]
    carried, others = few.a_in_b[found], few.b[few.partner[found]]
    turn = angle_difference(carried.angle, others.angle).abs()
    factor = (carried.scale / others.scale).log().abs()
    return RealRepeatability(
        repeatability=repeatability(truth, max_keypoints),
        right_angles=_share(turn <= math.radians(RIGHT_DEG)) if has_orientation else math.nan,
        right_scales=_share(factor <= math.log(RIGHT_FACTOR) + 1e-6),
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    require_positive(arguments, "num_keypoints", "max_pairs", "max_views")
    folders = SceneFolders(
        models=tuple(arguments.model),
        images=tuple(arguments.images),
        max_pairs=arguments.max_pairs,
        max_views=arguments.max_views,
    )
    extractors = load_extractors(arguments, arguments.num_keypoints)
    scenes = dict(folders.read_pairs(seed=0))
    results = {
        extractor.name: {
            name: _measure_scene(pairs, extractor, arguments, name)
            for name, pairs in tqdm(scenes.items(), desc=extractor.name, unit="scene")
        }
        for extractor in extractors
    }
    record: dict[str, Any] = {
        "program": "real_repeatability",
        "protocol": "real repeatability",
        "description": f"best {arguments.num_keypoints} keypoints; repeatability = share of "
        f"distinct keypoints found again within {RIGHT_PX:.0f} px; angles right within "
        f"{RIGHT_DEG:.0f} degrees, scales within a factor of {RIGHT_FACTOR:.2f}",
        "data": ", ".join(f"{name}: {len(pairs.pairs)} pairs" for name, pairs in scenes.items()),
        "date": today(),
        "methods": {
            e.name: {**e.describe(), "scenes": {k: asdict(v) for k, v in results[e.name].items()}}
            for e in extractors
        },
    }
    sys.stdout.write(write_report(arguments.out, record, _tables(results)) + "\n")


def _measure_scene(
    pairs: RealPairs, extractor: NamedExtractor, arguments: argparse.Namespace, name: str
) -> RealRepeatability:
    views = {view: pairs.geometry.views[view] for view in pairs.used_views}
    paths = {of.name: of.path for of in views.values()}
    features = extract_by_content(paths, extractor, arguments.out / "features", label=name)
    lifted = pairs.lift(
        {
            view: _in_levels(features[of.name].keypoints, extractor.level_scale)
            for view, of in views.items()
        }
    )
    measured = [
        measure(
            pairs.truth(lifted, pair),
            arguments.num_keypoints,
            has_orientation=extractor.has_orientation,
        )
        for pair in pairs.pairs
    ]
    return RealRepeatability(*_mean([list(asdict(one).values()) for one in measured]))


def _tables(results: Mapping[str, Mapping[str, RealRepeatability]]) -> list[Table]:
    """Return the means over scenes, and each scene's repeatability; in percent."""
    means: list[list[Cell]] = []
    by_scene: list[list[Cell]] = []
    for name, scenes in results.items():
        every = [list(asdict(of_scene).values()) for of_scene in scenes.values()]
        means.append([name, *(100 * value for value in _mean(every))])
        by_scene.append([name, *(100 * of_scene.repeatability for of_scene in scenes.values())])
    names = list(next(iter(results.values())))
    return [
        Table("Means over scenes, %", ["method", "repeatability", "angles", "scales"], means),
        Table("Repeatability by scene, %", ["method", *names], by_scene),
    ]


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [float(value) for value in np.mean(rows, axis=0)]


def _share(is_right: torch.Tensor) -> float:
    return float(is_right.double().mean()) if len(is_right) else 0.0


def _in_levels(keypoints: Keypoints, level_scale: float) -> Keypoints:
    """Return them with scale 1 at the image's own size, by which errors are tolerated."""
    return replace(keypoints, scale=keypoints.scale / level_scale)


if __name__ == "__main__":
    sys.exit(main())
