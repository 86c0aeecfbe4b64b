"""Videos as photos: the command frames, and what --video of other commands does."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc.cli.options import Fps, Json, print_result


def frames(
    video: Annotated[Path, typer.Argument(help="Video of any kind that FFmpeg reads.")],
    images: Annotated[Path, typer.Argument(help="Folder to write the frames into.")],
    fps: Fps = 2.0,
    json_output: Json = False,
) -> None:
    """Take the sharpest frames of a video as photos. Needs the extra video."""
    from rekd_hloc.video_frames import take_frames

    taken = take_frames(video, images, fps=fps)
    text = f"{len(taken.names)} frames of {video.name} in {images}, {taken.num_new} of them new"
    print_result(json_output, asdict(taken), text)


def take_video(video: Path | None, images: Path, fps: float) -> None:
    """Take the frames of a video, if there is one, into the folder of photos."""
    if video is None:
        return
    from rekd_hloc.video_frames import take_frames

    taken = take_frames(video, images, fps=fps)
    number = f"{len(taken.names)} frames of {video.name}, {taken.num_new} of them new"
    typer.echo(f"{number}; --pairs sequential+loops matches those of a long video", err=True)
