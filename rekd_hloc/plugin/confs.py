"""The entries that this plugin adds to hloc's ``confs``, in hloc's form and manner of naming.

``n2048`` is the keypoint budget and ``r1600`` the longer side that hloc shrinks an image to, as in
hloc's own file names. Each call makes new dicts, so that a user may change one without effect on
the next.
"""

from typing import Any

from rekd_hloc.config import PRESETS, RECONSTRUCTION_MATCHING, ExtractConfig

BUDGETS = (1500, 2048, 4096, 8000)
"""Keypoints of an image: the paper's, two usual ones, and IMC's larger category."""
MAX_KEYPOINTS = 32_767
"""hloc stores the index of a keypoint as int16."""
DETECTION_NOISE_PX = 0.54
"""Standard deviation of a keypoint's position, in pixels of the image that hloc hands over.

hloc's triangulation accepts matches within 4 times that. Measured as the column ``noise px`` of
``evaluation.hloc_report``: residuals of ``rekd-fast`` in models of ten images of a facade, three
seeds. Warped images give less (0.3, and 0.1 for ``rekd``), but lack what real views add."""
HLOC_NN_RATIO = 0.8
"""Distance ratio of hloc's conf NN-ratio."""

Conf = dict[str, Any]
NN_MUTUAL: Conf = {"name": "nearest_neighbor", "do_mutual_check": True}
"""The model of hloc's conf NN-mutual."""


def extractor_confs() -> dict[str, Conf]:
    """Return the confs ``rekd``, ``rekd-n1500``, ... of each preset.

    A name without a number stands for the preset's own budget.
    """
    confs: dict[str, Conf] = {}
    for name, preset in PRESETS.items():
        confs[name] = _extractor_conf(name, preset, preset.detector.max_keypoints)
        confs |= {f"{name}-n{n}": _extractor_conf(name, preset, n) for n in BUDGETS}
    return confs


def matcher_confs() -> dict[str, Conf]:
    """Return the confs of matchers: this package's own, and the filter behind hloc's.

    To offer another matcher of :data:`rekd_hloc.matching.match.MATCHERS`, add its conf here.
    """
    return {
        "NN-rekd": {
            "output": "matches-NN-rekd",
            "model": {"name": "rekd"},
        },
        "NN-rekd-ratio": {
            "output": "matches-NN-rekd-ratio.8",
            "model": {"name": "rekd", "ratio": HLOC_NN_RATIO},
        },
        "NN-rekd-ratio.95": {
            "output": "matches-NN-rekd-ratio.95",
            "model": {"name": "rekd", "ratio": RECONSTRUCTION_MATCHING.ratio},
        },
        "NN-rekd-consensus": {
            "output": "matches-NN-rekd-consensus",
            "model": {"name": "rekd", "filter": "consensus"},
        },
        "NN-rekd-guided": {
            "output": "matches-NN-rekd-guided",
            "model": {"name": "rekd", "filter": "consensus", "guided": True},
        },
        "NN-rekd-net": {
            "output": "matches-NN-rekd-net",
            "model": {"name": "rekd", "filter": "network"},
        },
        "adalam-rekd": {
            "output": "matches-adalam-rekd",
            "model": {"name": "rekd", "filter": "adalam"},
        },
        "orientation-filter": {
            "output": "matches-NN-mutual-oriented",
            "model": orientation_filter(NN_MUTUAL),
        },
        "consensus-filter": {
            "output": "matches-NN-mutual-consensus",
            "model": orientation_filter(NN_MUTUAL, filter="consensus"),
        },
        "network-filter": {
            "output": "matches-NN-mutual-net",
            "model": orientation_filter(NN_MUTUAL, filter="network"),
        },
    }


def orientation_filter(matcher: Conf, **options: float | str) -> Conf:
    """Return the model conf that puts the orientation filter, or another, behind a matcher of hloc.

    Args:
        matcher: a matcher's model conf, for example ``match_features.confs["adalam"]["model"]``.
        options: fields of :class:`rekd_hloc.config.MatchConfig` for the filter, for example
            ``filter="consensus"``.
    """
    return {"name": "orientation_filter", "matcher": dict(matcher), **options}


def _extractor_conf(name: str, preset: ExtractConfig, budget: int) -> Conf:
    side = preset.max_side_px
    preprocessing: Conf = {"grayscale": True}
    if side:
        preprocessing["resize_max"] = side
    return {
        "output": f"feats-{name}-n{budget}" + (f"-r{side}" if side else ""),
        "model": {"name": "rekd", "preset": name, "max_keypoints": budget},
        "preprocessing": preprocessing,
    }
