"""More than a hundred kinds of image files: each gives a right image, or one line that names it."""

import numpy as np
import pytest

from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore
from tests.isolated import call
from tests.odd_bytes import encode, scene
from tests.odd_images import EITHER, HIDDEN, ODD_IMAGES, READS, REFUSES
from tests.sift_extractor import SiftExtractor

LEAST_CORRELATION = 0.97
"""Of what is read with the scene; JPEG's and two-level pictures have theirs below."""
COARSE = ("one bit", "group4", "of 100", "lossy", "two pictures", "palette", "arithmetic")
LEAST_OF_COARSE = 0.75
OTHER_SCENES = ("one ", "very ", "black", "white.", "bits.pbm")


CASES = [pytest.param(odd, id=ascii(odd.name)[1:-1][:40]) for odd in ODD_IMAGES]


def test_there_are_many_kinds_each_with_a_name_of_its_own():
    assert len(ODD_IMAGES) >= 60
    assert len({odd.name for odd in ODD_IMAGES}) == len(ODD_IMAGES)
    assert {odd.outcome for odd in ODD_IMAGES} == {READS, REFUSES, EITHER, HIDDEN}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "images"
    for odd in ODD_IMAGES:
        odd.write(folder)
    return folder


@pytest.mark.parametrize("odd", CASES)
def test_read_image(odd, written):
    path = written / odd.name
    outcome = call("tests.odd_images:read_scene", path)
    assert outcome.flaw(str(path), repr(str(path))) is None
    if outcome.kind == "error":
        assert odd.outcome != READS, outcome.message
        return
    assert odd.outcome in (READS, EITHER, HIDDEN), f"was read: {outcome.value}"
    shape, low, high, correlation = outcome.value
    assert 0 <= low <= high <= 1
    if odd.outcome != EITHER or not odd.name.startswith(OTHER_SCENES):
        assert shape == odd.size
        assert high == pytest.approx(odd.maximum, abs=0.06)
        if not odd.name.startswith(OTHER_SCENES):
            coarse = odd.name.startswith(COARSE)
            assert correlation > (LEAST_OF_COARSE if coarse else LEAST_CORRELATION)


def extract(folder, odd_images):
    """Beside a good picture, whose features must be there whatever the others are."""
    images = folder / "images"
    images.mkdir()
    (images / "good.png").write_bytes(encode(scene(), "PNG"))
    for odd in odd_images:
        odd.write(images)
    outcome = call("tests.odd_images:extract_folder", images, folder / "features.h5")
    assert outcome.kind == "value", f"{outcome.error}: {outcome.message}"
    names, skipped = outcome.value
    assert "good.png" in names
    return names, skipped


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """All of them in one folder."""
    return extract(tmp_path_factory.mktemp("odd"), ODD_IMAGES)


@pytest.mark.parametrize("odd", CASES)
def test_extract_images(odd, extracted):
    names, skipped = extracted
    assert (odd.name in names) + (odd.name in skipped) == (odd.outcome != HIDDEN)
    if odd.outcome in (READS, REFUSES):
        assert (odd.name in names) == (odd.outcome == READS), skipped
    if odd.name in skipped:
        reason = skipped[odd.name]
        assert len(reason.splitlines()) == 1
        assert odd.name in reason or repr(odd.name)[1:-1] in reason


@pytest.mark.parametrize(
    "name",
    ["rgba with holes.png", "holes.webp", "grey with holes.png"],
)
def test_no_keypoint_lies_where_a_picture_is_transparent(name, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    alpha = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)
    planes = [scene()] * (1 if name.startswith("grey") else 3)
    layers = np.dstack([*planes, np.broadcast_to(alpha, (48, 64))])
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    (images / name).write_bytes(encode(layers, name[-4:].strip(".").upper(), **options))
    extract_images(SiftExtractor(200), images, tmp_path / "features.h5")
    with FeatureStore(tmp_path / "features.h5") as store:
        xy = store.read(name).keypoints.xy
    assert len(xy) > 5
    assert (xy[:, 0] < 32).all()
