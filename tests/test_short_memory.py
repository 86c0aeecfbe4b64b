"""An image that is too large for the memory is skipped by name, whatever says so."""

import errno
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.sfm import image_work
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.short_memory import is_out_of_memory
from tests.helpers import ROOT, textured_image
from tests.sift_extractor import SiftExtractor


def opencv_error(code):
    error = cv2.error("Failed to allocate 324000000 bytes in function 'OutOfMemoryError'")
    error.code = code
    return error


SHORT = {
    "python": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(np.float32)),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4147200000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 4147200000 bytes."
    ),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8.1 GB)"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "c++": RuntimeError("std::bad_alloc"),
    "opencv": opencv_error(cv2.Error.StsNoMem),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}
OTHERS = {
    "shape": RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    "kernel": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "opencv": opencv_error(cv2.Error.StsBadArg),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "value": ValueError("out of memory is only in my words"),
}


def write_images(folder, count):
    folder.mkdir()
    for index in range(count):
        assert cv2.imwrite(str(folder / f"{index}.png"), textured_image(72, 96, seed=index))
    return folder


class Failing(SiftExtractor):
    """Fails at the second image."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def __call__(self, image, mask=None):
        if len(self.seen) == 1:
            self.seen.append(None)
            raise self.error
        return super().__call__(image, mask)


@pytest.mark.parametrize("name", SHORT)
def test_the_image_is_skipped_and_the_run_goes_on(name, tmp_path):
    folder = write_images(tmp_path / "in", 3)
    summary = extract_images(Failing(SHORT[name]), folder, tmp_path / "f.h5")
    assert summary.names == ["0.png", "2.png"]
    assert summary.skipped["1.png"] == ("not enough memory for 96x72 px; set a smaller max_side_px")


@pytest.mark.parametrize("name", OTHERS)
def test_an_error_of_another_cause_is_not_taken_for_that(name, tmp_path):
    folder = write_images(tmp_path / "in", 2)
    assert not is_out_of_memory(OTHERS[name])
    with pytest.raises(type(OTHERS[name])):
        extract_images(Failing(OTHERS[name]), folder, tmp_path / "f.h5")


@pytest.mark.parametrize("name", ["numpy", "opencv", "system"])
def test_an_image_that_cannot_be_read_for_want_of_memory_is_named(name, tmp_path, monkeypatch):
    folder = write_images(tmp_path / "in", 3)
    load_image = image_work.load_image

    def load_or_fail(path, **options):
        if path.name == "1.png":
            raise SHORT[name]
        return load_image(path, **options)

    monkeypatch.setattr(image_work, "load_image", load_or_fail)
    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5")
    assert summary.names == ["0.png", "2.png"]
    assert "not enough memory to read " in summary.skipped["1.png"]
    assert "1.png" in summary.skipped["1.png"]


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from rekd_hloc.sfm.extraction import extract_images
from tests.sift_extractor import SiftExtractor

class Hungry(SiftExtractor):
    def __call__(self, image, mask=None):
        if image.shape[0] > 1000:
            torch.zeros(64, *image.shape).sum()  # 4.6 GB
        return super().__call__(image, mask)

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
summary = extract_images(Hungry(), Path(sys.argv[1]), Path(sys.argv[2]))
print(summary.names, summary.skipped)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit addresses")
def test_a_real_allocation_that_fails(tmp_path):
    """One image is too large for the extractor, and one to be read at all."""
    folder = write_images(tmp_path / "in", 1)
    assert cv2.imwrite(str(folder / "large.png"), np.zeros((3000, 6000), np.uint8))
    (folder / "huge.ppm").write_bytes(b"P6 13000 13000 255\n" + bytes(3 * 13000 * 13000))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), str(tmp_path / "f.h5")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "['0.png']" in done.stdout
    assert "not enough memory for 6000x3000 px" in done.stdout
    assert "not enough memory to read" in done.stdout
    assert "huge.ppm" in done.stdout
