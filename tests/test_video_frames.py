"""Frames of a video: the sharpest of each span, upright, and never over files of others."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from rekd_hloc.cli.main import main
from rekd_hloc.video_frames import sharpness, take_frames
from tests.helpers import textured_image

FPS, NUM_FRAMES = 10, 20


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two seconds of blurred frames, of which the 4th of each second is sharp."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    texture = textured_image(64, 96)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height = 96, 64
        stream.bit_rate = 4_000_000
        for number in range(NUM_FRAMES):
            grey = texture if number % FPS == 3 else cv2.GaussianBlur(texture, (0, 0), 4)
            frame = av.VideoFrame.from_ndarray(np.stack([grey] * 3, axis=2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_the_sharpest_frame_of_each_span(video, tmp_path):
    taken = take_frames(video, tmp_path, fps=1)
    assert taken.names == ["walk_00000300.jpg", "walk_00001300.jpg"]
    assert taken.num_new == 2
    with Image.open(tmp_path / taken.names[0]) as image:
        assert image.size == (96, 64)
    before = (tmp_path / taken.names[0]).stat().st_mtime_ns
    assert take_frames(video, tmp_path, fps=1).num_new == 0
    assert (tmp_path / taken.names[0]).stat().st_mtime_ns == before


def test_other_rates_and_missing_frames(video, tmp_path, caplog):
    take_frames(video, tmp_path, fps=1)
    (tmp_path / "walk_00001300.jpg").unlink()
    assert take_frames(video, tmp_path, fps=1).num_new == 1
    taken = take_frames(video, tmp_path, fps=2)
    assert (len(taken.names), taken.num_new) == (4, 2)
    assert "stay in" not in caplog.text
    take_frames(video, tmp_path, fps=1)
    assert take_frames(video, tmp_path, fps=2).num_new == 0
    assert "2 frames of a run with another --fps stay in" in caplog.text


def test_files_of_others_stay(video, tmp_path):
    other = tmp_path / "walk_00000300.jpg"
    other.write_text("mine")
    with pytest.raises(FileExistsError, match="is no frame of this video; name an empty folder"):
        take_frames(video, tmp_path, fps=1)
    assert other.read_text() == "mine"


def test_mistakes_are_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match="no video .*nothing.mp4"):
        take_frames(tmp_path / "nothing.mp4", tmp_path)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(ValueError, match="fps must be positive and finite, got 0"):
        take_frames(text, tmp_path, fps=0)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["frames", str(text), str(tmp_path / "photos")]) != 0
    assert 'pip install "rekd-hloc[video]"' in capsys.readouterr().err
    assert not (tmp_path / "photos").exists()


def test_what_is_no_video(tmp_path):
    pytest.importorskip("av")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(
        ValueError, match=r"cannot read the video .*text.mp4: .*; convert it to MP4"
    ):
        take_frames(text, tmp_path / "photos")


def test_sharpness_falls_with_blur():
    texture = np.stack([textured_image(64, 64)] * 3, axis=2)
    blurred = cv2.GaussianBlur(texture, (0, 0), 3)
    assert sharpness(texture) > 4 * sharpness(blurred)
