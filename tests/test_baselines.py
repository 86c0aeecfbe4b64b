"""Every method by its name: conventions of its keypoints, budgets, weights, messages."""

import math

import cv2
import kornia.feature
import numpy as np
import pytest
import torch
from helpers import data_dir, descriptor_weights, random_features, textured_image

from evaluation.extractors import learned
from evaluation.extractors.classical import unit_rows
from evaluation.extractors.registry import (
    EXTRACTORS,
    NamedExtractor,
    limit,
    load_extractor,
    to_root,
)
from evaluation.homography.protocols import PROTOCOLS
from evaluation.metrics.homography import match_errors
from evaluation.robustness.measure import angle_errors
from evaluation.robustness.transforms import rotate_image
from rekd_hloc.geometry import angle_difference, warp_angles
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.storage.features import FeatureStore

ORIENTED = ("sift", "rootsift", "orb", "akaze", "colmap-sift")
OURS = (f"descriptor.weights={descriptor_weights()}",)


def load_or_skip(name: str, count: int, **options) -> NamedExtractor:
    """A method; skipped where OpenCV lacks AKAZE or the peers' weights are not there."""
    if name.split("+")[0] in learned.LEARNED:
        options.setdefault("weights", data_dir("weights"))
    try:
        return load_extractor(name, count, device="cpu", **options)
    except ValueError as error:
        if "has no AKAZE" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    cv2.imwrite(str(path), textured_image(180, 220, 3))
    return path


@pytest.fixture(scope="module")
def rotated(tmp_path_factory, picture):
    """The picture rotated by 40 degrees, and its matrix."""
    path = tmp_path_factory.mktemp("rotated") / "b.png"
    changed = rotate_image(cv2.imread(str(picture)), math.radians(40.0))
    cv2.imwrite(str(path), changed.image)
    return path, changed.transformed_from_image


@pytest.mark.parametrize("name", [*ORIENTED, "rootsift-upright"])
def test_classical_features_are_within_budget_strongest_first_and_of_unit_length(name, picture):
    method = load_or_skip(name, 60)
    features = method(picture)
    assert 20 < len(features) <= 60
    assert features.image_size == (220, 180)
    assert (features.keypoints.score.diff() <= 0).all()
    assert torch.allclose(features.descriptors.norm(dim=1), torch.ones(len(features)), atol=1e-5)
    angle = features.keypoints.angle
    assert ((angle >= 0) & (angle < 2 * math.pi)).all()
    assert method.has_orientation == bool(angle.any())
    assert method.weights == "-"


@pytest.mark.parametrize("name", ORIENTED)
def test_classical_features_rotate_with_the_image(name, picture, rotated):
    method = load_or_skip(name, 300)
    a, b = method(picture), method(rotated[0])
    matches = match_nearest(a.descriptors, b.descriptors)
    errors = match_errors(a.keypoints.xy, b.keypoints.xy, matches.index, rotated[1])
    right = matches.index[errors < 3]
    assert len(right) > 0.5 * len(matches)
    # the place is unbiased, but for OpenCV's quarter pixel: half a pixel would be seen
    moved = (b.keypoints.xy[right[:, 1]] - _warp(rotated[1], a.keypoints.xy[right[:, 0]])).median(0)
    assert moved.values.abs().max() < (0.15 if name == "colmap-sift" else 0.35)
    first, second = a.keypoints[right[:, 0]], b.keypoints[right[:, 1]]
    expected = warp_angles(rotated[1], first.xy, first.angle)
    angle = angle_difference(second.angle, expected).abs()
    assert float((angle < math.radians(15)).float().mean()) > 0.85


