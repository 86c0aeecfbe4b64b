"""Images a second where several of one size are extracted together, as a GPU takes them."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation.reporting.report import Cell, Table
from rekd_hloc.features.captured_graphs import CAPTURE_AT
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.images import read_image
from rekd_hloc.progress import progress_bar


def time_batches(
    extractor: Extractor, photo: Path, counts: Sequence[int], repeats: int
) -> dict[int, float]:
    """Return images a second for each number of images at once, from pixels to features on the CPU.

    Args:
        extractor: of this project; what it does not take together it takes one by one.
        photo: that all images are.
        counts: images at once.
        repeats: of which the median counts; those before a graph is captured come first.
    """
    image = read_image(photo)
    rates = {}
    for count in progress_bar(counts, "batches", unit=" sizes", shown=True):
        seconds = []
        for turn in range(CAPTURE_AT + repeats):
            start = time.perf_counter()
            extractor.extract_all([image] * count)
            if turn >= CAPTURE_AT:
                seconds.append(time.perf_counter() - start)
        rates[count] = count / statistics.median(seconds)
    return rates


def batches_table(method: str, rates: dict[int, float]) -> Table:
    """Return one row for each number of images at once; the ratio is to the first."""
    first = next(iter(rates.values()))
    rows: list[list[Cell]] = [
        [str(count), f"{rate:.2f}", f"{rate / first:.2f}"] for count, rate in rates.items()
    ]
    columns = ["images at once", "images a second", "ratio"]
    return Table(f"{method}, several images of one size", columns, rows)
