"""Does a method survive rotation, change of size, or blur?

    python -m evaluation.rotation --data IMAGES --method rekd --method sift --out OUT

Every image is rotated by 0..350 degrees in steps of ten, or resized, or blurred, and compared
with itself: repeatability, matching accuracy, angles and matches as curves over the transform.
--roto360 is the protocol of that name: ten images, 36 rotations, MMA at 3, 5, 10 px. Interrupt it
and start it again: features are not extracted again.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.command_line import (
    add_filter_option,
    exit_status,
    filter_remark,
    make_parser,
    require_positive,
)
from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.options import add_extractor_options, load_extractors
from evaluation.extractors.registry import NamedExtractor
from evaluation.image_folders import is_validation
from evaluation.reporting.report import today, write_csv, write_report
from evaluation.robustness.measure import (
    ANGLE_TOLERANCE_DEG,
    MARGIN_PX,
    PRECISE_PX,
    RobustnessTest,
    run_robustness,
)
from evaluation.robustness.tables import (
    make_plots,
    make_value_rows,
    robustness_tables,
    roto360_table,
)
from evaluation.robustness.transforms import KINDS, UNITS, TransformKind, default_values
from rekd_hloc.config import MatchConfig
from rekd_hloc.image_listing import list_images

NUM_KEYPOINTS = 500
EXTRACTED_FOR_USED = 2
"""Keypoints asked of a method for each one used: those near the border are left out."""
ROTO360_IMAGES = 10
REFERENCE_STEMS = ("1", "img1")
"""What HPatches and Oxford call the first image of a sequence."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("evaluation.rotation", __doc__)
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="DIR", help="folders of images")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    add_extractor_options(parser, NUM_KEYPOINTS)
    add("--sweep", action="append", choices=KINDS,
        help="rotation (default): a full rotation; scale: 0.5 to 2; gaussian: blur of sigma 0 to "
        "4 px; motion: blur along 0 to 21 px; may be given again, then each gets a folder in OUT",
    )  # fmt: skip
    add("--exp-name", metavar="NAME", help="results go to OUT/NAME; OUT's features are shared")
    add("--roto360", action="store_true", help="the Roto-360 protocol: MMA at 3, 5, 10 px")
    add("--refine", action="store_true",
        help="measure each method also with refined positions of its matches")  # fmt: skip
    add_filter_option(parser)
    add("--held-out", action="store_true", help="only images of the validation tenth")
    add("--max-images", type=int, metavar="N", help="at most so many, evenly spread; roto360: 10")
    add("--step-deg", type=float, default=10.0, metavar="DEG", help="between rotations; default 10")
    add("--num-threads", type=int, default=1, metavar="N", help="images at once; default 1")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> None:
    _check(arguments)
    paths = select_images(arguments)
    loaded = load_extractors(arguments, EXTRACTED_FOR_USED * arguments.num_keypoints)
    methods = {method.name: method for method in loaded}
    kinds = ["rotation"] if arguments.roto360 else arguments.sweep or ["rotation"]
    for kind in dict.fromkeys(kinds):
        folder = arguments.out / (arguments.exp_name or "")
        out = folder if len(kinds) == 1 else folder / kind
        sys.stdout.write(_run(arguments, kind, paths, methods, out))


def select_images(arguments: argparse.Namespace) -> list[Path]:
    """Return the images to transform.

    Raises:
        FileNotFoundError, ValueError: a folder is not there, or nothing is left.
    """
    paths = [folder / name for folder in arguments.data for name in list_images(folder)]
    if arguments.held_out:
        paths = [path for path in paths if is_validation(path.name)]
        if not paths:
            raise ValueError("no image is left: the folders hold none of the validation tenth")
    count = arguments.max_images
    if arguments.roto360:
        first = [path for path in paths if path.stem in REFERENCE_STEMS]
        paths, count = first or paths, count or ROTO360_IMAGES
    return spread_evenly(paths, count or len(paths))


def spread_evenly(paths: Sequence[Path], count: int) -> list[Path]:
    """Return at most ``count`` of the paths, evenly spread over the list, in its order."""
    if count >= len(paths):
        return list(paths)
    return [paths[(2 * number + 1) * len(paths) // (2 * count)] for number in range(count)]


def _check(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.step_deg <= 360:
        raise ValueError(f"step-deg must be in (0, 360] degrees, got {arguments.step_deg}")
    require_positive(arguments, "num_keypoints", "num_threads", "max_images")
    if arguments.roto360 and arguments.sweep:
        raise ValueError("--roto360 is a protocol of rotation; leave --sweep away")


def _run(
    arguments: argparse.Namespace,
    kind: TransformKind,
    paths: Sequence[Path],
    methods: Mapping[str, NamedExtractor],
    out: Path,
) -> str:
    test = RobustnessTest(
        kind=kind,
        values=default_values(kind, arguments.step_deg),
        paths=paths,
        num_keypoints=arguments.num_keypoints,
        cache_dir=arguments.out / "features",
        half_pixel=not arguments.roto360,
        num_threads=arguments.num_threads,
        filter=MatchConfig(filter=arguments.filter),
    )
    endings = ("", REFINED) if arguments.refine else ("",)
    labels = {name + end: method for name, method in methods.items() for end in endings}
    results = {
        label: run_robustness(test, method, refine=label.endswith(REFINED))
        for label, method in labels.items()
    }
    folders = ", ".join(folder.name for folder in arguments.data)
    record: dict[str, Any] = {
        "program": "rotation",
        "protocol": "roto360" if arguments.roto360 else kind,
        "description": _describe(test) + filter_remark(arguments.filter),
        "data": f"{folders}{', validation tenth' if arguments.held_out else ''}: "
        f"{len(paths)} images",
        "date": today(),
        "methods": {
            name: {
                **method.describe(),
                "values": [asdict(row) for row in results[name]],
            }
            for name, method in labels.items()
        },
    }
    tables = robustness_tables(kind, results, precise=arguments.refine)
    if arguments.roto360:
        tables = [roto360_table(results)]
    columns, rows = make_value_rows(record["protocol"], results)
    write_csv(out / "values.csv", columns, rows)
    return write_report(out, record, tables, make_plots(kind, results)) + "\n"


def _describe(test: RobustnessTest) -> str:
    moved = test.kind == "rotation" and test.half_pixel
    return (
        f"{len(test.values)} values of {UNITS[test.kind]}; best {test.num_keypoints} keypoints "
        f"at least {MARGIN_PX:.0f} px off the image's border; rep = repeatability at 3 px; "
        f"rep 1.5 px = share of keypoints with a keypoint within {PRECISE_PX} px; MMA over mutual "
        "nearest neighbours; filter = matches within 30 degrees of the most common rotation; "
        f"angles = those of the keypoints repeated within {PRECISE_PX} px, right within "
        f"{ANGLE_TOLERANCE_DEG:.0f} degrees"
        f"{'; rotated images are moved by half a pixel' if moved else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
