"""Image files as strangers have them: more than a hundred kinds, and what a reader should do.

``python -m tests.odd_images OUT`` writes them. All that can be read show one scene: a reader is
judged by values in 0..1, as many pixels as the file has, and the contrast of the scene.
"""

import base64
import os
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms

from tests import odd_bytes as made

READS, REFUSES, EITHER, HIDDEN = "reads", "refuses", "either", "hidden"
"""An image; one line that names the file; one of both; left out by a rule that is documented."""
SIZE = (made.HEIGHT, made.WIDTH)


@dataclass(frozen=True)
class OddImage:
    """A file, or something else that has an image's name.

    Attributes:
        name: relative to the folder.
        content: the bytes; or a function that makes the thing at a path.
        outcome: what a reader should do.
        size: (height, width) of what is read.
        maximum: the brightest value that is read, of 1; None where it does not matter.
    """

    name: str
    content: bytes | Callable[[Path], object] = field(repr=False)
    outcome: str = READS
    size: tuple[int, int] = SIZE
    maximum: float | None = 1.0

    def write(self, folder: Path) -> Path:
        """Make it in a folder."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return path


def _eight_bits():
    grey, rgb = made.scene(), made.color()
    alpha = np.full(grey.shape, 255, np.uint8)
    holes = np.where(np.arange(made.WIDTH) < 32, alpha, 0).astype(np.uint8)
    palette = Image.fromarray(rgb).quantize(256)
    yield "grey.png", made.encode(grey, "PNG")
    yield "rgb.png", made.encode(rgb, "PNG")
    yield "grey with alpha.png", made.encode(np.dstack([grey, alpha]), "PNG")
    yield "rgba.png", made.encode(np.dstack([rgb, alpha]), "PNG")
    yield "rgba with holes.png", made.encode(np.dstack([rgb, holes]), "PNG")
    yield "palette.png", made.encode(palette, "PNG")
    yield "palette with transparency.png", made.encode(palette, "PNG", transparency=0)
    yield "one bit.png", made.encode(Image.fromarray(grey > 127), "PNG")
    yield "palette.gif", made.encode(palette, "GIF")
    yield "animated.gif", made.pages("GIF")
    yield "animated.webp", made.pages("WEBP", lossless=True)
    yield "animated.png", made.pages("PNG")
    yield "lossy.webp", made.encode(rgb, "WEBP", quality=90)
    yield "lossless.webp", made.encode(rgb, "WEBP", lossless=True)
    yield "alpha.webp", made.encode(np.dstack([rgb, alpha]), "WEBP", lossless=True)
    yield "lossless.jp2", made.encode(grey, "JPEG2000")
    yield "lossy.jp2", made.encode(rgb, "JPEG2000", quality_mode="dB", quality_layers=[45])
    yield "grey.bmp", made.encode(grey, "BMP")
    yield "color.bmp", made.encode(rgb, "BMP")
    yield "one bit.bmp", made.encode(Image.fromarray(grey > 127), "BMP")
    yield "rgba.bmp", made.encode(np.dstack([rgb, alpha]), "BMP")
    yield "from the top.bmp", made.bmp(height=-made.HEIGHT)
    yield "run lengths.bmp", made.bmp(compression=1, body=made.run_lengths())
    yield "binary.pgm", made.netpbm("P5", grey, 255)
    yield "text.pgm", made.netpbm("P2", grey, 255)
    yield "text.ppm", made.netpbm("P3", rgb, 255)
    yield "of 100.pgm", made.netpbm("P5", (grey / 2.55).astype(np.uint8), 100)


def _deep():
    """White is the picture's own, not that of 16 bits or of one."""
    grey = made.scene().astype(np.float64) / 255
    rgb = np.repeat(grey[..., None], 3, axis=2)
    spoiled = grey.astype(np.float32)
    spoiled[5:9, 5:9] = np.nan
    infinite = np.where(np.isnan(spoiled), np.inf, grey).astype(np.float32)
    for bits in (10, 12, 14, 16):
        values = np.rint(grey * (2**bits - 1)).astype(np.uint16)
        yield f"{bits} bits.png", made.encode_cv(values, ".png")
        yield f"{bits} bits.tif", made.tiff(values)
    twelve = np.rint(rgb * 4095).astype(np.uint16)
    yield "12 bits of color.png", made.encode_cv(twelve, ".png")
    yield "12 bits of color.tif", made.encode_cv(twelve, ".tif")
    yield "16 bits of color.png", made.encode_cv((rgb * 65535).astype(np.uint16), ".png")
    yield "16 bits.pgm", made.netpbm("P5", np.rint(grey * 65535).astype(int), 65535)
    yield "12 bits.pgm", made.netpbm("P5", twelve[..., 0].astype(int), 4095)
    yield "16 bits.ppm", made.netpbm("P6", np.rint(rgb * 65535).astype(int), 65535)
    yield "16 bits.jp2", made.encode_cv((grey * 65535).astype(np.uint16), ".jp2")
    yield "thermal.tif", made.tiff((29_000 + 1_500 * grey).astype(np.uint16))
    yield "signed.tif", made.tiff(np.rint(grey * 32767).astype(np.int16))
    yield "below zero.tif", made.tiff(np.rint(grey * 3000 - 1000).astype(np.int16))
    yield "32 bits.tif", made.tiff(np.rint(grey * 1e6).astype(np.uint32))
    for top in (1, 255, 4000, 65535):
        yield f"float to {top}.tif", made.tiff((grey * top).astype(np.float32))
        yield f"float color to {top}.tif", made.encode_cv((rgb * top).astype(np.float32), ".tif")
    yield "celsius.tif", made.tiff((grey * 30 - 10).astype(np.float32))
    yield "double.tif", made.tiff(grey)
    yield "float with NaN.tif", made.tiff(spoiled)
    yield "float with infinity.tif", made.tiff(infinite)
    yield "float color with NaN.tif", made.encode_cv(np.dstack([spoiled] * 3), ".tif")


