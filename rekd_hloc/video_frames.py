"""Frames of a video as images: of each short span of time the sharpest one.

Videos are read by PyAV, the extra ``video``. Frames are numbered by their time, so that names sort
in the order in which they were taken, and the same video gives the same names again.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rekd_hloc.files import atomic_write, write_json
from rekd_hloc.json_text import read_json
from rekd_hloc.names import counted, list_names, printable

logger = logging.getLogger(__name__)

REMEDY = 'PyAV is missing: `pip install "rekd-hloc[video]"`'
JPEG_QUALITY = 95
SHARPNESS_SIDE_PX = 640
"""Frames are compared at this size, where noise says less and motion blur still shows."""
STAMP_BYTES = 1 << 20
"""Of a video's beginning that its stamp hashes, beside its length."""


@dataclass(frozen=True)
class VideoFrames:
    """Tell what frames were taken.

    Attributes:
        names: of the images, in the order of time.
        num_new: of them, written now; the others were there.
    """

    names: list[str]
    num_new: int


def take_frames(video: Path, folder: Path, *, fps: float = 2.0) -> VideoFrames:
    """Write the sharpest frame of each ``1 / fps`` seconds of a video into a folder, as JPEG.

    Rotation that the video declares is applied. A run that finds the frames of the same video and
    ``fps`` in the folder takes none again; files that others made there are never replaced.

    Args:
        video: any that FFmpeg reads.
        folder: of images; made if it is not there.
        fps: frames for each second, at most the video's own.

    Raises:
        FileNotFoundError: there is no such video.
        ImportError: PyAV is not installed.
        ValueError: ``fps`` is not positive, or the file is no video that can be read.
        FileExistsError: a file of a frame's name is there and is not of this video.
        OSError: the folder cannot be written, or the disk is full.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    if not video.is_file():
        raise FileNotFoundError(f"no video {printable(video)}")
    record_path = folder / f".{video.name}.frames.json"
    asked = {"video": _stamp(video), "fps": fps}
    stored = _read_record(record_path)
    is_same_video = stored.get("video") == asked["video"]
    known = {str(name) for name in stored.get("made", ())} if is_same_video else set()
    done = [str(name) for name in stored.get("names", ())] if stored.get("fps") == fps else []
    if is_same_video and done and all((folder / name).is_file() for name in done):
        return VideoFrames(done, 0)
    names, num_new = _write_frames(video, folder, fps, known, asked, record_path)
    if not names:
        raise ValueError(f"{printable(video)} holds no frame that can be read; convert it to MP4")
    write_json(record_path, {**asked, "made": sorted(known), "names": names})
    others = [name for name in sorted(known.difference(names)) if (folder / name).is_file()]
    if others:
        logger.warning(
            "%s of a run with another --fps stay in %s: %s; remove them to leave them out",
            counted(len(others), "frame"), printable(folder), list_names(others),
        )  # fmt: skip
    return VideoFrames(names, num_new)


def _write_frames(
    video: Path,
    folder: Path,
    fps: float,
    known: set[str],
    asked: Mapping[str, Any],
    record_path: Path,
) -> tuple[list[str], int]:
    """Return the names of all frames, and how many were written now; ``known`` grows by these."""
    names: list[str] = []
    num_new = 0
    for seconds, pixels in _sharpest(video, fps):
        name = f"{video.stem}_{round(seconds * 1000):08d}.jpg"
        path = folder / name
        names.append(name)
        if not path.exists():
            known.add(name)
            write_json(record_path, {**asked, "made": sorted(known)})  # first: a kill may follow
            with atomic_write(path) as scratch:
                Image.fromarray(pixels).save(scratch, "JPEG", quality=JPEG_QUALITY)
            num_new += 1
        elif name not in known:
            raise FileExistsError(
                f"{printable(path)} is there and is no frame of this video; name an empty folder "
                "for the frames, or remove it"
            )
    return names, num_new


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Return how sharp an image is: the variance of its Laplacian, at one size for all."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    factor = SHARPNESS_SIDE_PX / max(grey.shape)
    if factor < 1:
        grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _sharpest(video: Path, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield time in seconds and pixels of the sharpest frame of each span."""
    span, best, kept = -1, -1.0, None
    for seconds, pixels in _decode(video):
        # a frame's time as a float may lie just before the span that it begins
        number, sharp = int(seconds * fps + 1e-6), sharpness(pixels)
        if number != span:
            if kept is not None:
                yield kept
            span, best, kept = number, -1.0, None
        if sharp > best:
            best, kept = sharp, (seconds, pixels)
    if kept is not None:
        yield kept


def _decode(video: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"cannot read the video {printable(video)}: {REMEDY}") from error
    number = 0
    try:
        with av.open(str(video)) as container:
            for frame in container.decode(container.streams.video[0]):
                seconds = frame.time if frame.time is not None else number / 30
                yield float(seconds), _upright(frame)
                number += 1
    except (av.error.FFmpegError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if number:
            logger.warning(
                "%s is damaged after %s: %s", printable(video), counted(number, "frame"), reason
            )
            return
        raise ValueError(
            f"cannot read the video {printable(video)}: {reason}; convert it to MP4"
        ) from error


def _upright(frame: Any) -> NDArray[np.uint8]:
    """Return a frame as players show it; phones record how they were held beside the pixels."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _stamp(video: Path) -> str:
    with video.open("rb") as file:
        head = file.read(STAMP_BYTES)
    return f"{video.stat().st_size} {hashlib.sha256(head).hexdigest()[:16]}"


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}
