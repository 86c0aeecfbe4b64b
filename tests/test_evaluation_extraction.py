"""The evaluation extracts and masks by the package's own loop."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import random_features, textured_image

from evaluation.extractors.extraction import extract_by_content, extract_images
from evaluation.extractors.named_extractor import NamedExtractor, grey_of
from evaluation.extractors.registry import load_extractor
from rekd_hloc.features.detector.mask import patches_are_usable
from rekd_hloc.images import read_color, read_image, read_mask
from rekd_hloc.storage.features import FeatureStore


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = {}
    for seed in range(2):
        paths[f"sub/{seed}"] = folder / f"{seed}.png"
        cv2.imwrite(str(paths[f"sub/{seed}"]), textured_image(160, 200, seed))
    return paths


@pytest.fixture
def mask(tmp_path) -> Path:
    """Half of the image is ignored."""
    path = tmp_path / "mask.png"
    values = np.full((160, 200), 255, np.uint8)
    values[:, :100] = 0
    cv2.imwrite(str(path), values)
    return path


def read_all(path, names):
    with FeatureStore(path) as store:
        return [store.read(name) for name in names]


@pytest.mark.parametrize("name", ["sift", "rootsift-upright", "orb"])
def test_a_mask_drops_every_patch_that_touches_it(images, mask, tmp_path, name):
    extractor = load_extractor(name, 400)
    names = list(images)
    plain, _ = read_all(extract_images(images, extractor, tmp_path).path, names)
    masked, other = read_all(
        extract_images(images, extractor, tmp_path, masks={names[0]: mask}).path, names
    )
    usable = patches_are_usable(
        plain.keypoints, torch.from_numpy(read_mask(mask)), extractor.patch_side,
        oriented=extractor.has_orientation,
    )  # fmt: skip
    assert 5 < usable.sum() < (plain.keypoints.xy[:, 0] > 100).sum()
    assert torch.equal(masked.keypoints.xy, plain.keypoints.xy[usable])
    assert torch.equal(masked.descriptors, plain.descriptors[usable])
    assert len(other) == len(extractor(images[names[1]])), "an image without a mask is whole"


def test_an_extractor_that_takes_masks_is_handed_them(images, mask, tmp_path):
    given = []

    def extract(image, mask):
        given.append(mask)
        return random_features(5)

    extractor = NamedExtractor("any", extract, {}, takes_mask=True)
    name = next(iter(images))
    extract_images(images, extractor, tmp_path, wanted=[name], masks={name: mask})
    assert np.array_equal(given[0], read_mask(mask))
    assert given[0].sum() == given[0].size / 2


def test_features_follow_the_content_of_images(images, tmp_path):
    extractor = load_extractor("sift", 50)
    changed = tmp_path / "image.png"
    changed.write_bytes(images["sub/0"].read_bytes())
    first = extract_by_content({"a": changed}, extractor, tmp_path, label="x")
    changed.write_bytes(images["sub/1"].read_bytes())
    second = extract_by_content({"a": changed}, extractor, tmp_path, label="x")
    direct = extractor(images["sub/1"])
    assert torch.equal(second["a"].keypoints.xy, direct.keypoints.xy)
    assert not torch.equal(second["a"].keypoints.xy[:5], first["a"].keypoints.xy[:5])
    assert len(list(tmp_path.glob("x-sift-*.h5"))) == 1


def test_an_image_that_cannot_be_read_is_named(images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        extract_images({**images, "broken": broken}, load_extractor("sift", 50), tmp_path)


def test_a_mask_of_another_size_is_refused(images, tmp_path):
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.full((20, 20), 255, np.uint8))
    with pytest.raises(ValueError, match="must be equal"):
        extract_images(images, load_extractor("sift", 50), tmp_path, masks={"sub/0": small})


def test_grey_of_colours_is_that_of_the_file(tmp_path):
    path = tmp_path / "colour.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    assert torch.equal(grey_of(read_color(path)), read_image(path))
