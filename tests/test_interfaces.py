"""The extractor in the manners of kornia, LightGlue, OpenCV and pandas."""

import kornia.feature
import numpy as np
import pytest
import torch

from rekd_hloc import match, match_pair
from rekd_hloc.cli.options import resolve_conf
from rekd_hloc.config import (
    RECONSTRUCTION_MATCHING,
    DescriptorConfig,
    DetectorConfig,
    ExtractConfig,
    load_config,
    reconstruction_preset,
)
from rekd_hloc.features.batches import images_of_batch, pad_features
from rekd_hloc.features.descriptor.patches import affine_frames, cut_patches
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.kornia import RekdFeature
from rekd_hloc.sfm.database import colmap_keypoints
from rekd_hloc.sfm.reconstruct import ReconstructOptions
from rekd_hloc.sfm.reconstruct import _load_extractor as load_for
from tests.helpers import (
    ROOT,
    descriptor_weights,
    detector_weights,
    random_features,
    random_keypoints,
    textured_image,
)


@pytest.fixture(scope="module")
def extractor():
    config = ExtractConfig(
        weights=str(detector_weights()),
        detector=DetectorConfig(levels_up=0, levels_down=1, max_keypoints=60),
        descriptor=DescriptorConfig(weights=str(descriptor_weights())),
    )
    return Extractor.from_pretrained("tiny", device="cpu", config=config)


@pytest.fixture(scope="module")
def pictures():
    """Two grey images in 0..1, shape (2, 1, 120, 150)."""
    return torch.stack(
        [torch.from_numpy(textured_image(120, 150, s)).float()[None] / 255 for s in (0, 1)]
    )


def test_kornias_matcher_matches_a_rotated_batch(extractor, pictures):
    matcher = kornia.feature.LocalFeatureMatcher(
        RekdFeature(extractor=extractor), kornia.feature.DescriptorMatcher("mnn")
    )
    out = matcher({"image0": pictures, "image1": pictures.flip((2, 3))})
    moved = torch.tensor([149.0, 119.0]) - out["keypoints1"]
    assert set(out["batch_indexes"].tolist()) == {0, 1}
    close = (out["keypoints0"] - moved).norm(dim=1) < 1.5
    assert close.sum() > 40
    assert close.float().mean() > 0.7


def test_a_batch_is_padded_with_zeros(extractor, pictures):
    mask = torch.ones(2, 1, 120, 150)
    mask[1] = 0
    frames, responses, descriptors = RekdFeature(extractor=extractor)(pictures, mask)
    count = len(extractor(pictures[0]))
    assert frames.shape == (2, count, 2, 3)
    assert descriptors.shape == (2, count, 128)
    assert not frames[1].any()
    assert not responses[1].any()
    assert kornia.feature.laf_is_filled(frames).sum(dim=1).tolist() == [count, 0]


