"""Matching under known homographies, by the protocol of REKD's code.

``python -m evaluation.hpatches --data DIR --method rekd --method rootsift --out OUT`` reads HPatches
or Oxford sequences and prints, for every method: repeatability, mean matching accuracy (MMA) and
the number of matches, without and with the paper's orientation filter. 1,500 keypoints are asked of
each image and the best 1,000 used.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from evaluation.baselines import Method, limit, load_method
from evaluation.homographies import HomographyPair, list_pairs
from evaluation.metrics import match_errors, matching_accuracy, repeatability_rekd
from rekd_hloc.matching.consistency import filter_paper
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.types import Features, Matches

logger = logging.getLogger(__name__)

PROTOCOL = "REKD (HPatches, 3 px repeatability of all keypoints, mutual NN)"
THRESHOLDS_PX = torch.arange(1, 11).float()
NUM_EXTRACTED = 1500


@dataclass(frozen=True)
class PairResult:
    """Figures of one image pair; shares in [0, 1]."""

    sequence: str
    pair: str
    repeatability: float
    mma: list[float]
    """Matching accuracy at 1..10 px."""
    num_matches: int
    mma_filtered: list[float]
    num_matches_filtered: int


@dataclass(frozen=True)
class Summary:
    """Means over pairs, percentages as in the paper's tables."""

    method: str
    num_pairs: int
    repeatability: float
    mma_1px: float
    mma_3px: float
    mma_5px: float
    num_matches: float
    mma_1px_filtered: float
    mma_3px_filtered: float
    mma_5px_filtered: float
    num_matches_filtered: float


def evaluate(
    method: Method, pairs: Sequence[HomographyPair], num_keypoints: int
) -> list[PairResult]:
    """Run a method over all pairs; each image is extracted once."""
    cache: dict[Path, Features] = {}
    results = []
    for pair in tqdm(pairs, unit="pair", disable=None):
        for path in (pair.path_a, pair.path_b):
            if path not in cache:
                cache[path] = limit(method(path), num_keypoints)
        results.append(evaluate_pair(cache[pair.path_a], cache[pair.path_b], pair))
    return results


def evaluate_pair(a: Features, b: Features, pair: HomographyPair) -> PairResult:
    """Figures of one pair from the features of its two images."""
    matches = match_nearest(a.descriptors, b.descriptors)
    filtered = filter_paper(matches, a.keypoints.angle, b.keypoints.angle)
    return PairResult(
        sequence=pair.sequence,
        pair=f"{pair.path_a.stem}-{pair.path_b.stem}",
        repeatability=repeatability_rekd(a.keypoints.xy, b.keypoints.xy, pair.b_from_a),
        mma=_accuracy(a, b, matches, pair),
        num_matches=len(matches),
        mma_filtered=_accuracy(a, b, filtered, pair),
        num_matches_filtered=len(filtered),
    )


def summarise(name: str, results: Sequence[PairResult]) -> Summary:
    """Means over pairs, in per cent."""
    mma = torch.tensor([r.mma for r in results]).mean(dim=0) * 100
    filtered = torch.tensor([r.mma_filtered for r in results]).mean(dim=0) * 100
    count = len(results)
    return Summary(
        method=name,
        num_pairs=count,
        repeatability=100 * sum(r.repeatability for r in results) / count,
        mma_1px=float(mma[0]),
        mma_3px=float(mma[2]),
        mma_5px=float(mma[4]),
        num_matches=sum(r.num_matches for r in results) / count,
        mma_1px_filtered=float(filtered[0]),
        mma_3px_filtered=float(filtered[2]),
        mma_5px_filtered=float(filtered[4]),
        num_matches_filtered=sum(r.num_matches_filtered for r in results) / count,
    )


def format_table(rows: Sequence[Summary]) -> str:
    """A Markdown table, one method a row."""
    lines = [
        "| method | rep | MMA@1/3/5 | matches | filter: MMA@1/3/5 | matches |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.method} | {r.repeatability:.1f} | {r.mma_1px:.1f} / {r.mma_3px:.1f} / {r.mma_5px:.1f} "
        f"| {r.num_matches:.1f} | {r.mma_1px_filtered:.1f} / {r.mma_3px_filtered:.1f} / "
        f"{r.mma_5px_filtered:.1f} | {r.num_matches_filtered:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)


def _accuracy(a: Features, b: Features, matches: Matches, pair: HomographyPair) -> list[float]:
    errors = match_errors(a.keypoints.xy, b.keypoints.xy, matches.index, pair.b_from_a)
    return [float(x) for x in matching_accuracy(errors, THRESHOLDS_PX)]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.hpatches", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of sequences")
    parser.add_argument("--method", action="append", required=True, help="may be given again")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-keypoints", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        pairs = list_pairs(arguments.data)
        methods = {
            name: load_method(name, NUM_EXTRACTED, device=arguments.device)
            for name in arguments.method
        }
    except (ValueError, FileNotFoundError) as error:
        logger.error("%s", error)
        return 2
    rows, details = [], {}
    for name, method in methods.items():
        results = evaluate(method, pairs, arguments.num_keypoints)
        rows.append(summarise(name, results))
        details[name] = {
            "provenance": getattr(method, "provenance", {}),
            "pairs": [asdict(result) for result in results],
        }
    table = (
        f"Protocol: {PROTOCOL}, best {arguments.num_keypoints} keypoints\n\n{format_table(rows)}\n"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "table.md").write_text(table)
    record = {"protocol": PROTOCOL, "summary": [asdict(r) for r in rows], "methods": details}
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1))
    sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
