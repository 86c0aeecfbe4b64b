import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from rekd_hloc.sfm import image_work
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.image_folder import find_images, find_mask
from rekd_hloc.sfm.image_work import ImageExtractor
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import ROOT, textured_image
from tests.sift_extractor import SiftExtractor

SIZE = (96, 72)


def write_images(folder, names, size=SIZE):
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), textured_image(size[1], size[0], seed=index))
    return folder


def write_mask(path, size=SIZE, first_column=0):
    """White, but black left of a column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.full(size[::-1], 255, np.uint8)
    mask[:, :first_column] = 0
    assert cv2.imwrite(str(path), mask)


class Failing(SiftExtractor):
    """Fails at the image of that number."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def __call__(self, image, mask=None):
        if len(self.seen) == self.at:
            self.seen.append(None)
            raise self.error
        return super().__call__(image, mask)


def test_an_extractor_has_a_provenance_and_can_be_called():
    assert isinstance(SiftExtractor(), ImageExtractor)
    assert not isinstance(lambda image: image, ImageExtractor)


def test_all_images_of_a_folder_are_in_the_file_in_order(tmp_path):
    names = ["a b.png", "b.jpg", "sub/a b.png", "sub/ü/ß.tif"]
    write_images(tmp_path / "in", names)
    out = tmp_path / "new" / "features.h5"
    summary = extract_images(SiftExtractor(), tmp_path / "in", out)
    assert summary.names == list(summary.num_keypoints) == names
    assert summary.skipped == {}
    assert summary.num_resumed == 0
    assert summary.seconds > 0
    with FeatureStore(out) as store:
        assert store.names() == names
        assert store.provenance == {"method": "sift"}
        for name in names:
            features = store.read(name)
            assert len(features) == summary.num_keypoints[name] > 10
            assert features.image_size == SIZE


def test_files_that_are_no_images_are_skipped_with_the_reason(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "z.png"])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("I am a photo")
    whole = (folder / "a.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no image, and not counted as one")
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert summary.names == ["a.png", "z.png"]
    assert sorted(summary.skipped) == ["empty.png", "half.png", "text.jpg"]
    assert "the file is empty" in summary.skipped["empty.png"]
    assert all(str(folder / name) in reason for name, reason in summary.skipped.items())
    (folder / "empty.png").write_bytes(whole)
    again = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert again.names == ["a.png", "empty.png", "z.png"]
    assert again.num_resumed == 2


def test_a_folder_without_any_readable_image_gives_an_empty_file(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    summary = extract_images(SiftExtractor(), tmp_path / "in", tmp_path / "f.h5")
    assert summary.names == []
    assert list(summary.skipped) == ["a.png"]
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == []


@pytest.mark.parametrize("size", [(1, 1), (2000, 3)])
def test_images_too_small_for_a_keypoint_have_none(tmp_path, size):
    folder = write_images(tmp_path / "in", ["a.png"], size)
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert summary.num_keypoints == {"a.png": 0}
    with FeatureStore(tmp_path / "f.h5") as store:
        assert len(store.read("a.png")) == 0


def test_images_in_the_file_are_not_extracted_again(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "c.png"])
    extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    write_images(folder, ["b.png"])
    extractor = SiftExtractor()
    summary = extract_images(extractor, folder, tmp_path / "f.h5")
    assert len(extractor.seen) == 1
    assert summary.names == ["a.png", "b.png", "c.png"]
    assert summary.num_resumed == 2
    assert all(count > 10 for count in summary.num_keypoints.values())
    extractor = SiftExtractor()
    summary = extract_images(extractor, folder, tmp_path / "f.h5", overwrite=True)
    assert len(extractor.seen) == 3
    assert summary.num_resumed == 0


def test_a_file_made_otherwise_is_refused_and_kept(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png"])
    out = tmp_path / "f.h5"
    extract_images(SiftExtractor(), folder, out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="method sift in .*, other now.*overwrite"):
        extract_images(SiftExtractor(method="other"), folder, out)
    assert out.read_bytes() == before


def test_only_the_named_images_are_taken_each_once(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "b.png", "c.png"])
    names = ["c.png", "a.png", "c.png"]
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5", names=names)
    assert summary.names == ["c.png", "a.png"]
    with pytest.raises(FileNotFoundError, match="1 of 2 images are not in .*'d.png'"):
        extract_images(SiftExtractor(), folder, tmp_path / "f.h5", names=["a.png", "d.png"])


