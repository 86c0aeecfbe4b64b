"""Two models of one scene, each from one half of the keypoints: their agreement needs no truth.

The keypoints of even number in each image make one model, those of odd number the other. No match
belongs to both, so that errors of position are independent, and the models differ by them.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64

from rekd_hloc.sfm.alignment import align_to_reference, read_poses
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Matches

Half = Literal["even", "odd"]
HALVES: tuple[Half, Half] = ("even", "odd")


def take_half(
    features: Path, matches: Path, half: Half, features_out: Path, matches_out: Path
) -> None:
    """Write the keypoints of even or odd number, and the matches among them.

    Args:
        features: file in hloc's form.
        matches: of all its pairs.
        half: which.
        features_out: to write.
        matches_out: to write.
    """
    parity = HALVES.index(half)
    with FeatureStore(features) as store, MatchStore(matches) as pairs:
        provenance = {**store.provenance, "half": half}
        counts = {}
        with FeatureStore.resume(features_out, provenance, overwrite=True) as out:
            for name in store.names():
                entry = store.read(name)
                chosen = entry.keypoints[torch.arange(parity, len(entry), 2)]
                counts[name] = len(chosen)
                vectors = entry.descriptors[parity::2]
                out.write(name, Features(chosen, vectors, entry.image_size))
        provenance = {**pairs.provenance, "half": half}
        with MatchStore.resume(matches_out, provenance, overwrite=True) as out_pairs:
            for a, b in pairs.pairs(counts):
                out_pairs.write(a, b, _matches_of_half(pairs.read(a, b), parity), counts[a])


def compare_models(model: Any, other: Any) -> dict[str, Any]:
    """Return how two models of the same images differ after a similarity on camera centres.

    Args:
        model: a ``pycolmap.Reconstruction``, or None.
        other: likewise, to which the first is aligned.

    Returns:
        ``rotation_error_deg`` and ``center_error_rel``, each median and max, and ``num_compared``;
        None where the models cannot be aligned.
    """
    none = {"rotation_error_deg": None, "center_error_rel": None, "num_compared": 0}
    if model is None or other is None:
        return none
    try:
        errors = align_to_reference(model, read_poses(other))
    except ValueError:  # too few common images, or on one line
        return none
    return {
        "rotation_error_deg": _summarise(errors.rotation_deg),
        "center_error_rel": _summarise(errors.center_rel),
        "num_compared": len(errors.names),
    }


def _matches_of_half(matches: Matches, parity: int) -> Matches:
    is_own = (matches.index % 2 == parity).all(dim=1)
    return Matches(matches.index[is_own] // 2, matches.score[is_own])


def _summarise(errors: Float64[np.ndarray, " image"]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "max": float(np.max(errors))}
