"""Transparent pixels are masked, and a mask may be upright where EXIF rotates its image."""

import logging
import re
import struct

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rekd_hloc import Extractor
from rekd_hloc.cli.main import main
from rekd_hloc.config import get_preset, with_max_keypoints
from rekd_hloc.image_orientation import from_file_grid, to_file_grid
from rekd_hloc.images import ImageReadError, load_image, read_image, read_mask
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.mask_frames import EITHER, FILE, UPRIGHT
from rekd_hloc.sfm.reconstruct import ReconstructOptions
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.tiff_tags import read_tiff_tags
from tests import odd_bytes as made
from tests.helpers import textured_image
from tests.sift_extractor import SiftExtractor

ALL = range(1, 9)
LEFT = np.broadcast_to(np.arange(made.WIDTH) >= 24, (made.HEIGHT, made.WIDTH)).copy()
LEFT[40:, 60:] = False
"""Usable in the file's grid: the left columns are masked, and a corner on the right."""


@pytest.mark.parametrize("orientation", ALL)
def test_orientations_are_those_of_pillow(orientation):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(values)
    image.getexif()[made.ORIENTATION_TAG] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(from_file_grid(values, orientation), upright)
    assert np.array_equal(to_file_grid(upright, orientation), values)
    colors = np.stack([values, values + 50], axis=2)
    assert np.array_equal(to_file_grid(from_file_grid(colors, orientation), orientation), colors)


KINDS = {
    "strips": lambda o: made.tiff(made.scene(), orientation=o),
    "packed": lambda o: made.tiff_with_tags("tiff_lzw", t274=o),
    "tiles": lambda o: made.tiff(made.scene(), tile=16, orientation=o),
    "big-endian": lambda o: made.tiff(made.scene(), order=">", orientation=o),
    "16 bits": lambda o: made.tiff(made.scene().astype(np.uint16) * 257, orientation=o),
    "color": lambda o: made.tiff(
        made.color().astype(np.uint16) * 257, orientation=o, photometric=2
    ),
    "floats": lambda o: made.tiff((made.color() / 255).astype(np.float32), orientation=o),
    "doubles": lambda o: made.tiff(made.scene() / 255, orientation=o),
    "BigTIFF": lambda o: made.encode(made.scene(), "TIFF", big_tiff=True, tiffinfo={274: o}),
    "png": lambda o: made.oriented("PNG", o),
    "jpeg": lambda o: made.oriented("JPEG", o, quality=98),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", ALL)
def test_every_kind_is_read_in_the_grid_of_its_file(kind, orientation, tmp_path):
    suffix = kind if kind in ("png", "jpeg") else "tif"
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(KINDS[kind](orientation))
    loaded = load_image(path)
    assert loaded.orientation == orientation
    np.testing.assert_allclose(loaded.pixels, made.scene() / 255, atol=0.03)
    upright = read_image(path, apply_exif=True).numpy()
    assert np.array_equal(upright, from_file_grid(loaded.pixels.numpy(), orientation))


@pytest.mark.parametrize("kind", ["strips", "packed", "16 bits", "color", "png", "jpeg"])
def test_that_grid_is_colmap_s(kind, tmp_path):
    path = tmp_path / f"a.{kind if kind in ('png', 'jpeg') else 'tif'}"
    path.write_bytes(KINDS[kind](6))
    bitmap = pycolmap.Bitmap.read(str(path), False)
    assert bitmap is not None
    shown = np.asarray(bitmap.to_array()).reshape(made.HEIGHT, made.WIDTH)
    np.testing.assert_allclose(load_image(path).pixels.numpy() * 255, shown, atol=1.1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), [(4, "I"), (9, "i"), (1, "B3x")])
def test_the_orientation_of_a_tiff_may_be_any_whole_number(order, kind, code, tmp_path):
    content = made.tiff(made.scene(), order=order, orientation=6)
    entry = struct.pack(f"{order}HHIH2x", made.ORIENTATION_TAG, 3, 1, 6)
    other = struct.pack(f"{order}HHI{code}", made.ORIENTATION_TAG, kind, 1, 6)
    (tmp_path / "a.tif").write_bytes(made.patched(content, entry, other))
    loaded = load_image(tmp_path / "a.tif")
    assert loaded.orientation == 6
    np.testing.assert_allclose(loaded.pixels, made.scene() / 255, atol=1e-6)