def test_folders_that_are_not_there_are_named(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png"])
    out = tmp_path / "f.h5"
    for names in (None, ["a.png"]):
        with pytest.raises(FileNotFoundError, match="no image folder .*nowhere"):
            extract_images(SiftExtractor(), tmp_path / "nowhere", out, names=names)
    with pytest.raises(FileNotFoundError, match="no mask folder .*nowhere"):
        extract_images(SiftExtractor(), folder, out, mask_dir=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image"):
        extract_images(SiftExtractor(), tmp_path / "empty", out)
    assert not out.exists()


def test_masks_reach_the_extractor_true_where_usable(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "sub/b.jpg"])
    write_mask(tmp_path / "masks" / "a.png.png", first_column=40)
    write_mask(tmp_path / "masks" / "a.png", first_column=10)  # the full name goes before it
    write_mask(tmp_path / "masks" / "sub" / "b.png", first_column=50)
    extractor = SiftExtractor()
    out = tmp_path / "f.h5"
    summary = extract_images(extractor, folder, out, mask_dir=tmp_path / "masks")
    assert summary.skipped == {}
    for mask, first in zip(extractor.seen, (40, 50), strict=True):
        assert mask.dtype == bool
        assert mask.shape == SIZE[::-1]
        assert np.array_equal(mask.all(axis=0), np.arange(SIZE[0]) >= first)
        assert not mask[:, :first].any()
    with FeatureStore(out) as store:
        assert store.attributes("a.png")["mask_stamp"] != "none"
        assert store.read("a.png").keypoints.xy[:, 0].min() > 38


def test_an_image_whose_mask_does_not_fit_is_skipped_with_both_names(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "b.png", "c.png", "d.png"])
    masks = tmp_path / "masks"
    write_mask(masks / "a.png.png", (SIZE[1], SIZE[0]))
    (masks / "c.png.png").write_bytes(b"damaged")
    write_mask(masks / "d.png.png")
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5", mask_dir=masks)
    assert summary.names == ["d.png"]
    reason = summary.skipped["a.png"]
    for part in (str(masks / "a.png.png"), str(folder / "a.png"), "72x96", "96x72"):
        assert part in reason
    assert f"no mask {masks / 'b.png.png'}" in summary.skipped["b.png"]
    assert str(masks / "c.png.png") in summary.skipped["c.png"]


def test_masks_are_where_colmap_looks_for_them(tmp_path):
    for name in ("a.jpg.png", "b.png", "c.png.png", "c.png"):
        write_mask(tmp_path / name)
    assert find_mask(tmp_path, "a.jpg").name == "a.jpg.png"
    assert find_mask(tmp_path, "b.jpg").name == "b.png"
    assert find_mask(tmp_path, "b.png").name == "b.png"
    assert find_mask(tmp_path, "c.png").name == "c.png.png"
    assert find_mask(tmp_path, "d.jpg").name == "d.jpg.png"


def test_masks_and_results_inside_the_image_folder_are_no_images(tmp_path):
    images = write_images(tmp_path, ["a.jpg", "b.png", "sub/a.png"])
    write_images(tmp_path, ["out/report/a.png", "masks/a.jpg.png", "outside.png"])
    found = find_images(images, mask_dir=images / "masks", output=images / "out").images
    assert found == ["a.jpg", "b.png", "outside.png", "sub/a.png"]
    write_images(tmp_path, ["a.jpg.png", "b.png.png"])
    beside = find_images(images, mask_dir=images, output=images / "out").images
    assert {"a.jpg.png", "b.png.png"} & set(beside) == set()
    assert {"a.jpg", "b.png"} <= set(beside)
    assert find_images(tmp_path / "sub", output=tmp_path).images == ["a.png"]
    with pytest.raises(ValueError, match="holds no image"):
        find_images(tmp_path / "out", output=tmp_path / "out" / "report")


