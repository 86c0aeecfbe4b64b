"""Why a reconstruction is empty or incomplete, and what would help, in words."""

from collections.abc import Collection, Mapping, Sequence
from statistics import median

from rekd_hloc.matching.pairs import MAX_EXHAUSTIVE
from rekd_hloc.names import list_names
from rekd_hloc.sfm.camera_report import CameraSummary, describe_focals
from rekd_hloc.sfm.verification import MIN_INLIERS, Counts

FEW_KEYPOINTS = 200
"""A median image with fewer gives too few matches for three views of a scene."""
START_INLIERS = 100
"""COLMAP starts a model from a pair with so many, or in a second and third try half as many each;
pairs far below may be verified by chance."""
FEW_REGISTERED = 0.5
"""Share of the images; where no more are in the model, wrong cameras may be the cause."""
SURE_INLIERS = 30
"""Verified matches that hardly come about by chance: among 6,280 verified pairs of a thousand
photos of 23 scenes, those with 15 to 19 tied 809 photos together, the others no two scenes."""
LISTED = 5
MORE_MATCHES = (
    "do the photos overlap? More keypoints, or the preset rekd in place of rekd-fast, find more."
)


def diagnose(
    num_keypoints: Mapping[str, int],
    counts: Counts,
    registered: Collection[str],
    cameras: Sequence[CameraSummary] = (),
    elsewhere: Collection[str] = (),
) -> str:
    """Return what kept images out of the model and what to do; empty if none is left out.

    Args:
        num_keypoints: of each usable image.
        counts: matches and inliers of each pair.
        registered: images in the largest model.
        cameras: of the images, named where a model is missing or small.
        elsewhere: images that only smaller models hold.
    """
    names = list(num_keypoints)
    missing = [name for name in names if name not in registered]
    if not names:
        return "No image could be read: see the reasons under skipped."
    if len(names) == 1:
        return "One image gives no model: add photos of the scene from other places."
    if not missing:
        return ""
    parts = [_describe_missing(missing, len(names), len(elsewhere))]
    if median(num_keypoints.values()) < FEW_KEYPOINTS:
        parts.append(_describe_few_keypoints(list(num_keypoints.values())))
    parts.append(_describe_pairs(names, counts, bool(registered)))
    if counts and cameras and len(registered) <= FEW_REGISTERED * len(names):
        parts.append(describe_focals(cameras))
    return " ".join(parts)


def connected_groups(
    names: Sequence[str], counts: Counts, least: int | None = None
) -> list[list[str]]:
    """Images that verified pairs tie together, largest group first, each in the order of names.

    Pairs with ``least`` verified matches tie. Without it, any verified pair does, but of more than
    ``MAX_EXHAUSTIVE`` images only pairs with ``SURE_INLIERS``: among thousands of pairs of
    different places some are verified by chance, and tie everything together.
    """
    if least is None:
        least = SURE_INLIERS if len(names) > MAX_EXHAUSTIVE else 1
    leader = {name: name for name in names}

    def leader_of(name: str) -> str:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    for (a, b), (_, inliers) in counts.items():
        if inliers >= least:
            leader[leader_of(b)] = leader_of(a)
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(leader_of(name), []).append(name)
    return sorted(members.values(), key=len, reverse=True)


def _describe_missing(missing: Sequence[str], total: int, num_elsewhere: int) -> str:
    if len(missing) == total:
        return f"No model of the {total} images."
    shown = list_names(missing, LISTED)
    but = f", but {num_elsewhere} of them in smaller models" if num_elsewhere else ""
    return f"{len(missing)} of {total} images are not in the model{but}: {shown}."


def _describe_few_keypoints(counts: Sequence[int]) -> str:
    """Blame the budget if most images have equally many, and the photos otherwise."""
    few = f"The median image has {median(counts):.0f} keypoints, which is few: "
    most = max(counts)
    if most and counts.count(most) > len(counts) / 2:
        return few + "most images reach that limit, so raise --max-keypoints."
    return few + (
        "are the photos small, blurred or masked? Use larger images or a lower score_threshold."
    )


def _describe_pairs(names: Sequence[str], counts: Counts, has_model: bool) -> str:
    if not counts:
        return "There were no pairs to match: use exhaustive pairs, or add pairs to the file."
    verified = [inliers for _, inliers in counts.values() if inliers]
    if not verified:
        matches = [count for count, _ in counts.values()]
        return (
            f"None of the {len(counts)} pairs has {MIN_INLIERS} matches that agree on one geometry "
            f"(matches of a pair: median {median(matches):.0f}, most {max(matches)}): "
            f"{MORE_MATCHES}"
        )
    about = (
        f"{len(verified)} of {len(counts)} pairs are verified, with {median(verified):.0f} "
        "inliers in the median."
    )
    if not has_model and max(verified) < START_INLIERS:
        return (
            f"{about} The best pair has {max(verified)}; a model starts from about "
            f"{START_INLIERS}, and fewer can come about by chance: {MORE_MATCHES}"
        )
    groups = connected_groups(names, counts)
    if len(groups) > 1:
        sizes = ", ".join(str(len(group)) for group in groups[: 2 * LISTED])
        rest = ", ..." if len(groups) > 2 * LISTED else ""
        return (
            f"{about} They tie the images together in {len(groups)} separate groups of "
            f"{sizes}{rest}: add photos between the groups, or more pairs."
        )
    if has_model:
        return f"{about} The images left out share too few points with the others: add photos."
    return (
        f"{about} No two views started a model: photos taken from one place have no depth; "
        "otherwise give the intrinsics, or try another seed or mapper."
    )