def test_an_orientation_that_is_no_whole_number_is_refused_by_name(tmp_path):
    content = made.tiff(made.scene(), orientation=6)
    entry = struct.pack("<HHIH2x", made.ORIENTATION_TAG, 3, 1, 6)
    six = struct.pack("<HHII", made.ORIENTATION_TAG, 5, 1, len(content))  # a fraction
    fraction = struct.pack("<II", 6, 1)
    (tmp_path / "a.tif").write_bytes(made.patched(content, entry, six) + fraction)
    with pytest.raises(ImageReadError, match=r"a\.tif: its orientation is no whole number"):
        load_image(tmp_path / "a.tif")


@given(
    head=st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\b\0\0\0", b""]),
    body=st.binary(min_size=4, max_size=80),
)
def test_tags_of_any_bytes_are_tags_or_none(head, body, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.tif"
    path.write_bytes(head + body)
    tags = read_tiff_tags(path)
    assert tags is None or 1 <= tags.orientation <= 8


def save_mask(path, usable, orientation=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[made.ORIENTATION_TAG] = orientation
    Image.fromarray(np.where(usable, 255, 0).astype(np.uint8)).save(path, exif=exif)


def extract(folder, usable, orientation, own_orientation=None, frame="auto", scene=None):
    """The summary, and the mask that the extractor saw, in the file's grid."""
    (folder / "in").mkdir()
    image = Image.fromarray(made.scene() if scene is None else scene)
    exif = Image.Exif()
    exif[made.ORIENTATION_TAG] = orientation
    image.save(folder / "in" / "a.jpg", exif=exif, quality=95)
    save_mask(folder / "masks" / "a.jpg.png", usable, own_orientation)
    extractor = SiftExtractor()
    summary = extract_images(
        extractor, folder / "in", folder / "f.h5", mask_dir=folder / "masks", mask_frame=frame
    )
    return summary, extractor.seen[0] if extractor.seen else None


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_upright_mask_of_an_image_on_its_side_is_rotated_back(orientation, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "rekd_hloc"):
        summary, seen = extract(tmp_path, from_file_grid(LEFT, orientation), orientation)
    assert np.array_equal(seen, LEFT)
    assert summary.mask_frames == {"a.jpg": UPRIGHT}
    assert "1 mask is upright" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.attributes("a.jpg")["mask_frame"] == UPRIGHT
        assert store.read("a.jpg").keypoints.xy[:, 0].min() > 22


@pytest.mark.parametrize("orientation", ALL)
def test_a_mask_in_the_grid_of_the_file_stays(orientation, tmp_path):
    summary, seen = extract(tmp_path, LEFT, orientation)
    assert np.array_equal(seen, LEFT)
    frames = {1: {}, 5: FILE, 6: FILE, 7: FILE, 8: FILE}.get(orientation, EITHER)
    assert summary.mask_frames == (frames if orientation == 1 else {"a.jpg": frames})


SQUARE = np.broadcast_to(np.arange(48) >= 20, (48, 48))


@pytest.mark.parametrize(
    ("usable", "orientation"), [(LEFT, 3), (LEFT, 2), (SQUARE, 6), (SQUARE, 3)]
)
def test_where_both_fit_the_user_is_told_and_can_say(usable, orientation, tmp_path, caplog):
    scene = textured_image(*usable.shape, seed=5)
    upright = from_file_grid(usable, orientation)
    for folder, frame, expected in (
        ("auto", "auto", upright),
        ("file", "file", upright),
        ("upright", "upright", usable),
    ):
        (tmp_path / folder).mkdir()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rekd_hloc"):
            summary, seen = extract(
                tmp_path / folder, upright, orientation, frame=frame, scene=scene
            )
        assert np.array_equal(seen, expected)
        if frame == "auto":
            assert summary.mask_frames == {"a.jpg": EITHER}
            assert "1 mask fits" in caplog.text
            assert "a.jpg" in caplog.text
            assert "--mask-frame upright" in caplog.text
        else:
            assert summary.mask_frames == {"a.jpg": frame}
            assert not caplog.text


def test_nobody_is_warned_of_a_mask_that_is_the_same_both_ways(tmp_path, caplog):
    border = np.ones((made.HEIGHT, made.WIDTH), bool)
    border[:4] = border[-4:] = False
    with caplog.at_level(logging.WARNING, "rekd_hloc"):
        extract(tmp_path, border, 3)
    assert not caplog.text


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_with_the_orientation_of_its_image_is_in_its_grid(orientation, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "rekd_hloc"):
        summary, seen = extract(tmp_path, LEFT, orientation, own_orientation=orientation)
    assert np.array_equal(seen, LEFT)
    assert summary.mask_frames == {"a.jpg": FILE}
    assert not caplog.text


def test_a_mask_with_an_orientation_of_its_own_is_first_set_upright(tmp_path):
    stored = to_file_grid(LEFT, 8)  # on its side, while the image is upright
    summary, seen = extract(tmp_path, stored, 1, own_orientation=8)
    assert np.array_equal(seen, LEFT)
    assert summary.mask_frames == {"a.jpg": UPRIGHT}


@pytest.mark.parametrize(
    ("orientation", "frame", "shape", "words"),
    [
        (
            1,
            "auto",
            (64, 48),
            "mask .*a.jpg.png is 48x64 px, its image .*a.jpg 64x48; they must be",
        ),
        (6, "auto", (60, 60), "64x48 in its file and 48x64 upright by its EXIF orientation 6"),
        (6, "file", (64, 48), "--mask-frame file does not fit, auto does"),
        (6, "upright", (48, 64), "--mask-frame upright does not fit, auto does"),
        (3, "upright", (64, 48), "64x48 upright by its EXIF orientation 3; the mask must have"),
    ],
)
def test_a_mask_that_does_not_fit_is_named_with_exif(orientation, frame, shape, words, tmp_path):
    summary, seen = extract(tmp_path, np.ones(shape, bool), orientation, frame=frame)
    assert seen is None
    assert summary.names == []
    assert len(summary.skipped["a.jpg"].splitlines()) == 1
    assert re.search(words, summary.skipped["a.jpg"])


def test_features_of_another_frame_are_extracted_again(tmp_path):
    extract(tmp_path, LEFT, 3)
    for frame, expected in (("upright", to_file_grid(LEFT, 3)), ("file", LEFT)):
        extractor = SiftExtractor()
        summary = extract_images(
            extractor, tmp_path / "in", tmp_path / "f.h5",
            mask_dir=tmp_path / "masks", mask_frame=frame,
        )  # fmt: skip
        assert summary.changed == ["a.jpg"]
        assert summary.mask_frames == {"a.jpg": frame}
        assert np.array_equal(extractor.seen[0], expected)


def test_an_unknown_frame_is_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(made.encode(made.scene(), "PNG"))
    arguments = ["extract", str(tmp_path / "in"), str(tmp_path / "f.h5"), "--conf", "rekd-fast"]
    assert main([*arguments, "--mask-frame", "north"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "mask_frame must be one of auto, file, upright, got 'north'" in message
    with pytest.raises(ValueError, match="mask_frame must be one of auto, file, upright"):
        ReconstructOptions(mask_frame="east")


def layered(kind, alpha):
    """The scene with an alpha channel, in a file of that kind."""
    scene, rgb = made.scene(), made.color()
    if kind == "16 bits":
        deep = np.dstack([rgb, alpha]).astype(np.uint16) * 257
        return made.encode_cv(deep, ".png")
    if kind == "palette":
        levels = np.where(alpha > 0, np.maximum(scene, 1), 0).astype(np.uint8)
        image = Image.fromarray(levels, "L").convert("P")
        return made.encode(image, "PNG", transparency=0)
    if kind == "clear color":
        levels = np.where(alpha > 0, np.maximum(scene, 1), 0).astype(np.uint8)
        return made.encode(levels, "PNG", transparency=0)
    planes = [scene] if kind == "grey" else [rgb]
    suffix = {"webp": "WEBP", "tiff": "TIFF"}.get(kind, "PNG")
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    return made.encode(np.dstack([*planes, alpha]), suffix, **options)


ALPHAS = ("color", "grey", "16 bits", "palette", "clear color", "webp", "tiff")


@pytest.mark.parametrize("kind", ALPHAS)
def test_transparent_pixels_are_masked_and_partly_transparent_ones_are_not(kind, tmp_path):
    alpha = np.where(LEFT, 255, 0).astype(np.uint8)
    if kind not in ("palette", "clear color"):
        alpha[:40, 40:] = 3
    (tmp_path / "a").write_bytes(layered(kind, alpha))
    assert np.array_equal(load_image(tmp_path / "a").usable, LEFT)


@pytest.mark.parametrize("kind", ALPHAS)
def test_an_opaque_alpha_changes_nothing(kind, tmp_path):
    (tmp_path / "a").write_bytes(layered(kind, np.full(LEFT.shape, 255, np.uint8)))
    loaded = load_image(tmp_path / "a")
    assert loaded.usable is None
    if kind not in ("palette", "clear color", "16 bits"):
        plain = made.encode(made.scene() if kind == "grey" else made.color(), "PNG")
        (tmp_path / "b").write_bytes(plain)
        assert torch.equal(loaded.pixels, read_image(tmp_path / "b"))


def test_a_fourth_channel_that_is_no_alpha_masks_nothing(tmp_path):
    """Infrared of a drone's camera: TIFF says of it that it is not alpha."""
    infrared = np.where(LEFT, 90, 0).astype(np.uint8)
    pixels = np.dstack([made.color(), infrared])
    image = Image.frombytes("RGBX", (made.WIDTH, made.HEIGHT), pixels.tobytes())
    image.save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif").usable is None


@pytest.mark.parametrize("kind", ["color", "grey", "16 bits"])
def test_an_image_that_is_all_transparent_is_skipped_by_name(kind, tmp_path):
    (tmp_path / "in").mkdir()
    content = layered(kind, np.zeros(LEFT.shape, np.uint8))
    (tmp_path / "in" / "a.png").write_bytes(content)
    (tmp_path / "in" / "b.png").write_bytes(made.encode(made.scene(), "PNG"))
    summary = extract_images(SiftExtractor(), tmp_path / "in", tmp_path / "f.h5")
    assert summary.names == ["b.png"]
    assert "a.png has no pixel to use" in summary.skipped["a.png"]
    assert "remove its alpha channel" in summary.skipped["a.png"]


def test_alpha_and_a_mask_are_joined(tmp_path):
    (tmp_path / "in").mkdir()
    content = layered("color", np.where(LEFT, 255, 0).astype(np.uint8))
    (tmp_path / "in" / "a.png").write_bytes(content)
    upper = np.ones(LEFT.shape, bool)
    upper[:20] = False
    save_mask(tmp_path / "masks" / "a.png", upper)
    extractor = SiftExtractor()
    extract_images(extractor, tmp_path / "in", tmp_path / "f.h5", mask_dir=tmp_path / "masks")
    assert np.array_equal(extractor.seen[0], LEFT & upper)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_in_a_mask_is_ignored(mode, tmp_path):
    """A program that paints with alpha may leave white below, or black."""
    mask = Image.new(mode, (made.WIDTH, made.HEIGHT), "white")
    mask.putalpha(Image.fromarray(np.where(LEFT, 255, 0).astype(np.uint8)))
    mask.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), LEFT)


@pytest.mark.parametrize(
    ("mode", "color"), [("L", 0), ("RGBA", (0, 0, 0, 255)), ("RGBA", (255, 255, 255, 0))]
)
def test_a_mask_that_leaves_nothing_is_named(mode, color, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(made.encode(made.scene(), "PNG"))
    Image.new(mode, (made.WIDTH, made.HEIGHT), color).save(tmp_path / "masks" / "a.png.png")
    masks = tmp_path / "masks"
    summary = extract_images(SiftExtractor(), tmp_path / "in", tmp_path / "f.h5", mask_dir=masks)
    assert "a.png.png leaves no pixel of" in summary.skipped["a.png"]
    assert "paint white" in summary.skipped["a.png"]


def test_no_patch_touches_the_border_of_what_is_transparent(tmp_path):
    """The border itself is a strong edge: transparent pixels are white."""
    config = with_max_keypoints(get_preset("rekd-fast"), 100)
    extractor = Extractor.from_pretrained("rekd-fast", device="cpu", config=config)
    scene = textured_image(128, 160, seed=3)
    holes = np.zeros(scene.shape, bool)
    holes[40:80, 20:70] = True
    scene[holes] = 255
    alpha = np.where(holes, 0, 255).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(made.encode(np.dstack([scene, alpha]), "PNG"))
    by_alpha = extractor(tmp_path / "a.png")
    by_mask = extractor(read_image(tmp_path / "a.png"), ~holes)
    assert len(by_alpha) > 5
    assert torch.equal(by_alpha.keypoints.xy, by_mask.keypoints.xy)
    assert len(extractor(scene)) > len(by_alpha)
