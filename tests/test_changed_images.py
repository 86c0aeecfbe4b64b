"""Images and masks that change between two runs, or while one lasts, are never passed over."""

import json
import os
import shutil
import types

import cv2
import h5py
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.config import MatchConfig
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm import image_work
from rekd_hloc.sfm.changed_images import describe_changes
from rekd_hloc.sfm.database import export_database
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.storage.stamps import FileStamp, SourceStamps
from tests.helpers import textured_image
from tests.sift_extractor import SiftExtractor

NAMES = ["a.png", "b.png", "sub/c.png"]
PAIRS = [("a.png", "b.png"), ("a.png", "sub/c.png"), ("sub/c.png", "b.png")]
ANY = MatchConfig(filter="none")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def half_mask(is_left):
    mask = np.zeros((72, 96), np.uint8)
    mask[:, slice(0, 48) if is_left else slice(48, 96)] = 255
    return mask


class Scene:
    """Three images, maybe with masks, and what is computed from them."""

    def __init__(self, folder):
        self.images, self.masks, self.file = folder / "in", folder / "masks", folder / "f.h5"
        for seed, name in enumerate(NAMES):
            write(self.images / name, textured_image(72, 96, seed))
            write(self.masks / f"{name}.png", half_mask(is_left=True))

    def extract(self, **options):
        """The summary, and how many images the extractor saw."""
        extractor = SiftExtractor()
        return extract_images(extractor, self.images, self.file, **options), len(extractor.seen)

    def keypoints(self, name):
        with FeatureStore(self.file) as store:
            return store.read(name).keypoints.xy.numpy()


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def rotate(path):
    write(path, cv2.imread(str(path))[::-1, ::-1])


def enlarge(path):
    write(path, textured_image(100, 120, seed=9))


