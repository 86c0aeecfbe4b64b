"""Reconstructions of the corner scene with SIFT, a second each; fixtures are in conftest."""

from rekd_hloc.sfm.reconstruct import reconstruct
from tests.sift_extractor import SiftExtractor

NUM_VIEWS = 5


def run(photos, output, extractor=None, **options):
    settings = {"reference": photos / "reference", "device": "cpu"} | options
    return reconstruct(
        settings.pop("images", photos / "images"),
        output,
        extractor=extractor or SiftExtractor(400),
        **settings,
    )