def _warp(matrix: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    from rekd_hloc.geometry import warp_points

    return warp_points(matrix, xy)


def test_sift_finds_a_blob_where_it_is(tmp_path):
    image = np.full((121, 141), 40, np.uint8)
    cv2.circle(image, (70, 50), 5, 220, -1)
    path = tmp_path / "blob.png"
    cv2.imwrite(str(path), image)
    for name, bias in (("colmap-sift", 0.0), ("sift", 0.25)):
        found = load_extractor(name, 50)(path).keypoints
        nearest = found.xy[(found.xy - torch.tensor([70.0, 50.0])).norm(dim=1).argmin()]
        assert nearest.tolist() == pytest.approx([70 + bias, 50 + bias], abs=0.05), name


def test_rootsift_is_sift_under_another_norm(picture):
    sift, root = load_extractor("sift", 100)(picture), load_extractor("rootsift", 100)(picture)
    assert torch.equal(sift.keypoints.xy, root.keypoints.xy)
    again = torch.nn.functional.normalize(to_root(sift.descriptors), dim=1)
    assert torch.allclose(again, root.descriptors, atol=1e-5)


def test_rootsift_upright_has_one_keypoint_for_each_place(picture):
    features = load_extractor("rootsift-upright", 500)(picture)
    both = torch.cat([features.keypoints.xy, features.keypoints.scale[:, None]], dim=1)
    assert len(torch.unique(both.round(decimals=2), dim=0)) == len(features)
    assert not features.keypoints.angle.any()


@pytest.mark.parametrize("name", ["sift", "rootsift", "rootsift-upright"])
def test_sift_fills_a_large_budget(name, tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).uniform(118, 138, (240, 320))
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 1.5).astype(np.uint8))
    few, many = load_extractor(name, 2048), load_extractor(name, 2049)
    small, large = few(path), many(path)
    assert "every extremum" in many.provenance["version"]
    assert "every extremum" not in few.provenance["version"]
    without_cap = load_extractor(name, PROTOCOLS["d2net"].num_extracted)
    assert "every extremum" not in without_cap.provenance["version"]
    assert len(without_cap(path)) == len(small)
    assert len(large) > 2 * max(len(small), 1)
    # what is strong comes first all the same
    assert (large.keypoints.score.diff() <= 0).all()
    places = {tuple(xy) for xy in large.keypoints.xy.round(decimals=2).tolist()}
    assert {tuple(xy) for xy in small.keypoints.xy.round(decimals=2).tolist()} <= places


def test_orb_compares_by_hamming_distance(picture):
    features = load_extractor("orb", 40)(picture)
    grey = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
    tool = cv2.ORB_create(40)
    _, described = tool.detectAndCompute(grey, None)
    hamming = np.unpackbits(described[:1] ^ described, axis=1).sum(axis=1)
    cosine = features.descriptors @ features.descriptors.T
    assert set((128 * (1 - cosine)).round().int().flatten().tolist()) >= set(hamming.tolist())


def test_an_image_without_structure_gives_no_keypoint(tmp_path):
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((80, 80), 128, np.uint8))
    widths = {"sift": 128, "rootsift-upright": 128, "orb": 256, "colmap-sift": 128}
    for name, width in widths.items():
        features = load_extractor(name, 50)(tmp_path / "flat.png")
        assert features.descriptors.shape == (0, width), name
        assert features.image_size == (80, 80)


def test_unit_rows_gives_rows_of_zeros_a_length():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(rows.norm(dim=1), torch.ones(2))
    assert rows[0].tolist() == pytest.approx([0.6, 0.8])


def test_limit_takes_the_strongest():
    features = random_features(30)
    best = limit(features, 10)
    assert best.keypoints.score.tolist() == sorted(features.keypoints.score.tolist())[:-11:-1]
    row = int(features.keypoints.score.argmax())
    assert torch.equal(best.descriptors[0], features.descriptors[row])


@pytest.mark.parametrize(
    "name", ["sift+rekd-hardnet", "orb+rekd-hardnet", "rootsift-upright+rekd-hardnet"]
)
def test_our_descriptor_describes_a_detector_s_keypoints(name, picture):
    base = load_extractor(name.removesuffix("+rekd-hardnet"), 80)
    method = load_extractor(name, 80, device="cpu", overrides=OURS)
    described, plain = method(picture), base(picture)
    assert torch.equal(described.keypoints.xy, plain.keypoints.xy)
    assert described.descriptors.shape == (len(plain), 128)
    assert method.has_orientation == base.has_orientation
    assert method.provenance["method"] == name
    assert method.weights == method.provenance["descriptor_weights"] != "-"


