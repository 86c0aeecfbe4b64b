import functools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig, get_preset
from rekd_hloc.devices import choose_device
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.features.grey_images import grey_from_array
from rekd_hloc.images import ImageReadError
from rekd_hloc.weight_files import weights_hash
from tests.helpers import descriptor_weights, detector_weights, textured_image
from tests.test_mask import touched


@functools.cache
def plain():
    """Random weights, three levels."""
    return ExtractConfig(
        weights=str(detector_weights()),
        detector=DetectorConfig(max_keypoints=100, levels_up=0, levels_down=2),
        descriptor=DescriptorConfig(weights=str(descriptor_weights())),
    )


@pytest.fixture(scope="module")
def extractor():
    return Extractor.from_pretrained("rekd", device="cpu", config=plain())


@pytest.fixture(scope="module")
def image():
    return textured_image(130, 170, 2)


@pytest.fixture(scope="module")
def features(extractor, image):
    return extractor(image)


def assert_same(a, b, atol=1e-4):
    assert a.image_size == b.image_size
    assert len(a) == len(b) > 0
    for name in ("xy", "scale", "angle", "score"):
        torch.testing.assert_close(
            getattr(a.keypoints, name), getattr(b.keypoints, name), atol=atol, rtol=atol
        )
    torch.testing.assert_close(a.descriptors, b.descriptors, atol=10 * atol, rtol=0)


def assert_sound(features, size):
    """Whatever the image: shapes, ranges and no NaN."""
    keypoints = features.keypoints
    assert features.image_size == size
    assert features.descriptors.shape == (len(features), 128)
    assert all(torch.isfinite(getattr(keypoints, n)).all() for n in ("xy", "scale", "score"))
    assert ((keypoints.angle >= 0) & (keypoints.angle < 2 * torch.pi)).all()
    assert (keypoints.scale > 0).all()
    assert (keypoints.score.diff() <= 0).all()
    assert (keypoints.xy >= -0.5).all()
    assert (keypoints.xy <= torch.tensor(size) - 0.5).all()
    torch.testing.assert_close(features.descriptors.norm(dim=1), torch.ones(len(features)))
    assert all(
        t.device.type == "cpu" and t.dtype == torch.float32
        for t in (keypoints.xy, keypoints.scale, keypoints.angle, features.descriptors)
    )


def test_features_of_an_array(features):
    assert_sound(features, (170, 130))
    assert 20 < len(features) <= 100
    assert len(features.keypoints.scale.unique()) > 1
    similarity = features.descriptors @ features.descriptors.T
    assert similarity.min() < 0.9  # descriptors differ


def test_path_array_and_tensor_are_alike(extractor, image, features, tmp_path):
    path = tmp_path / "ein bild.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    for same in (path, str(path), torch.from_numpy(image), image.astype(np.float32) / 255):
        assert_same(extractor(same), features)
    fixed = image[::-1].copy()[::-1]  # a view that runs backwards, and read-only
    fixed.flags.writeable = False
    assert_same(extractor(fixed, fixed >= 0), features)
    sixteen = image.astype(np.uint16) * 257
    assert_same(extractor(sixteen), features)
    path.write_bytes(cv2.imencode(".png", sixteen)[1].tobytes())
    assert_same(extractor(path), features)
    colour = np.repeat(image[..., None], 3, axis=2)
    assert_same(extractor(colour), features, atol=1e-3)


def test_the_input_is_not_changed(extractor, image):
    tensor = torch.from_numpy(image.copy()).float() / 255
    before = tensor.clone()
    mask = np.ones(image.shape, np.uint8)
    extractor(tensor, mask)
    assert torch.equal(tensor, before)
    assert mask.all()


def test_red_green_and_blue_have_their_weights():
    primaries = np.zeros((1, 3, 3), np.uint8)
    primaries[0, [0, 1, 2], [0, 1, 2]] = 255
    assert grey_from_array(primaries)[0].tolist() == pytest.approx([0.299, 0.587, 0.114])


@pytest.mark.parametrize("kind", ["black", "grey", "white"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (40, 50), (130, 170)])
@pytest.mark.parametrize("preset", ["rekd", "rekd-paper"])
def test_a_constant_image_gives_no_features(extractor, kind, size, preset):
    extractor.detector.config, kept = get_preset(preset).detector, extractor.detector.config
    value = {"black": 0, "grey": 77, "white": 255}[kind]
    found = extractor(np.full(size, value, np.uint8))
    extractor.detector.config = kept
    assert len(found) == 0
    assert_sound(found, (size[1], size[0]))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 2000), (14, 14), (31, 40), (33, 300)])