def _tiffs():
    grey, rgb = made.scene(), made.color()
    for codec in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"):
        yield f"{codec}.tif", made.encode(grey, "TIFF", compression=codec)
    yield "group4.tif", made.encode(Image.fromarray(grey > 127), "TIFF", compression="group4")
    yield "pages.tif", made.pages("TIFF")
    yield "big.tif", made.encode(rgb, "TIFF", big_tiff=True)
    yield "tiles.tif", made.tiff(grey, tile=16)
    yield "tiles of 16 bits.tif", made.tiff(grey.astype(np.uint16) * 257, tile=16)
    yield "big-endian.tif", made.tiff(grey, order=">")
    yield "big-endian of 16 bits.tif", made.tiff(grey.astype(np.uint16) * 257, order=">")
    yield "white is zero.tif", made.tiff(255 - grey, photometric=0)
    yield "planes.tif", made.tiff(rgb, photometric=2, planar=True)
    yield "cmyk.tif", made.encode(Image.fromarray(rgb).convert("CMYK"), "TIFF")
    yield (
        "ycbcr.tif",
        made.encode(Image.fromarray(rgb).convert("YCbCr"), "TIFF", compression="jpeg"),
    )
    yield "orientation 3.tif", made.tiff(grey, orientation=3)
    yield "orientation 6.tif", made.tiff(grey, orientation=6)
    yield "orientation 6 packed.tif", made.tiff_with_tags("tiff_lzw", t274=6)
    yield "suffix.tiff", made.tiff(grey)
    yield "geotiff.tif", made.tiff_with_tags(t33550=(0.5, 0.5, 0.0), t34737="WGS 84|")


