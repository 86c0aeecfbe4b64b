"""Oriented keypoints for structure from motion: REKD, HardNet descriptors, COLMAP models.

Names are imported when they are first used, so ``import rekd_hloc`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

__all__ = [
    "Extractor",
    "Features",
    "Keypoints",
    "Matches",
    "add_guided",
    "draw_keypoints",
    "draw_matches",
    "filter_by_consensus",
    "filter_by_orientation",
    "load_config",
    "match",
    "match_pair",
    "reconstruct",
    "refine",
    "register",
]

_HOMES = {
    "Extractor": "rekd_hloc.features.extractor",
    "Features": "rekd_hloc.types",
    "Keypoints": "rekd_hloc.types",
    "Matches": "rekd_hloc.types",
    "add_guided": "rekd_hloc.matching.guided",
    "draw_keypoints": "rekd_hloc.viz.draw",
    "draw_matches": "rekd_hloc.viz.draw",
    "filter_by_consensus": "rekd_hloc.matching.consensus",
    "filter_by_orientation": "rekd_hloc.matching.consistency",
    "load_config": "rekd_hloc.config",
    "match": "rekd_hloc.matching.match",
    "match_pair": "rekd_hloc.interfaces.match_pair",
    "reconstruct": "rekd_hloc.sfm.reconstruct",
    "refine": "rekd_hloc.refinement.pairs",
    "register": "rekd_hloc.plugin",
}

if TYPE_CHECKING:
    from rekd_hloc.config import load_config
    from rekd_hloc.features.extractor import Extractor
    from rekd_hloc.interfaces.match_pair import match_pair
    from rekd_hloc.matching.consensus import filter_by_consensus
    from rekd_hloc.matching.consistency import filter_by_orientation
    from rekd_hloc.matching.guided import add_guided
    from rekd_hloc.matching.match import match
    from rekd_hloc.plugin import register
    from rekd_hloc.refinement.pairs import refine
    from rekd_hloc.sfm.reconstruct import reconstruct
    from rekd_hloc.types import Features, Keypoints, Matches
    from rekd_hloc.viz.draw import draw_keypoints, draw_matches


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
