"""What a refinement did, in numbers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.names import counted, list_names
from rekd_hloc.refinement.track_alignment import State
from rekd_hloc.sfm.keypoint_scales import read_frames
from rekd_hloc.sfm.refined_record import STATES
from rekd_hloc.storage.features import FeatureStore

OF_THE_RUN = ("names", "num_resumed", "seconds")
"""Of the summary, what a report of a model tells elsewhere, or not at all."""


@dataclass(frozen=True)
class LevelCounts:
    """Tell of the keypoints about one scale, roots of tracks left out.

    Attributes:
        scale: a power of two; the keypoints' own are within a factor of 1.41.
        num_aligned: keypoints that were to be aligned to the root of their track.
        num_refined: of them, how many were.
        median_shift_px: of these, in pixels of the image; None without any.
    """

    scale: float
    num_aligned: int
    num_refined: int
    median_shift_px: float | None


@dataclass(frozen=True)
class RefineSummary:
    """Tell what a refinement did.

    Attributes:
        names: images in the refined file, in order.
        num_keypoints: of all images.
        num_tracks: of verified matches.
        num_in_tracks: keypoints that are in one.
        num_refined: keypoints whose position was refined.
        num_refused: keypoints in a track that could not be aligned to its root.
        median_shift_px: of the refined keypoints, in pixels of their image; None without any.
        levels: the same by scale, finest first.
        skipped: images whose keypoints stay, and why.
        num_resumed: images that were in the file before.
        seconds: this run took.
    """

    names: list[str]
    num_keypoints: int
    num_tracks: int
    num_in_tracks: int
    num_refined: int
    num_refused: int
    median_shift_px: float | None
    levels: list[LevelCounts]
    skipped: dict[str, str] = field(default_factory=dict)
    num_resumed: int = 0
    seconds: float = 0.0

    def to_report(self, names: Collection[str]) -> dict[str, Any]:
        """Return the figures for ``report.json``; of images left out, those among ``names``."""
        figures = {key: value for key, value in asdict(self).items() if key not in OF_THE_RUN}
        return {**figures, "skipped": {n: why for n, why in self.skipped.items() if n in names}}


def summarise(
    before: FeatureStore, after: FeatureStore, names: Sequence[str], scales: str, **run: Any
) -> RefineSummary:
    """Compare a refined file with the one it was made from.

    Args:
        before: the features.
        after: the same, refined.
        names: of all images.
        scales: as in :func:`rekd_hloc.sfm.keypoint_scales.read_frames`.
        **run: attributes of the summary that the files do not tell.

    Raises:
        ValueError: a file is damaged, or the two are not of one another.
    """
    states, shifts, octaves = [], [], []
    for name in names:
        frames = read_frames(before, name, scales)
        state = after.read_array(name, STATES)
        if state is None or len(state) != len(frames):
            raise ValueError(f"image {name!r} in {after.path} is not refined; overwrite the file")
        moved = after.read_keypoints(name).xy - frames.xy
        states.append(state)
        shifts.append(moved.norm(dim=1).numpy())
        octaves.append(frames.scale.log2().round().long().numpy())
    state, shift, octave = (
        np.concatenate(parts) if parts else np.zeros(0) for parts in (states, shifts, octaves)
    )
    is_refined = state == State.REFINED
    is_aligned = is_refined | (state == State.REFUSED)
    levels = [
        LevelCounts(
            2.0 ** int(level),
            int((is_aligned & (octave == level)).sum()),
            int((is_refined & (octave == level)).sum()),
            _median(shift[is_refined & (octave == level)]),
        )
        for level in np.unique(octave[is_aligned])
    ]
    return RefineSummary(
        names=list(names),
        num_keypoints=len(state),
        num_tracks=int((state == State.ROOT).sum()),
        num_in_tracks=int((state != State.NO_TRACK).sum()),
        num_refined=int(is_refined.sum()),
        num_refused=int((state == State.REFUSED).sum()),
        median_shift_px=_median(shift[is_refined]),
        levels=levels,
        **run,
    )


def describe_refinement(summary: RefineSummary, output: Path) -> str:
    """Return what a refinement did in a line for a person."""
    figures = describe_figures(summary.to_report(()))[0]
    left = f", {len(summary.skipped)} left as they were" if summary.skipped else ""
    return (
        f"{figures}; {counted(len(summary.names), 'image')} in {output} "
        f"({summary.num_resumed} were there already{left}), {summary.seconds:.1f} s"
    )


def describe_figures(figures: Mapping[str, Any]) -> list[str]:
    """Return lines for a person about what :meth:`RefineSummary.to_report` returned."""
    shift = figures["median_shift_px"]
    moved = "" if shift is None else f", median shift {shift:.2f} px"
    lines = [
        f"{figures['num_refined']} of {figures['num_in_tracks']} keypoints in "
        f"{counted(figures['num_tracks'], 'track')}, {figures['num_refused']} refused{moved}"
    ]
    if skipped := figures["skipped"]:
        lines.append(f"{counted(len(skipped), 'image')} left as before: {list_names(skipped)}")
    return lines


def _median(values: NDArray[Any]) -> float | None:
    return float(np.median(values)) if len(values) else None
