"""Photos that are left out: where a user reads of them, and how a command ends."""

import json
import os
import re
import shutil
import sys

import cv2
import pytest

from rekd_hloc import images
from rekd_hloc.cli.main import main
from rekd_hloc.cli.options import EXIT_FAILED, EXIT_LEFT_OUT, EXIT_MISTAKE
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.names import printable
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.image_folder import check_still_there
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import format_report
from rekd_hloc.sfm.skipped import NUM_NAMED, shorten_skipped
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.viz.page import write_html_report
from tests.helpers import textured_image
from tests.sift_extractor import SiftExtractor

LEFT_OUT = ["IMG_1.dng", "<b>bold & odd.nef", "new\nline.mp4", "pipe.jpg", "gone.png"]


def write_photos(folder, names=("a.png", "b.png", "sub/c.png"), size=(72, 96)):
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), textured_image(*size, seed))
    return folder


def add_others(folder):
    for name in LEFT_OUT[:3]:
        (folder / name).write_bytes(b"not read")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    if sys.platform == "win32":
        pytest.skip("no pipes")
    return add_others(write_photos(tmp_path / "photos"))


@pytest.fixture
def sift(monkeypatch):
    """The program extracts by SIFT, which is quick."""
    monkeypatch.setattr(Extractor, "from_pretrained", lambda *args, **kwargs: SiftExtractor(50))


def run(*arguments):
    return main([*map(str, arguments), "--conf", "rekd-fast", "--device", "cpu", "--quiet"])


def test_extract_names_them_in_its_summary_and_its_json(photos, tmp_path, sift, capsys):
    assert run("extract", photos, tmp_path / "f.h5", "--json") == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["names"] == ["a.png", "b.png", "sub/c.png"]
    assert sorted(record["skipped"]) == sorted(LEFT_OUT)
    lines = [line for line in shown.err.splitlines() if line.startswith("skipped ")]
    assert len(lines) == len(LEFT_OUT)
    assert r"skipped 'new\nline.mp4': a video: take frames" in shown.err


def test_reconstruct_names_them_in_the_report_and_on_the_page(photos, tmp_path):
    report = reconstruct(photos, tmp_path / "out", extractor=SiftExtractor(50), device="cpu")
    assert sorted(report["skipped"]) == sorted(LEFT_OUT)
    assert report["num_images"] == 3  # those that could be read
    assert json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]
    text = format_report({**report, "diagnosis": "see 'a\nb.jpg'"})
    assert r"see 'a\nb.jpg'" in text
    assert "skipped       IMG_1.dng: camera raw" in text
    page = write_html_report(tmp_path / "out", photos, title="x").read_text(encoding="utf-8")
    assert "&lt;b&gt;bold &amp; odd.nef" in page
    assert "<b>bold" not in page
    assert re.search(r"Photos left out</td>\s*<td[^>]*>5<", page)
    assert "a pipe, not a file" in page


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_a_name_that_is_no_unicode_is_in_the_report_and_on_the_page(photos, tmp_path):
    odd = os.fsdecode(b"caf\xe9.jpg")
    (photos / odd).touch()
    report = reconstruct(photos, tmp_path / "out", extractor=SiftExtractor(50), device="cpu")
    assert odd in report["skipped"]
    format_report(report).encode()
    page = write_html_report(tmp_path / "out", photos, title="x").read_text(encoding="utf-8")
    assert r"caf\udce9.jpg" in page


@pytest.mark.parametrize(
    ("others", "status"), [(True, EXIT_LEFT_OUT), (False, 0)], ids=["some", "none"]
)
def test_strict_ends_with_a_status_of_its_own(others, status, tmp_path, sift, capsys):
    photos = write_photos(tmp_path / "photos")
    if others:
        (photos / "d.CR2").touch()
        (photos / "e.jpg").touch()
    assert run("extract", photos, tmp_path / "f.h5", "--strict") == status
    last = capsys.readouterr().err.splitlines()[-1:]
    if others:
        assert last == [
            "rekd-hloc: finished, but 2 photos were left out; see above; "
            "--json lists all under skipped"
        ]
        assert run("extract", photos, tmp_path / "f.h5") == 0
        (photos / "a.png").unlink()
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.names() == ["a.png", "b.png", "sub/c.png"]


def test_strict_reconstruction(photos, tmp_path, monkeypatch, capsys):
    from rekd_hloc.sfm import reconstruct as module

    report = reconstruct(photos, tmp_path / "out", extractor=SiftExtractor(50), device="cpu")
    report["num_registered"] = 3
    monkeypatch.setattr(module, "reconstruct", lambda *args, **kwargs: report)
    assert run("reconstruct", photos, tmp_path / "out") == 0
    assert run("reconstruct", photos, tmp_path / "out", "--strict") == EXIT_LEFT_OUT
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rekd-hloc: finished, but 5 photos were left out; ")
    assert str(tmp_path / "out" / "report.json") in last
    report["num_registered"] = 0  # nothing came out: that counts more
    assert run("reconstruct", photos, tmp_path / "out", "--strict") == EXIT_FAILED


