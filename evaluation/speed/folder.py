"""A folder of photos: this project's extraction beside COLMAP's own, each on all cores."""

import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.extractors.named_extractor import NamedExtractor
from evaluation.reporting.report import Cell, Table
from rekd_hloc.image_listing import list_images
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.pycolmap_compat import quiet, set_options

COLMAP = "colmap extract_features"


@dataclass(frozen=True)
class FolderTime:
    """What a folder took: seconds by the clock and of all cores, those of processes included."""

    method: str
    seconds: float
    cpu_s: float


def time_folder(
    method: NamedExtractor, photos: Path, count: int, num_keypoints: int
) -> list[FolderTime]:
    """Extract the first photos of a folder with a method, and with COLMAP before and after it.

    Args:
        method: to compare.
        photos: folder of images.
        count: most photos that are taken.
        num_keypoints: budget of COLMAP; the method has its own.

    Raises:
        ValueError: the folder has no photos.
    """
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / "photos"
        for name in list_images(photos)[:count]:
            (chosen / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos / name, chosen / name)
        names = list_images(chosen)
        method(chosen / names[0])  # warms up

        def with_colmap(number: int) -> None:
            _extract_with_colmap(Path(scratch) / f"{number}.db", chosen, num_keypoints)

        def with_method() -> None:
            extract_images(method, chosen, Path(scratch) / "features.h5")

        before = _timed(COLMAP, lambda: with_colmap(1))
        ours = _timed(method.name, with_method)
        after = _timed(COLMAP, lambda: with_colmap(2))
    return [before, ours, after]


def folder_table(times: list[FolderTime], count: int) -> Table:
    """Return photos a second, and their ratio to the mean of COLMAP's two runs."""
    colmap = [time.seconds for time in times if time.method == COLMAP]
    reference = sum(colmap) / len(colmap)
    rows: list[list[Cell]] = [
        [
            time.method,
            f"{time.seconds:.1f}",
            f"{time.cpu_s:.1f}",
            f"{count / time.seconds:.2f}",
            f"{time.seconds / reference:.2f}",
        ]
        for time in times
    ]
    columns = ["method", "seconds", "CPU seconds", "photos a second", "ratio of seconds"]
    return Table(f"a folder of {count} photos", columns, rows)


def _extract_with_colmap(database: Path, photos: Path, num_keypoints: int) -> None:
    import pycolmap

    kind = getattr(pycolmap, "FeatureExtractionOptions", None)
    options: Any = kind() if kind else pycolmap.SiftExtractionOptions()
    set_options(options, sift__max_num_features=num_keypoints, use_gpu=False)
    set_options(options, max_num_features=num_keypoints)
    with quiet():
        pycolmap.extract_features(
            database, photos, extraction_options=options, device=pycolmap.Device.cpu
        )


def _timed(name: str, work: Callable[[], None]) -> FolderTime:
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    work()
    return FolderTime(name, time.perf_counter() - start, _cpu_seconds() - cpu_start)


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
