"""Area under the recall curve of errors, of poses in degrees or of homographies in pixels."""

from collections.abc import Sequence

import numpy as np


def area_under_curve(errors: Sequence[float], threshold: float) -> float:
    """Return the AUC at a threshold, in [0, 1]: the mean recall over errors from 0 to it.

    As in SuperGlue (Sarlin et al., 2020): the recall rises linearly from 0 at error 0 through
    (k-th smallest error, k / number of pairs) and is constant from the last error below the
    threshold. It is nan without any pair.

    Args:
        errors: one of each image pair; inf where the estimation failed.
        threshold: in the unit of the errors.

    Raises:
        ValueError: the threshold is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}")
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    if len(ordered) == 0:
        return float("nan")
    recall = np.arange(1, len(ordered) + 1) / len(ordered)
    inside = ordered[ordered < threshold]
    x = np.concatenate([[0.0], inside, [threshold]])
    y = np.concatenate(
        [[0.0], recall[: len(inside)], [recall[len(inside) - 1] if len(inside) else 0.0]]
    )
    return float(np.trapezoid(y, x) / threshold)