@pytest.mark.parametrize("error", [RuntimeError("network"), KeyboardInterrupt()])
def test_what_is_finished_is_kept_when_a_run_ends_early(tmp_path, error):
    names = ["a.png", "b.png", "c.png", "d.png"]
    folder = write_images(tmp_path / "in", names)
    with pytest.raises(type(error)):
        extract_images(Failing(2, error), folder, tmp_path / "f.h5")
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == names[:2]
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert summary.num_resumed == 2
    assert summary.names == names


KILLED = """
import os, signal, sys
from pathlib import Path
from rekd_hloc.sfm.extraction import extract_images
from tests.sift_extractor import SiftExtractor

class Killed(SiftExtractor):
    def __call__(self, image, mask=None):
        if len(self.seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, mask)

extract_images(Killed(), Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "b.png", "c.png"])
    out = tmp_path / "f.h5"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(out)], cwd=ROOT, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    extractor = SiftExtractor()
    summary = extract_images(extractor, folder, out)
    assert summary.num_resumed == 2
    assert len(extractor.seen) == 1
    with FeatureStore(out) as store:
        assert store.names() == ["a.png", "b.png", "c.png"]


@contextlib.contextmanager
def largest_file(num_bytes):
    """Writing beyond that size fails, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_loses_nothing(tmp_path):
    names = [f"{index}.png" for index in range(6)]
    folder = write_images(tmp_path / "in", names, (320, 240))
    out = tmp_path / "f.h5"
    with largest_file(1_000_000), pytest.raises(OSError, match="no space left for .*free some"):
        extract_images(SiftExtractor(), folder, out)
    summary = extract_images(SiftExtractor(), folder, out)
    assert 1 <= summary.num_resumed < 6
    assert summary.names == names


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png"])
    (tmp_path / "file").touch()
    extractor = SiftExtractor()
    with pytest.raises(OSError, match="cannot write .*file"):
        extract_images(extractor, folder, tmp_path / "file" / "f.h5")
    assert extractor.seen == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root"
)
def test_a_read_only_folder_and_image_are_named(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png", "b.png"])
    (folder / "a.png").chmod(0)
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert list(summary.skipped) == ["a.png"]
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="locked"):
        extract_images(SiftExtractor(), folder, tmp_path / "locked" / "f.h5")


@pytest.mark.parametrize("num_readers", [1, 3])
def test_the_next_images_are_read_while_one_is_extracted(tmp_path, monkeypatch, num_readers):
    names = ["a.png", "b.png", "c.png", "d.png"]
    folder = write_images(tmp_path / "in", names)
    is_read = {name: threading.Event() for name in names}
    load_image = image_work.load_image

    def load_and_tell(path, **options):
        image = load_image(path, **options)
        is_read[path.name].set()
        return image

    class Waiting(SiftExtractor):
        def __call__(self, image, mask=None):
            ahead = names[len(self.seen) + 1 : len(self.seen) + 1 + num_readers]
            assert all(is_read[name].wait(timeout=60) for name in ahead)
            return super().__call__(image, mask)

    monkeypatch.setattr(image_work, "load_image", load_and_tell)
    summary = extract_images(Waiting(num_readers=num_readers), folder, tmp_path / "f.h5")
    assert summary.names == names


def test_a_file_that_vanishes_meanwhile_is_skipped(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "in", ["a.png", "b.png"])
    load_image = image_work.load_image

    def load_and_remove(path, **options):
        (folder / "b.png").unlink(missing_ok=True)
        return load_image(path, **options)

    monkeypatch.setattr(image_work, "load_image", load_and_remove)
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert summary.names == ["a.png"]
    assert "b.png" in summary.skipped["b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_a_name_that_is_no_unicode_is_skipped(tmp_path):
    folder = write_images(tmp_path / "in", ["a.png"])
    odd = os.fsdecode(b"b\xff.png")
    Path(folder / odd).write_bytes((folder / "a.png").read_bytes())
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5", names=["a.png", odd])
    assert summary.names == ["a.png"]
    assert "rename" in summary.skipped[odd]