def _jpegs():
    grey, rgb = made.scene(), made.color()
    plain = made.encode(grey, "JPEG", quality=95)
    arithmetic = base64.b85decode(ARITHMETIC_JPEG)
    yield "baseline.jpg", plain
    yield "progressive.jpg", made.encode(rgb, "JPEG", quality=95, progressive=True)
    yield "half colors.jpg", made.encode(rgb, "JPEG", quality=95, subsampling=2)
    yield "arithmetic.jpg", arithmetic, READS, (24, 32), 0.96
    yield "adobe ink.jpg", made.encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)
    yield "profile.jpg", made.encode(rgb, "JPEG", quality=95, icc_profile=_srgb())
    yield (
        "two pictures.jpg",
        made.encode(
            grey, "MPO", quality=95, save_all=True, append_images=[Image.fromarray(255 - grey)]
        ),
    )
    yield "with a film behind.jpg", plain + made.heif_header(b"mp42") * 50
    yield "comment.jpg", made.encode(grey, "JPEG", quality=95, comment="a" * 60_000)
    yield "damaged exif.jpg", made.encode(grey, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff" * 9)
    for orientation in range(1, 9):
        yield f"orientation {orientation}.jpg", made.oriented("JPEG", orientation, quality=95)
    yield "orientation 6.png", made.oriented("PNG", 6)
    yield "orientation 6.webp", made.oriented("WEBP", 6, lossless=True)
    for percent in (2, 30, 60, 95):
        cut = made.without_end(plain, percent / 100)
        yield f"cut at {percent} percent.jpg", cut, REFUSES
    progressive = made.encode(rgb, "JPEG", quality=95, progressive=True)
    yield "cut progressive.jpg", made.without_end(progressive, 0.5), REFUSES
    yield "lossless mode.jpg", made.patched(plain, b"\xff\xc0", b"\xff\xc3"), REFUSES
    yield "no table.jpg", made.patched(plain, b"\xff\xdb", b"\xff\xfe"), EITHER


def _sizes():
    huge = made.encode(made.scene(), "GIF")
    yield "one pixel.png", made.encode(np.full((1, 1), 255, np.uint8), "PNG"), READS, (1, 1)
    yield "one row.png", made.encode(_ramp(1, 70), "PNG"), READS, (1, 70)
    yield "one column.png", made.encode(_ramp(70, 1), "PNG"), READS, (70, 1)
    yield "very wide.png", made.encode(_ramp(2, 20_000), "PNG"), READS, (2, 20_000)
    yield "very high.bmp", made.encode(_ramp(20_000, 3), "BMP"), READS, (20_000, 3)
    yield "black.png", made.encode(np.zeros(SIZE, np.uint8), "PNG"), READS, SIZE, 0.0
    yield "white.png", made.encode(np.full(SIZE, 255, np.uint8), "PNG")
    yield (
        "black of 16 bits.png",
        made.encode_cv(np.zeros(SIZE, np.uint16), ".png"),
        READS,
        SIZE,
        0.0,
    )
    yield "black of floats.tif", made.tiff(np.zeros(SIZE, np.float32)), READS, SIZE, 0.0
    yield "no pixel.png", made.png_header(0, 0), REFUSES
    yield "bomb.png", made.png_header(60_000, 60_000), REFUSES
    yield "small bomb.png", made.png_header(12_000, 12_000), REFUSES
    yield "bomb.bmp", made.bmp(claimed=(2**30, 2**30)), REFUSES
    yield "bomb.gif", huge[:6] + b"\xff\xff\xff\xff" + huge[10:], REFUSES
    yield "bomb.pgm", b"P5\n99999 99999\n255\n" + bytes(99), REFUSES
    yield "negative.bmp", made.bmp(claimed=(-64, 48)), REFUSES


def _strangers():
    """Files whose name promises what they do not hold, and kinds that are not read."""
    grey = made.scene()
    png, jpeg = made.encode(grey, "PNG"), made.encode(grey, "JPEG", quality=95)
    yield "png inside.jpg", png
    yield "tiff inside.png", made.tiff(grey)
    yield "jpeg inside.tif", jpeg
    yield "heic inside.jpg", made.heif_header(b"heic"), REFUSES
    yield "text.jpg", b"not a picture\n" * 9, REFUSES
    yield "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", REFUSES
    yield "svg.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", REFUSES
    yield "zeros.jpg", bytes(5_000), REFUSES
    yield "empty.jpg", b"", REFUSES
    yield "pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n", REFUSES
    yield "icon.ico", made.encode(grey, "ICO", sizes=[(64, 48)]), HIDDEN
    yield "targa.tga", made.encode(grey, "TGA"), EITHER
    yield "bits.pbm", b"P4\n64 48\n" + bytes(384), EITHER
    yield "portable.pfm", made.encode_cv(grey.astype(np.float32) / 255, ".pfm"), EITHER
    yield "radiance.hdr", made.encode_cv(made.color().astype(np.float32) / 255, ".hdr"), EITHER
    yield "open.exr", b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(200), EITHER
    yield "iphone.heic", made.heif_header(b"heic"), EITHER
    yield "iphone.HEIF", made.heif_header(b"mif1"), EITHER
    yield "android.avif", made.encode(grey, "AVIF"), EITHER
    yield "camera.dng", made.tiff_with_tags(t50706=b"\1\4\0\0"), EITHER
    yield "camera.cr2", made.tiff(grey)[:8] + b"CR\2\0" + made.tiff(grey)[12:], EITHER
    yield "camera.cr3", made.heif_header(b"crx "), EITHER
    yield "camera.NEF", made.tiff(grey, order=">"), EITHER
    yield "camera.arw", made.tiff(grey), EITHER
    yield "codestream.j2k", made.encode(grey, "JPEG2000", no_jp2=True), EITHER


def _names():
    png, jpeg = made.encode(made.scene(), "PNG"), made.encode(made.scene(), "JPEG", quality=95)
    for name in ("UPPER.JPG", "Mixed.JpEg", "two.jpg.png", "a b  c.png", "tab\there.png"):
        yield name, jpeg
    for name in (
        "..two dots.png",
        "-option.png",
        "'quoted\".png",
        "100%.png",
        "#1.png",
        "$HOME.png",
    ):
        yield name, png
    for name in ("back\\slash.png", "star*.png", "new\nline.png", "\U0001f600.png", "نص.png"):
        yield name, png
    yield "new\nline and text.jpg", b"not a picture", REFUSES
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, f"{form} é ü 각.png"), png
    yield "n" * 196 + ".png", png
    yield "f" * 100 + "/" + "n" * 100 + ".png", png
    yield "/".join("abcdefghij") + "/deep.png", png
    yield "..folder/a.png", png
    yield "sub/dir-a.png", png
    yield ".hidden.png", png, HIDDEN
    yield "._of a mac.jpg", bytes(99), HIDDEN
    yield "not unicode \udcff.png", png, EITHER