def test_the_old_name_of_the_descriptor_is_read_and_recorded_by_the_new_one():
    old = load_extractor("orb+ours", 80, device="cpu", overrides=OURS)
    new = load_extractor("orb+rekd-hardnet", 80, device="cpu", overrides=OURS)
    assert (old.name, old.provenance) == (new.name, new.provenance)
    assert new.name == "orb+rekd-hardnet"


def test_oriented_patches_of_sift_match_across_a_rotation_even_untrained(picture, rotated):
    method = load_extractor("sift+rekd-hardnet", 200, device="cpu", overrides=OURS)
    a, b = method(picture), method(rotated[0])
    matches = match_nearest(a.descriptors, b.descriptors)
    errors = match_errors(a.keypoints.xy, b.keypoints.xy, matches.index, rotated[1])
    assert float((errors < 3).float().mean()) > 0.4
    assert angle_errors(a, b, rotated[1]).median() < 5


def test_features_files_are_read_by_name_with_a_budget(picture, tmp_path):
    features = load_extractor("sift", 50)(picture)
    path = tmp_path / "f.h5"
    with FeatureStore.resume(path, {"preset": "x"}) as store:
        store.write("sub/a.png", features)
    root = tmp_path / "images"
    method = load_extractor(f"file:{path}", 20, image_root=root)
    got = method(root / "sub" / "a.png")
    assert torch.equal(got.keypoints.xy, features.keypoints.xy[:20])
    assert method.is_stored
    assert method.has_orientation
    assert "preset" in method.provenance["stored_provenance"]
    with pytest.raises(ValueError, match="has no image 'b.png'"):
        method(root / "b.png")


