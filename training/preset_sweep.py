"""Compare extraction options on held-out images: ``python -m training.preset_sweep --images DIR``.

Every held-out image is paired with a view of it under a random homography with other light, blur
and noise. For each variant of a preset the table says how many mutual nearest neighbours are
correct within 3 px, which share that is, and how precise they are. Presets are chosen here and
never on a benchmark's images.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evaluation.command_line import exit_status, make_parser
from evaluation.image_folders import list_image_paths
from evaluation.metrics.homography import match_errors
from rekd_hloc.config import MatchConfig, get_preset, load_config
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.files import write_json
from rekd_hloc.images import read_color
from rekd_hloc.matching.match import match
from training.warps import View, WarpConfig, draw_view, plain_view

CORRECT_PX = 3.0


@dataclass(frozen=True)
class VariantResult:
    """Means over pairs, and the median error of the correct matches in pixels."""

    variant: str
    num_keypoints: float
    num_matches: float
    num_correct: float
    precision: float
    filtered_correct: float
    filtered_precision: float
    error_px: float
    seconds_per_image: float


def evaluate_variant(
    name: str, extractor: Extractor, pairs: Sequence[tuple[View, View]]
) -> VariantResult:
    """Extract and match all pairs of views with one variant."""
    rows, errors, seconds = [], [], 0.0
    for view_a, view_b in tqdm(pairs, desc=name or "as it is", disable=None):
        start = time.perf_counter()
        a, b = extractor(view_a.grey), extractor(view_b.grey)
        seconds += time.perf_counter() - start
        b_from_a = torch.from_numpy(view_b.view_from_image @ np.linalg.inv(view_a.view_from_image))
        counts = [len(a)]
        for kind in ("none", "density"):
            matches = match(a, b, MatchConfig(filter=kind))
            error = match_errors(a.keypoints.xy, b.keypoints.xy, matches.index, b_from_a)
            is_correct = error <= CORRECT_PX
            counts += [len(matches), int(is_correct.sum())]
            if kind == "none":
                errors.append(error[is_correct])
        rows.append(counts)
    num_keypoints, num_matches, num_correct, num_filtered, filtered_correct = np.mean(rows, axis=0)
    all_errors = torch.cat(errors)
    return VariantResult(
        variant=name,
        num_keypoints=num_keypoints,
        num_matches=num_matches,
        num_correct=num_correct,
        precision=num_correct / max(num_matches, 1),
        filtered_correct=filtered_correct,
        filtered_precision=filtered_correct / max(num_filtered, 1),
        error_px=float(all_errors.median()) if len(all_errors) else float("nan"),
        seconds_per_image=seconds / (2 * len(pairs)),
    )


def draw_pairs(
    paths: Sequence[Path], count: int, seed: int, *, upright: bool
) -> list[tuple[View, View]]:
    """Draw one pair of views of each of ``count`` images, spread over all of them."""
    picked = np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)
    pairs = []
    for index in picked:
        image = read_color(paths[index])
        rng = np.random.default_rng([seed, int(index)])
        pairs.append((plain_view(image), draw_view(rng, image, WarpConfig(), upright=upright)))
    return pairs


def format_table(rows: Sequence[VariantResult]) -> str:
    """Format a Markdown table with a row for each variant."""
    lines = [
        "| variant | keypoints | matches | correct | precision | filtered: correct | precision "
        "| error px | s/image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.variant or 'as it is'} | {r.num_keypoints:.0f} | {r.num_matches:.0f} "
        f"| {r.num_correct:.0f} | {r.precision:.3f} | {r.filtered_correct:.0f} "
        f"| {r.filtered_precision:.3f} | {r.error_px:.2f} | {r.seconds_per_image:.2f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("training.preset_sweep", __doc__)
    parser.add_argument(
        "--images", "--photos", type=Path, nargs="+", required=True, help="folders of images"
    )
    parser.add_argument("--conf", default="rekd-fast", help="preset to start from")
    parser.add_argument(
        "--variant", action="append", default=[""], help="'key=value key=value'; may be repeated"
    )
    parser.add_argument("--num-images", "--num-photos", type=int, default=16)
    parser.add_argument("--upright", action="store_true", help="views that are hardly rotated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for results.json")
    arguments = parser.parse_args(argv)

    def work() -> None:
        _, held_out = list_image_paths(arguments.images)
        pairs = draw_pairs(
            held_out, arguments.num_images, arguments.seed, upright=arguments.upright
        )
        preset = get_preset(arguments.conf)
        configs = {text: load_config(preset, None, text.split()) for text in arguments.variant}
        rows = []
        for text, config in configs.items():
            extractor = Extractor.from_pretrained(arguments.conf, config=config)
            rows.append(evaluate_variant(text, extractor, pairs))
        sys.stdout.write(format_table(rows))
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            record = {"conf": arguments.conf, "variants": [asdict(row) for row in rows]}
            write_json(arguments.out / "results.json", record)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