def edit_pixels(path):
    """A file of the same length and time, with another content."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_for_older(path):
    """What restoring a backup does: another picture, with an older time."""
    write(path, textured_image(72, 96, seed=7))
    os.utime(path, (10, 10))


@pytest.mark.parametrize("change", [rotate, enlarge, edit_pixels, swap_for_older])
def test_an_image_that_changed_is_extracted_again(scene, change):
    path = scene.images / "b.png"
    if change is edit_pixels:
        path.unlink()
        path = path.with_suffix(".bmp")
        write(path, textured_image(72, 96, 1))
    scene.extract()
    change(path)
    summary, num_seen = scene.extract()
    changed = path.name
    assert (summary.changed, summary.num_changed, summary.num_resumed) == ([changed], 1, 2)
    assert len(summary.names) == 3
    assert num_seen == 1
    fresh = SiftExtractor()
    extract_images(fresh, scene.images, scene.file.with_name("fresh.h5"))
    with FeatureStore(scene.file.with_name("fresh.h5")) as store:
        assert np.array_equal(scene.keypoints(changed), store.read(changed).keypoints.xy.numpy())
    summary, num_seen = scene.extract()
    assert (summary.changed, summary.num_resumed, num_seen) == ([], 3, 0)


def test_an_image_that_was_not_there_before_is_named(scene):
    assert scene.extract()[0].added == []
    write(scene.images / "new.png", textured_image(72, 96, 9))
    summary, num_seen = scene.extract()
    assert (summary.added, summary.changed, summary.num_resumed) == (["new.png"], [], 3)
    assert num_seen == 1
    assert summary.notes["added"] == ["new.png"]


def test_an_image_that_was_only_touched_or_copied_is_kept(scene):
    scene.extract()
    before = scene.file.read_bytes()
    (scene.images / "a.png").touch()
    copy = shutil.copyfile(scene.images / "b.png", scene.images / "copy")
    copy.replace(scene.images / "b.png")
    summary, num_seen = scene.extract()
    assert (summary.num_changed, summary.num_resumed, num_seen) == (0, 3, 0)
    assert scene.file.read_bytes() == before


def use_no_masks(scene):
    return {}


def edit_one_mask(scene):
    write(scene.masks / "b.png.png", half_mask(is_left=False))
    return {"mask_dir": scene.masks}


def use_other_folder(scene):
    other = scene.masks.with_name("others")
    for name in NAMES:
        write(other / f"{name}.png", half_mask(is_left=name != "b.png"))
    return {"mask_dir": other}


def ask_for_another_grid(scene):
    return {"mask_dir": scene.masks, "mask_frame": "upright"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (use_no_masks, NAMES),
        (edit_one_mask, ["b.png"]),
        (use_other_folder, ["b.png"]),
        (ask_for_another_grid, NAMES),
    ],
)
def test_images_whose_masks_changed_are_extracted_again(scene, change, expected):
    scene.extract(mask_dir=scene.masks)
    assert scene.keypoints("b.png")[:, 0].max() < 50
    options = change(scene)
    summary, num_seen = scene.extract(**options)
    assert (summary.changed, num_seen) == (expected, len(expected))
    if change is not ask_for_another_grid:
        assert scene.keypoints("b.png")[:, 0].max() > 50
    assert scene.extract(**options)[1] == 0


def test_masks_may_be_added_later_and_each_be_missed(scene):
    scene.extract()
    summary, _ = scene.extract(mask_dir=scene.masks)
    assert summary.changed == NAMES
    assert max(scene.keypoints(name)[:, 0].max() for name in NAMES) < 50
    (scene.masks / "b.png.png").unlink()
    summary, num_seen = scene.extract(mask_dir=scene.masks)
    assert (list(summary.skipped), summary.num_resumed, num_seen) == (["b.png"], 2, 0)
    assert "no mask" in summary.skipped["b.png"]
    assert "changed since, and its features in f.h5 are of what it was" in summary.skipped["b.png"]


def damage(path):
    path.write_bytes(path.read_bytes()[:200])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [damage, empty])
def test_a_changed_image_that_cannot_be_read_is_left_out_by_name_and_nothing_is_lost(scene, change):
    scene.extract()
    before, content = scene.keypoints("b.png"), (scene.images / "b.png").read_bytes()
    change(scene.images / "b.png")
    for _ in range(2):
        summary, _ = scene.extract()
        assert summary.names == ["a.png", "sub/c.png"]
        assert "its features in f.h5 are of what it was before" in summary.skipped["b.png"]
    assert np.array_equal(scene.keypoints("b.png"), before)
    (scene.images / "b.png").write_bytes(content)
    summary, num_seen = scene.extract()
    assert (summary.names, num_seen) == (NAMES, 0)


def test_an_image_that_is_gone_stays_in_the_file_and_leaves_the_summary(scene):
    scene.extract()
    (scene.images / "b.png").unlink()
    summary, _ = scene.extract()
    assert (summary.names, summary.removed) == (["a.png", "sub/c.png"], ["b.png"])
    assert len(scene.keypoints("b.png"))
    summary, _ = scene.extract(names=["a.png"])
    assert summary.removed == ["b.png"]


def without_stamps(path, **attributes):
    """The file as the versions before stamps wrote it."""
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
        for name in NAMES:
            for key in ("image_stamp", "mask_stamp"):
                del file[name].attrs[key]


@pytest.mark.parametrize(
    ("masks_before", "masks_now", "expected"),
    [("none", False, []), ("used", True, []), ("none", True, NAMES), ("used", False, NAMES)],
)
def test_older_files_are_gone_on_with(scene, caplog, masks_before, masks_now, expected):
    scene.extract(**({"mask_dir": scene.masks} if masks_before == "used" else {}))
    without_stamps(scene.file, masks=masks_before)
    options = {"mask_dir": scene.masks} if masks_now else {}
    assert scene.extract(**options)[0].changed == expected
    assert caplog.text.count("3 images in ") == 1
    assert "noticed only if its size in pixels did" in caplog.text


def test_another_size_is_noticed_in_older_files(scene):
    scene.extract()
    without_stamps(scene.file, masks="none")
    rotate(scene.images / "a.png")  # nothing recorded tells
    write(scene.images / "b.png", textured_image(96, 72, 1))
    assert scene.extract()[0].changed == ["b.png"]
    rotate(scene.images / "b.png")
    assert scene.extract()[0].changed == ["b.png"]


def test_pairs_of_changed_images_are_matched_again(scene, tmp_path):
    scene.extract()
    out = tmp_path / "m.h5"
    first = match_images(scene.file, out, PAIRS, ANY)
    rotate(scene.images / "b.png")
    scene.extract()
    reversed_pairs = [pair[::-1] for pair in PAIRS]
    again = match_images(scene.file, out, reversed_pairs, ANY)
    assert (first.num_rematched, again.num_rematched, again.num_resumed) == (0, 2, 1)
    fresh = match_images(scene.file, tmp_path / "fresh.h5", PAIRS, ANY)
    with MatchStore(out) as stored, MatchStore(tmp_path / "fresh.h5") as expected:
        assert stored.pairs() == sorted(PAIRS)
        for pair in PAIRS:
            assert np.array_equal(stored.read(*pair).index, expected.read(*pair).index)
            assert again.num_matches[pair[::-1]] == fresh.num_matches[pair]
    assert match_images(scene.file, out, PAIRS, ANY).num_resumed == 3


def test_matches_of_features_that_were_replaced_are_not_exported(scene, tmp_path):
    scene.extract()
    match_images(scene.file, tmp_path / "m.h5", PAIRS, ANY)
    rotate(scene.images / "b.png")
    scene.extract()
    with FeatureStore(scene.file) as features, MatchStore(tmp_path / "m.h5") as matches:
        with pytest.raises(
            ValueError, match="'b.png' changed and was extracted again.*match again"
        ):
            export_database(tmp_path / "d.db", scene.images, features, matches, PAIRS)
        assert not (tmp_path / "d.db").exists()
    match_images(scene.file, tmp_path / "m.h5", PAIRS, ANY)
    with FeatureStore(scene.file) as features, MatchStore(tmp_path / "m.h5") as matches:
        export_database(tmp_path / "d.db", scene.images, features, matches, PAIRS)


def test_the_command_line_names_what_changed(scene, capsys, monkeypatch):
    stub = types.SimpleNamespace(from_pretrained=lambda *_, **__: SiftExtractor())
    monkeypatch.setattr("rekd_hloc.features.extractor.Extractor", stub)
    command = ["extract", str(scene.images), str(scene.file), "--quiet"]
    assert main(command) == 0
    rotate(scene.images / "b.png")
    enlarge(scene.images / "a.png")
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "(1 were there already, 2 changed since and were extracted again)" in text
    assert main([*command, "--json", "--mask-dir", str(scene.masks)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["num_changed"], record["changed"]) == (2, ["b.png", "sub/c.png"])
    assert list(record["skipped"]) == ["a.png"]  # its mask is of the old size


def test_matches_of_older_files_are_kept_until_an_image_changes(scene, tmp_path):
    scene.extract()
    without_stamps(scene.file)
    out = tmp_path / "m.h5"
    match_images(scene.file, out, PAIRS, ANY)
    assert match_images(scene.file, out, PAIRS, ANY).num_resumed == 3
    enlarge(scene.images / "a.png")
    scene.extract()
    assert match_images(scene.file, out, PAIRS, ANY).num_rematched == 2


@pytest.mark.parametrize("num_changes", [1, 2])
def test_an_image_that_changes_while_it_is_read_is_read_again_or_left_out(
    scene, monkeypatch, num_changes
):
    load_image, left = image_work.load_image, [num_changes]

    def load(path, **options):
        loaded = load_image(path, **options)
        if path.name == "b.png" and left[0]:
            left[0] -= 1
            rotate(path)
        return loaded

    monkeypatch.setattr(image_work, "load_image", load)
    summary, _ = scene.extract()
    if num_changes == 2:
        assert "changed while it was read" in summary.skipped["b.png"]
        summary, _ = scene.extract()
    assert summary.names == NAMES
    assert scene.extract()[1] == 0


def test_a_stamp_sees_edits_of_the_same_length_anywhere(tmp_path):
    path = tmp_path / "large.bmp"
    content = bytearray(np.random.default_rng(0).bytes(1 << 20))
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    stamp = FileStamp.of(path)
    assert FileStamp.from_text(stamp.to_text()) == stamp
    places = {"head": 0, "middle": len(content) // 2 + 9_000, "tail": len(content) - 1}
    for place in places.values():
        edited = bytearray(content)
        edited[place] ^= 1
        path.write_bytes(edited)
        assert not stamp.fits(path)
    path.write_bytes(content)
    assert stamp.fits(path)
    path.write_bytes(content[:-1])
    assert not stamp.fits(path)


@pytest.mark.parametrize("text", ["", "size=1", "size=x mtime_ns=1 quick=a whole=b", None, 5.0])
def test_a_damaged_stamp_is_none(text):
    assert FileStamp.from_text(text) is None
    assert SourceStamps.from_attributes({"image_stamp": text, "mask_stamp": "none"}) is None


def test_what_changed_is_said_in_the_plural_and_in_the_singular():
    assert describe_changes([], []) == []
    assert describe_changes([], [], 0, ["d", "e"]) == ["2 images were not in the run before: d, e"]
    assert describe_changes(["a"], ["b", "c"], 1) == [
        "1 image changed since and was extracted again: a",
        "1 pair was matched again, as features changed since",
        "2 images of an earlier run are no longer in the folder: b, c",
    ]
    assert describe_changes(list("abcde"), [])[0].endswith(": a, b, c and 2 more")