def test_features_files_need_images_and_content(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_extractor(f"file:{tmp_path / 'none.h5'}", 10, image_root=tmp_path)
    FeatureStore.resume(tmp_path / "e.h5", {}).close()
    with pytest.raises(ValueError):
        load_extractor(f"file:{tmp_path / 'e.h5'}", 10, image_root=tmp_path)
    with pytest.raises(ValueError, match="cannot be used here"):
        load_extractor(f"file:{tmp_path / 'e.h5'}", 10)


def test_unknown_methods_are_answered_with_the_list():
    for name in ("surf", "surf+rekd-hardnet", "REKD"):
        with pytest.raises(ValueError) as caught:
            load_extractor(name, 10, overrides=OURS)
        assert all(method in str(caught.value) for method in EXTRACTORS)
        assert "file:PATH" in str(caught.value)


@pytest.mark.parametrize("name", learned.LEARNED)
def test_absent_weights_are_told_with_place_and_origin(name, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_extractor(name, 10, device="cpu", weights=tmp_path, overrides=OURS)
    part, origin = learned.FILES[name]
    for text in (str(tmp_path / part), origin, "--weights", "file:PATH"):
        assert text in str(caught.value)


def test_weights_folder_comes_from_argument_environment_or_beside_the_checkout(
    tmp_path, monkeypatch
):
    assert learned.weights_dir(tmp_path) == tmp_path
    monkeypatch.setenv("REKD_DATA", "/somewhere")
    assert learned.weights_dir().as_posix() == "/somewhere/weights"
    monkeypatch.delenv("REKD_DATA")
    assert learned.weights_dir().parts[-3:] == ("shared", "data", "weights")


def test_a_kornia_without_aliked_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "aliked-n16.pth").write_bytes(b"")
    monkeypatch.delattr(kornia.feature, "ALIKED", raising=False)
    with pytest.raises(ValueError, match="pip install 'kornia>=0.9'"):
        load_extractor("aliked-n16", 10, device="cpu", weights=tmp_path)


def test_an_opencv_without_akaze_says_what_to_install(monkeypatch):
    monkeypatch.delattr(cv2, "AKAZE_create", raising=False)
    monkeypatch.delattr(cv2, "xfeatures2d", raising=False)
    with pytest.raises(ValueError, match="install opencv-python below 5"):
        load_extractor("akaze", 10)


def random_xfeat(folder):
    """Weights of the published form, whose score map has peaks without training."""
    torch.manual_seed(0)
    network = kornia.feature.XFeatModel()
    with torch.no_grad():
        for layer in (network.keypoint_head[-1], network.heatmap_head[-2]):
            layer.weight.mul_(30)
    torch.save(network.state_dict(), folder / "xfeat.pt")


@pytest.mark.skipif(not hasattr(kornia.feature, "XFeat"), reason="this kornia has no XFeat")
def test_xfeats_keypoints_lie_at_centres_of_pixels(tmp_path):
    """It shrinks the larger image to the size of the smaller one, a multiple of 32."""
    random_xfeat(tmp_path)
    method = load_extractor("xfeat", 40, device="cpu", weights=tmp_path)
    assert not method.has_orientation
    small = cv2.GaussianBlur(textured_image(64, 96, seed=1), (0, 0), 1.5)
    large = cv2.resize(small, (120, 80), interpolation=cv2.INTER_LINEAR)
    a, b = (method(np.repeat(grey[:, :, None], 3, axis=2)) for grey in (small, large))
    assert len(a) > 10
    assert a.descriptors.shape[1] == 64
    expected = (a.keypoints.xy + 0.5) * 1.25 - 0.5
    distance = torch.cdist(expected, b.keypoints.xy).amin(dim=1)
    assert float((distance < 1e-3).float().mean()) > 0.5


def test_xfeat_without_fitting_weights_says_so(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(2)}, tmp_path / "xfeat.pt")
    if hasattr(kornia.feature, "XFeat"):
        with pytest.raises(ValueError, match=r"xfeat\.pt does not fit xfeat"):
            load_extractor("xfeat", 10, device="cpu", weights=tmp_path)
    monkeypatch.delattr(kornia.feature, "XFeat", raising=False)
    with pytest.raises(ValueError, match="a kornia that has XFeat"):
        load_extractor("xfeat", 10, device="cpu", weights=tmp_path)
    with pytest.raises(FileNotFoundError, match="accelerated_features"):
        load_extractor("xfeat", 10, device="cpu", weights=tmp_path / "nowhere")


@pytest.mark.data
def test_keynet_finds_again_what_it_found(picture, tmp_path):
    method = load_or_skip("keynet", 120, overrides=OURS)
    features = method(picture)
    assert 60 < len(features) <= 120
    assert not method.has_orientation
    assert features.descriptors.shape[1] == 128
    assert features.keypoints.scale.min() < 1 < features.keypoints.scale.max()
    image = cv2.imread(str(picture))
    cv2.imwrite(str(tmp_path / "dark.png"), cv2.convertScaleAbs(image, alpha=0.8))
    again = method(tmp_path / "dark.png")
    distance = torch.cdist(features.keypoints.xy, again.keypoints.xy).amin(dim=1)
    assert float((distance < 1.5).float().mean()) > 0.6


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["disk", "aliked-n16", "aliked-n16rot"])
def test_learned_features_survive_a_small_shift(name, picture, tmp_path):
    method = load_or_skip(name, 150)
    features = method(picture)
    assert 60 < len(features) <= 150
    assert features.descriptors.shape[1] == 128
    image = cv2.imread(str(picture))
    cv2.imwrite(str(tmp_path / "cut.png"), image[6:, 11:])
    shifted = method(tmp_path / "cut.png")
    matches = match_nearest(features.descriptors, shifted.descriptors)
    b_from_a = torch.eye(3, dtype=torch.float64)
    b_from_a[:2, 2] = torch.tensor([-11.0, -6.0])
    errors = match_errors(features.keypoints.xy, shifted.keypoints.xy, matches.index, b_from_a)
    assert float((errors < 2).float().mean()) > 0.7