@pytest.mark.parametrize("preset", ["rekd-fast", "rekd-paper"])
def test_a_small_image_is_no_error(extractor, size, preset):
    extractor.detector.config, kept = get_preset(preset).detector, extractor.detector.config
    found = extractor(textured_image(*size))
    extractor.detector.config = kept
    assert_sound(found, (size[1], size[0]))
    if preset == "rekd-fast" and min(size) <= 30:
        assert len(found) == 0


def test_a_half_flat_image_has_keypoints_in_the_other_half(extractor, image):
    half = np.concatenate([image, np.full((130, 200), 255, np.uint8)], axis=1)
    found = extractor(half)
    assert len(found) > 20
    assert (found.keypoints.xy[:, 0] < 200).all()


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("max_side", [0, 90])
def test_no_patch_touches_an_ignored_pixel(image, oriented, max_side):
    config = replace(
        plain(),
        max_side_px=max_side,
        detector=replace(plain().detector, border_px=4, nms_window_px=5),
        descriptor=replace(plain().descriptor, oriented=oriented, patch_size_px=10.0),
    )
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    mask = cv2.circle(np.full((130, 170), 255, np.uint8), (80, 60), 20, 0, -1)
    mask[:, 160:] = 0

    def hits(features):
        indices = range(len(features))
        return sum(touched(features.keypoints, i, mask > 0, 10.0, oriented) for i in indices)

    assert hits(extractor(image)) > 5
    masked = extractor(image, mask)
    assert len(masked) > 20
    assert hits(masked) == 0
    assert_same(extractor(image, torch.from_numpy(mask) > 0), masked)
    assert len(extractor(image, np.zeros((130, 170), bool))) == 0


def test_a_mask_of_another_size_is_refused(extractor, image):
    with pytest.raises(ValueError, match=r"mask has shape \(170, 130\), its image \(130, 170\)"):
        extractor(image, np.ones((170, 130), np.uint8))


def test_features_map_back_to_the_image_they_came_from(image):
    """Each pixel of the image is doubled: reduced again it is the image, to the last bit."""
    config = replace(plain(), max_side_px=170)
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    double = np.kron(image, np.ones((2, 2), np.uint8))
    small, large = extractor(image), extractor(double)
    assert large.image_size == (340, 260)
    assert len(large) == len(small) > 20
    torch.testing.assert_close(large.descriptors, small.descriptors)
    torch.testing.assert_close(large.keypoints.xy, (small.keypoints.xy + 0.5) * 2 - 0.5)
    torch.testing.assert_close(large.keypoints.scale, small.keypoints.scale * 2)
    torch.testing.assert_close(large.keypoints.angle, small.keypoints.angle)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((4, 4, 4), np.uint8), "height, width, 3"),
        (np.zeros((4, 0), np.uint8), "no pixel"),
        (np.zeros((4, 4), np.int32), "int32"),
        (np.full((4, 4), 255.0, np.float32), "0..1"),
        (np.full((4, 4), np.nan, np.float32), "0..1"),
        (np.full((4, 4), -0.5, np.float32), "0..1"),
    ],
)
def test_an_array_that_is_no_image_is_refused_by_what_it_is(extractor, bad, words):
    with pytest.raises(ValueError, match=words):
        extractor(bad)


def test_a_file_that_is_no_image(extractor, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    with pytest.raises(ImageReadError, match="a.jpg"):
        extractor(path)
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        extractor(tmp_path / "gone.jpg")


def test_provenance_names_configuration_and_weights(extractor):
    provenance = extractor.provenance
    assert provenance["preset"] == "rekd"
    assert provenance["detector_weights"] == weights_hash(detector_weights())
    assert provenance["descriptor_weights"] == weights_hash(descriptor_weights())
    assert '"max_keypoints": 100' in provenance["config"]
    other = Extractor.from_pretrained(
        "rekd", device="cpu", config=replace(plain(), max_side_px=999)
    )
    assert other.provenance["config_hash"] != provenance["config_hash"]
    assert extractor.device.type == "cpu"


def test_devices_by_name():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="tpu9"):
        choose_device("tpu9")


def test_weights_that_are_not_there():
    with pytest.raises(FileNotFoundError, match="no weights 'nowhere'"):
        Extractor.from_pretrained("rekd", config=replace(plain(), weights="nowhere"))
    with pytest.raises(ValueError, match="no preset 'redk'"):
        Extractor.from_pretrained("redk")