def _things():
    png = made.encode(made.scene(), "PNG")

    def link(target):
        return lambda path: path.symlink_to(target(path))

    def elsewhere(path):
        real = path.parent.parent / f"{path.parent.name} elsewhere"
        real.mkdir(exist_ok=True)
        (real / "a.png").write_bytes(png)
        return real

    yield "folder.jpg", lambda path: path.mkdir(), REFUSES
    yield "pipe.jpg", os.mkfifo, REFUSES
    yield "dangling.jpg", link(lambda path: path.parent / "nothing.jpg"), REFUSES
    yield "own tail.jpg", link(lambda path: path), REFUSES
    yield "link.png", link(lambda path: elsewhere(path) / "a.png")
    yield "to a device.jpg", link(lambda _: Path("/dev/zero")), REFUSES


def _ramp(height, width):
    values = np.linspace(0, 255, height * width).reshape(height, width)
    return values.astype(np.uint8)


def _srgb():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


ARITHMETIC_JPEG = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02B@n5)Ta&5)cv>6%-gAG9exu93DL^E+jHZKuk+VKt@GST61DhRc%&9Mr4R"
    "(ZFhTtf`Lw8jhBplmUDiAeE-P+3kU!h03ZPY5di<p00saM5C#9*00;pA002J#>iRM`NyD@~S$&r@$HVUn6w@rCN<F4"
    "rv_bfOdf|WH2=?nS17NqU!xl?BeZNt!c;?eK;qyMUpItD91?9#vLY6HW&ErY6dXrU$Sb7W$9$a}sXgb4~TRw*|0~K8"
    "|R#nFW<i@^cpFVS>iZ86X8Jiv&Bqt+^Y$-9I|Je"
)
"""The scene by ``cjpeg -arithmetic -quality 40`` from libjpeg-turbo, 32x24 px, in base 85."""

GROUPS = (_eight_bits, _deep, _tiffs, _jpegs, _sizes, _strangers, _names, _things)
ODD_IMAGES = tuple(OddImage(*entry) for group in GROUPS for entry in group())


def read_scene(path: Path) -> tuple[tuple[int, ...], float, float, float]:
    """Shape, smallest and largest value of the image, and its correlation with the scene."""
    from rekd_hloc.images import read_image

    image = read_image(path).numpy()
    like = made.scene(*SIZE)
    shown = cv2.resize(image, like.shape[::-1], interpolation=cv2.INTER_CUBIC)
    pair = np.stack([shown.ravel(), like.ravel()])
    correlation = float(np.corrcoef(pair)[0, 1]) if np.ptp(shown) else 1.0
    return image.shape, float(image.min()), float(image.max()), correlation


def extract_folder(folder: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the images with features, and the reasons of those that were skipped."""
    from rekd_hloc.features.grey_images import grey_from_array
    from rekd_hloc.sfm.extraction import extract_images
    from tests.sift_extractor import SiftExtractor

    class Strict(SiftExtractor):
        def __call__(self, image, mask=None):
            return super().__call__(grey_from_array(image), mask)

    summary = extract_images(Strict(50), folder, out)
    return summary.names, summary.skipped


def main(argv: list[str]) -> int:
    """Write all of them into a folder."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m tests.odd_images OUT\n")
        return 2
    for odd in ODD_IMAGES:
        path = odd.write(Path(argv[0]) / "images")
        sys.stdout.write(f"{odd.outcome:8} {os.fsencode(path)!r}\n")
    sys.stdout.write(f"{len(ODD_IMAGES)} kinds\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
