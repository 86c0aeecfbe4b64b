"""The stages of a run as calls that a second process makes on a disk without room."""

from pathlib import Path

from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import exhaustive_pairs
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.viz.page import write_html_report
from tests.sift_extractor import SiftExtractor

NUM_KEYPOINTS = 300


def extract(images: Path, out: Path) -> None:
    """Features of all images."""
    extract_images(SiftExtractor(NUM_KEYPOINTS), images, out / "features.h5")


def match(images: Path, out: Path) -> None:
    """Matches of all pairs of them."""
    with FeatureStore(out / "features.h5") as store:
        pairs = exhaustive_pairs(store.names())
    match_images(out / "features.h5", out / "matches.h5", pairs)


def run(images: Path, out: Path) -> None:
    """All stages, going on from what is there."""
    reconstruct(images, out, extractor=SiftExtractor(NUM_KEYPOINTS), device="cpu")


def page(images: Path, out: Path) -> None:
    """The page about a finished run."""
    write_html_report(out, images, title="a run")