def test_the_help_tells_the_statuses(capsys):
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 with --strict if photos were left out" in shown


def test_many_of_one_kind_are_counted():
    skipped = {f"IMG_{n:02}.HEIC": f"IMG_{n:02}.HEIC is HEIC" for n in range(40)}
    skipped |= {f"b{n}.mov": f"b{n}.mov is a video" for n in range(NUM_NAMED + 1)}
    skipped |= {f"c{n}.jpg": f"cannot read /x/c{n}.jpg: no {n % 2}" for n in range(20)}
    lines = shorten_skipped(skipped, "report.json lists all")
    assert len(lines) == (NUM_NAMED + 1) * 4
    assert lines[:2] == [(f"IMG_0{n}.HEIC", "HEIC") for n in range(2)]
    assert lines[NUM_NAMED] == (
        "and 37 more .HEIC files",
        "for the same reason; " + "report.json lists all",
    )
    assert [name for name, _ in lines if name.startswith("and")][1:] == [
        "and 7 more .jpg files"
    ] * 2


@pytest.mark.parametrize("name", ["b.png", "new\nline.png"])
def test_a_photo_that_may_not_be_read_is_named_with_the_remedy(name, tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", ["a.png", name])

    def refuse(path, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return decode(path, **options)

    decode = images.decode
    monkeypatch.setattr(images, "decode", refuse)
    summary = extract_images(SiftExtractor(50), photos, tmp_path / "f.h5")
    assert summary.names == ["a.png"]
    shown = printable(photos / name)
    assert summary.skipped[name] == f"cannot read {shown}: Permission denied; make it readable"


class Vanishing(SiftExtractor):
    """Something happens to the folder after some images."""

    def __init__(self, after, happens):
        super().__init__(50, num_readers=1)
        self.after, self.happens = after, happens

    def __call__(self, image, mask=None):
        if len(self.seen) == self.after:
            self.happens()
        return super().__call__(image, mask)


@pytest.mark.parametrize("after", [1, 9])
def test_a_folder_that_vanishes_ends_the_run_and_what_is_done_stays(after, tmp_path):
    names = [f"{n:02}.png" for n in range(12)]
    photos, aside, out = write_photos(tmp_path / "p", names), tmp_path / "q", tmp_path / "f.h5"
    with pytest.raises(FileNotFoundError) as caught:
        extract_images(Vanishing(after, lambda: photos.rename(aside)), photos, out)
    message = str(caught.value)
    assert "12 of 12 images" in message
    for part in (str(photos), str(out), "the same command"):
        assert part in message
    with FeatureStore(out) as store:
        done = store.names()
    assert after < len(done) < 12
    aside.rename(photos)
    summary = extract_images(SiftExtractor(50), photos, out)
    assert (summary.names, summary.num_resumed) == (names, len(done))


def test_a_linked_folder_of_most_photos_that_vanishes_ends_the_run(tmp_path):
    photos = write_photos(tmp_path / "photos", ["a.png", "b.png"])
    disk = write_photos(tmp_path / "disk", [f"{n}.png" for n in range(5)])
    (photos / "z").symlink_to(disk)
    with pytest.raises(FileNotFoundError, match=r"5 of 7 images in .*photos/z have gone"):
        extract_images(Vanishing(2, lambda: shutil.rmtree(disk)), photos, tmp_path / "f.h5")


def test_an_unmounted_folder_is_there_and_empty(tmp_path):
    photos = write_photos(tmp_path / "photos", [f"{n}.png" for n in range(6)])

    def unmount():
        for path in photos.iterdir():
            path.unlink()

    with pytest.raises(FileNotFoundError, match="6 of 6 images"):
        extract_images(Vanishing(2, unmount), photos, tmp_path / "f.h5")


def test_a_photo_that_was_deleted_meanwhile_is_skipped(tmp_path):
    photos = write_photos(tmp_path / "photos", [f"{n}.png" for n in range(6)])
    extractor = Vanishing(1, lambda: (photos / "5.png").unlink())
    summary = extract_images(extractor, photos, tmp_path / "f.h5")
    assert list(summary.skipped) == ["5.png"]


def test_images_that_go_while_they_are_matched_end_the_run(tmp_path, monkeypatch, sift, capsys):
    from rekd_hloc.sfm import reconstruct as module

    photos = write_photos(tmp_path / "photos")
    match = module.match_images

    def match_and_remove(*args, **kwargs):
        shutil.rmtree(photos)
        return match(*args, **kwargs)

    monkeypatch.setattr(module, "match_images", match_and_remove)
    assert run("reconstruct", photos, tmp_path / "out") == EXIT_MISTAKE
    assert "3 of 3 images" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.json").exists()
    assert (tmp_path / "out" / "matches.h5").exists()


def test_errors_of_the_system_mean_that_an_image_is_not_there(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos")
    paths = [photos / name for name in ("a.png", "b.png", "sub/c.png")]
    check_still_there(paths, tmp_path)

    def fail(self, **kwargs):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(type(photos), "stat", fail)
    with pytest.raises(FileNotFoundError, match="3 of 3 images"):
        check_still_there(paths, tmp_path)
