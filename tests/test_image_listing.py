import logging
import os
import socket
import sys

import pytest

from rekd_hloc import image_kinds, image_listing
from rekd_hloc.image_kinds import RAW_SUFFIXES, VIDEO_SUFFIXES, explain_content, is_image
from rekd_hloc.image_listing import list_folder, list_images
from rekd_hloc.names import one_line, printable

linux = pytest.mark.skipif(sys.platform != "linux", reason="links, pipes and names of any bytes")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def no_heif(monkeypatch):
    """An installation without pillow-heif and rawpy."""
    monkeypatch.setattr(image_kinds, "register_heif", lambda: False)
    monkeypatch.setattr(image_kinds, "can_read_raw", lambda: False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("IMG_1.HEIC", ["HEIC", 'pip install "rekd-hloc[heif]"', "convert"]),
        ("a.heif", ["rekd-hloc[heif]"]),
        ("sub/DSC.NEF", ["raw", "JPEG", "darktable"]),
        ("a.dng", ["raw", "RawTherapee"]),
        ("a.Cr3", ["raw"]),
        ("a.jxl", ["JPEG XL", "djxl"]),
        ("a.exr", ["floating-point", "TIFF"]),
        ("depth.pfm", ["floating-point"]),
        ("a.psd", ["layers", "export"]),
        ("GOPR1.MP4", ["video", "rekd-hloc frames"]),
        ("b.mov", ["video"]),
    ],
)
def test_what_looks_like_a_photo_is_named_with_the_remedy(name, words, no_heif, tmp_path):
    listing = list_folder(touch(tmp_path, "good.jpg", name))
    assert listing.images == ["good.jpg"]
    assert list(listing.unused) == [name]
    for word in (name, *words):
        assert word in listing.unused[name]
    assert len(listing.unused[name].splitlines()) == 1


def test_other_files_are_no_photos(tmp_path):
    names = ["notes.txt", "logo.svg", "Thumbs.db", "list.json", "a.jpg.bak", "README", "sub/x.ply"]
    listing = list_folder(touch(tmp_path, "good.jpg", *names))
    assert (listing.images, listing.unused) == (["good.jpg"], {})


def test_kinds_do_not_overlap():
    assert not (image_kinds.SUFFIXES & (RAW_SUFFIXES | VIDEO_SUFFIXES | image_kinds.HEIF_SUFFIXES))
    assert not (image_kinds.SUFFIXES & image_kinds.UNUSED.keys())
    assert is_image("A.PBM")


def test_avif_is_an_image_only_where_pillow_reads_it(tmp_path, monkeypatch):
    touch(tmp_path, "a.avif", "b.jpg")
    monkeypatch.setattr(image_kinds.features, "check", lambda name: name == "avif")
    assert list_folder(tmp_path).images == ["a.avif", "b.jpg"]
    monkeypatch.setattr(image_kinds.features, "check", lambda name: False)
    assert "pip install -U pillow" in list_folder(tmp_path).unused["a.avif"]


@pytest.mark.parametrize(("brand", "word"), [("heic", "HEIC"), ("mif1", "HEIC"), ("avif", "AVIF")])
def test_the_content_tells_heic_whatever_the_name(brand, word):
    assert word in explain_content(b"\0\0\0\x18ftyp" + brand.encode() + b"\0\0\0\0")
    assert explain_content(b"\0\0\0\x18ftypisom\0\0\0\0") is None
    assert explain_content(b"\xff\xd8\xff\xe0 JFIF") is None


@linux
def test_linked_folders_are_read_and_cycles_end(tmp_path):
    images = touch(tmp_path / "images", "a.jpg", "real/b.jpg")
    other = touch(tmp_path / "other disk", "c.jpg", "deep/d.jpg")
    (images / "day 2").symlink_to(other)
    (images / "file.jpg").symlink_to(other / "c.jpg")
    (other / "back").symlink_to(images)
    (other / "self").symlink_to(other)
    (images / "real" / "up").symlink_to(images)
    listing = list_folder(images)
    assert listing.images == ["a.jpg", "day 2/c.jpg", "day 2/deep/d.jpg", "file.jpg", "real/b.jpg"]
    assert listing.unused == {}


@linux
def test_a_folder_of_two_names_is_read_once_by_its_own_name(tmp_path):
    images = touch(tmp_path / "images", "z/a.jpg", "z/y/b.jpg")
    for link, target in (("a", "z"), ("b", "z/y"), ("z/y/c", "z")):
        (images / link).symlink_to(images / target)
    assert list_folder(images).images == ["z/a.jpg", "z/y/b.jpg"]
    other = touch(tmp_path / "other", "e.jpg")
    (images / "m").symlink_to(other)
    (images / "n").symlink_to(other)
    assert list_folder(images).images == ["m/e.jpg", "z/a.jpg", "z/y/b.jpg"]


@linux
def test_a_link_to_a_folder_above_is_named_and_not_followed(tmp_path):
    images = touch(tmp_path / "project" / "images", "a.jpg")
    touch(tmp_path / "project", "other/b.jpg")
    (images / "all").symlink_to(tmp_path / "project")
    (images / "root").symlink_to("/")
    listing = list_folder(images)
    assert listing.images == ["a.jpg"]
    assert sorted(listing.unused) == ["all", "root"]
    assert "holds this one" in listing.unused["all"]


