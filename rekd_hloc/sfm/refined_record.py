"""What a file of features holds of an image whose keypoints were refined."""

from collections.abc import Mapping

import numpy as np

from rekd_hloc.refinement.track_alignment import RefinedKeypoints, State
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.storage.journal import Record

COVARIANCES, STATES, REASON = "covariances", "refinement", "not_refined"
"""Datasets of an image in a refined file beside hloc's, and an attribute of images left out."""
MIN_UNCERTAINTY_PX = 0.25
"""Least uncertainty that is recorded of an image: hloc multiplies its thresholds with it, and poses
and lenses are not known to hundredths of a pixel."""


def refined_record(
    features: FeatureStore, name: str, refined: RefinedKeypoints, skipped: Mapping[str, str]
) -> Record:
    """Return all that is stored with an image, with refined positions in place of the others."""
    record = features.read_record(name)
    stored = record.arrays["keypoints"]
    keypoints = stored.astype(np.float64 if stored.dtype == np.float64 else np.float32)
    is_refined = refined.state == State.REFINED
    keypoints[is_refined, :2] = refined.xy[is_refined]
    arrays = {**record.arrays, "keypoints": keypoints}
    arrays |= {COVARIANCES: refined.covariance, STATES: refined.state}
    attrs = {key: dict(values) for key, values in record.attrs.items()}
    known = attrs.setdefault("keypoints", {})
    known["uncertainty"] = image_uncertainty(refined, float(known.get("uncertainty", 1.0)))
    if name in skipped:
        attrs.setdefault("", {})[REASON] = skipped[name]
    return Record(name, arrays, attrs)


def image_uncertainty(refined: RefinedKeypoints, before_px: float) -> float:
    """Return one standard deviation for an image, of which some keypoints are refined.

    It is the root of the mean variance of all keypoints that follow a root: that of the alignment
    where it succeeded, the former one where not; at least ``MIN_UNCERTAINTY_PX`` and at most the
    former one. An image in which none was refined keeps the former one.
    """
    follows = (refined.state == State.REFINED) | (refined.state == State.REFUSED)
    if not (refined.state == State.REFINED).any():
        return before_px
    half_trace = np.trace(refined.covariance[follows], axis1=1, axis2=2) / 2
    variance = np.where(np.isfinite(half_trace), half_trace, before_px**2)
    return float(min(before_px, max(MIN_UNCERTAINTY_PX, np.sqrt(variance.mean()))))