def test_kornia_cuts_our_patches_from_the_frames():
    image = torch.from_numpy(textured_image(120, 150)).float() / 255
    keypoints = random_keypoints(20, (80, 60), seed=3)
    keypoints = type(keypoints)(
        keypoints.xy + 35, torch.full_like(keypoints.scale, 0.5), keypoints.angle, keypoints.score
    )
    ours = cut_patches(image, keypoints, patch_size_px=40.0, oriented=True, antialias=False)[:, 0]
    frames = affine_frames(keypoints, 40.0, oriented=True)
    theirs = kornia.feature.extract_patches_simple(image[None, None], frames[None], 32)[0, :, 0]
    for a, b in zip(ours, theirs, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_extract_gives_the_names_and_axes_of_lightglue(extractor, pictures):
    found = extractor.extract(pictures.expand(-1, 3, -1, -1))
    counts = [len(extractor(picture)) for picture in pictures]
    assert found["num_keypoints"].tolist() == counts
    assert found["image_size"].tolist() == [[150, 120]] * 2
    shapes = {name: tuple(rows.shape) for name, rows in found.items()}
    longest = max(counts)
    assert shapes["keypoints"] == (2, longest, 2)
    assert shapes["descriptors"] == (2, longest, 128)
    assert shapes["keypoint_scores"] == shapes["scales"] == shapes["oris"] == (2, longest)
    single = extractor.extract(pictures[0])
    assert single["keypoints"].shape == (1, counts[0], 2)
    with pytest.raises(ValueError, match="mask with a single image"):
        extractor.extract(pictures, np.ones((120, 150)))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first(extractor, pictures, channels):
    grey = extractor(pictures[0, 0])
    first = extractor(pictures[0].expand(channels, -1, -1))
    torch.testing.assert_close(first.keypoints.xy, grey.keypoints.xy, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="extract takes batches"):
        extractor(pictures)


def test_other_shapes_are_no_batch():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        images_of_batch(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="at least one image"):
        pad_features([])


def test_match_pair_numbers_matches_from_both_sides(extractor, pictures):
    first, second, found = match_pair(extractor, pictures[0, 0], pictures[0, 0])
    count = len(first["keypoints"])
    assert len(found["matches"]) == count
    assert found["matches0"].tolist() == list(range(count))
    torch.testing.assert_close(first["descriptors"], second["descriptors"])
    _, _, none = match_pair(extractor, pictures[0, 0], torch.zeros(40, 40))
    assert none["matches"].shape == (0, 2)
    assert set(none["matches0"].tolist()) == {-1}


def test_opencv_takes_our_keypoints(extractor, pictures):
    cv2 = pytest.importorskip("cv2")
    grey = (pictures[0, 0].numpy() * 255).round().astype(np.uint8)
    points, descriptors = extractor.detectAndCompute(grey, None)
    features = extractor(grey)
    assert len(points) == len(descriptors) == len(features)
    for row, point in enumerate(points):
        assert point.pt == pytest.approx(features.keypoints.xy[row].tolist())
        assert point.angle == pytest.approx(np.rad2deg(float(features.keypoints.angle[row])))
        sigma = colmap_keypoints(features.keypoints[row : row + 1], 64.0)[0, 2]
        assert point.size == pytest.approx(2 * sigma)
    described = cv2.SIFT_create().compute(grey, list(points))[1]
    assert described.shape == (len(points), 128)
    drawn = cv2.drawKeypoints(grey, list(points), None)
    assert drawn.shape == (120, 150, 3)


def test_opencvs_colours_are_bgr(extractor):
    colour = np.zeros((120, 150, 3), np.uint8)
    colour[:, :, 0] = textured_image(120, 150)  # blue to OpenCV
    points, _ = extractor.detectAndCompute(colour)
    swapped = extractor(np.ascontiguousarray(colour[:, :, ::-1]))
    assert [p.pt for p in points] == [tuple(xy) for xy in swapped.keypoints.xy.tolist()]
    one = extractor.detectAndCompute(colour[:, :, :1], np.zeros((120, 150), np.uint8))
    assert one[0] == ()
    assert one[1].shape == (0, 128)


def test_features_are_sliced_and_become_arrays():
    features = random_features(7)
    part = features[2:5]
    assert len(part) == len(features.keypoints[2:5]) == 3
    assert part.image_size == features.image_size
    torch.testing.assert_close(part.descriptors, features[torch.tensor([2, 3, 4])].descriptors)
    arrays = part.numpy()
    assert {name: rows.shape for name, rows in arrays.items()} == {
        "xy": (3, 2), "scale": (3,), "angle": (3,), "score": (3,),
        "descriptors": (3, 128), "image_size": (2,),
    }  # fmt: skip


def test_features_become_a_frame_of_pandas():
    pytest.importorskip("pandas")
    features = random_features(4)
    frame = features.to_frame()
    assert list(frame.columns) == ["x", "y", "scale", "angle_deg", "score"]
    assert frame.angle_deg[2] == pytest.approx(np.rad2deg(float(features.keypoints.angle[2])))


def test_without_pandas_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        random_features(4).to_frame()


def test_a_folder_holds_an_extractor(extractor, pictures, tmp_path):
    folder = tmp_path / "mine"
    extractor.save_pretrained(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "descriptor.safetensors", "detector.safetensors"]
    again = Extractor.from_pretrained(folder, device="cpu")
    torch.testing.assert_close(
        again(pictures[0]).descriptors, extractor(pictures[0]).descriptors, atol=1e-6, rtol=0
    )
    extractor.save_pretrained(folder)  # the same files
    (folder / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="overwrite"):
        extractor.save_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        Extractor.from_pretrained(folder)


def test_a_folder_is_a_conf_of_a_reconstruction_and_of_the_command_line(extractor, tmp_path):
    folders = [tmp_path / "mine", tmp_path / "moved" / "again"]
    found = []
    for folder in folders:
        extractor.save_pretrained(folder)
        options = ReconstructOptions(conf=str(folder), device="cpu")
        found.append(load_for(options))
        name, config = resolve_conf(str(folder), None, ["max_side_px=90"], None, "cpu")
        assert name == str(folder)
        assert (config.max_side_px, config.detector.max_keypoints) == (90, 60)
    assert [one.config.detector.max_keypoints for one in found] == [60, 60]
    first, second = (dict(one.provenance) for one in found)
    assert [part.pop("preset") for part in (first, second)] == list(map(str, folders))
    assert first == second  # wherever the folder lies
    name, config = resolve_conf("rekd-fast", None, None, None, "cpu")
    assert config == reconstruction_preset("rekd-fast")
    for ask in (
        Extractor.from_pretrained,
        lambda name: resolve_conf(name, None, None, None, "cpu"),
    ):
        with pytest.raises(ValueError, match="no preset 'nowhere'.*a folder is one of"):
            ask("nowhere")


def test_torch_hub_loads_from_the_repository(extractor, pictures, tmp_path):
    extractor.save_pretrained(tmp_path / "mine")
    options = {"source": "local", "device": "cpu"}
    loaded = torch.hub.load(str(ROOT), "extractor", str(tmp_path / "mine"), **options)
    torch.testing.assert_close(
        loaded(pictures[0]).keypoints.xy, extractor(pictures[0]).keypoints.xy
    )
    feature = torch.hub.load(str(ROOT), "kornia_feature", str(tmp_path / "mine"), **options)
    assert feature(pictures)[0].shape[0] == 2


def test_a_presets_name_is_no_configuration():
    with pytest.raises(ValueError, match="get_preset"):
        load_config("rekd-fast")


def test_kornias_feature_takes_a_saved_folder_with_another_budget(extractor, pictures, tmp_path):
    extractor.save_pretrained(tmp_path / "mine")
    whole = RekdFeature(str(tmp_path / "mine"), device="cpu")
    few = RekdFeature(str(tmp_path / "mine"), num_features=20, device="cpu")
    assert whole(pictures)[1].shape == RekdFeature(extractor=extractor)(pictures)[1].shape
    assert few(pictures)[1].shape == (2, 20)
    with pytest.raises(ValueError, match="an extractor has its own options"):
        RekdFeature(extractor=extractor, num_features=20)


def test_kornias_feature_names_masks_and_batches_that_do_not_fit(extractor, pictures):
    feature = RekdFeature(extractor=extractor)
    with pytest.raises(
        ValueError, match=r"mask has shape \(2, 64, 64\), its images \(2, 1, 120, 150"
    ):
        feature(pictures, torch.ones(2, 64, 64))
    with pytest.raises(ValueError, match="at least one image"):
        feature(pictures[:0])


def test_a_pair_is_matched_as_the_command_line_matches(extractor, pictures):
    a, b = (pictures[row, 0] for row in (0, 1))
    asked = match(extractor(a), extractor(b), RECONSTRUCTION_MATCHING)
    assert match_pair(extractor, a, b)[2]["matches"].tolist() == asked.index.tolist()
    assert len(match(extractor(a), extractor(b))) != len(asked)