@linux
def test_folders_to_leave_out_are_left_out_under_any_name(tmp_path):
    images = touch(tmp_path / "images", "a.jpg", "out/plots/b.png")
    elsewhere = touch(tmp_path / "elsewhere", "masks/a.jpg.png", "c.jpg")
    (images / "link").symlink_to(elsewhere)
    listing = list_folder(images, leave_out=(images / "out", elsewhere / "masks", None))
    assert listing.images == ["a.jpg", "link/c.jpg"]
    assert list_folder(images, leave_out=(images,)).images[0] == "a.jpg"


@linux
def test_pipes_sockets_and_links_to_nothing_are_named_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    images = touch(tmp_path / "images", "good.jpg", "secret.txt")
    os.mkfifo(images / "pipe.jpg")
    os.mkfifo(images / "pipe.txt")
    (images / "device.png").symlink_to("/dev/zero")
    (images / "tail.jpg").symlink_to(images / "tail.jpg")
    (images / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (images / "unmounted").symlink_to("/mnt/no such disk")
    (images / "2026.11").symlink_to("/mnt/no such disk")
    (images / "notes.txt").symlink_to("/mnt/no such notes.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("images/socket.jpg")
        listing = list_folder(images)
    assert listing.images == ["good.jpg"]
    words = {
        "2026.11": "/mnt/no such disk, which is not there; restore",
        "dangling.jpg": "a link to",
        "device.png": "a device",
        "pipe.jpg": "a pipe",
        "socket.jpg": "a socket",
        "tail.jpg": "which cannot be read: Too many levels",
        "unmounted": "/mnt/no such disk",
    }
    assert list(listing.unused) == list(words)
    for name, word in words.items():
        assert listing.unused[name].startswith(f"{name} is ")
        assert word in listing.unused[name]


def test_folders_called_like_images_are_folders(tmp_path):
    touch(tmp_path, "a.jpg/b.png", "c.png/notes.txt", "d.tif/e/f.heic")
    listing = list_folder(tmp_path)
    assert "a.jpg/b.png" in listing.images
    assert "a folder without images" in listing.unused["c.png"]
    assert not {"a.jpg", "d.tif"} & listing.unused.keys()


def test_only_one_dot_hides(tmp_path):
    hidden = [".DS_Store", "._a.jpg", ".thumbnails/a.jpg", "sub/.b.heic", "__MACOSX/._a.jpg"]
    touch(tmp_path, "..a.jpg", "..sub/b.jpg", "...c.JPG", *hidden)
    listing = list_folder(tmp_path)
    assert listing.images == ["...c.JPG", "..a.jpg", "..sub/b.jpg"]
    assert listing.unused == {}


def test_a_subfolder_that_cannot_be_searched_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "closed/b.jpg", "open/c.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(image_listing.os, "scandir", refuse)
    listing = list_folder(tmp_path)
    assert listing.images == ["a.jpg", "open/c.jpg"]
    assert list(listing.unused) == ["closed"]
    for word in ("cannot be searched", "Permission denied", "make it readable"):
        assert word in listing.unused["closed"]
    with pytest.raises(PermissionError, match=r"folder .*closed: Permission denied; make"):
        list_folder(tmp_path / "closed")


@linux
def test_a_subfolder_whose_names_alone_can_be_read_is_named(tmp_path, monkeypatch):
    """Mode r-- lets a folder be listed, but none of its files be reached."""
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    stat = os.stat

    def refuse(path, *args, **kwargs):
        if os.fspath(path).endswith(("closed/..", "closed/b.jpg")):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(image_listing.os, "stat", refuse)
    listing = list_folder(tmp_path)
    assert listing.images == ["a.jpg"]
    assert "make it readable" in listing.unused["closed"]


@linux
@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"\xff/a.jpg", b"\xc3.heic"])
def test_names_that_are_no_unicode_are_shown_with_escapes(name, tmp_path):
    odd = os.fsdecode(name)
    listing = list_folder(touch(tmp_path, "a.jpg", odd))
    assert listing.images == ["a.jpg"]
    assert list(listing.unused) == [odd]
    assert "rename" in listing.unused[odd]
    listing.unused[odd].encode()


def test_a_folder_without_images_says_what_is_there_instead(no_heif, tmp_path):
    touch(tmp_path, "b.HEIC", "a.HEIC", "notes.txt")
    with pytest.raises(ValueError, match=r"no image .* 2 files are left out.*a\.HEIC.*rekd-hloc"):
        list_images(tmp_path)


def test_names_only_come_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert list_images(touch(tmp_path, "b.jpg", "a.jpg")) == ["a.jpg", "b.jpg"]
        assert caplog.text == ""
        list_images(touch(tmp_path, "c.mp4"))
    assert f"{tmp_path}: 1 file is left out" in caplog.text
    assert "rekd-hloc frames" in caplog.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name, 写真\u3000é.jpg", "plain name, 写真\u3000é.jpg"),
        ("new\nline.jpg", r"'new\nline.jpg'"),
        ("\x1b[31mred.jpg", r"'\x1b[31mred.jpg'"),
        ("a\u2028b.jpg", r"'a\u2028b.jpg'"),
        ("caf\udce9.jpg", r"'caf\udce9.jpg'"),
    ],
)
def test_names_are_shown_on_one_line(name, shown):
    assert printable(name) == shown
    assert one_line(f"x {name}") == f"x {shown.strip(chr(39))}"
