import importlib

import cv2
import h5py
import numpy as np
import pytest
import torch

from rekd_hloc import plugin
from rekd_hloc.config import PRESETS, get_preset, with_max_keypoints
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.plugin.__main__ import main
from rekd_hloc.plugin.confs import DETECTION_NOISE_PX, MAX_KEYPOINTS, extractor_confs
from rekd_hloc.plugin.conversion import features_from_hloc, features_to_hloc
from rekd_hloc.storage.features import FeatureStore
from tests.helpers import random_features, textured_image
from tests.hloc_home import KINDS, fresh_hloc, random_weights, write_random_weights

COUNT = 120


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    write_random_weights(folder)
    with random_weights(folder):
        yield folder


@pytest.fixture(params=KINDS)
def hloc(request):
    with fresh_hloc(request.param) as kind:
        plugin.register()
        yield kind


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    assert cv2.imwrite(str(folder / "sub" / "a.png"), textured_image(170, 220))
    assert cv2.imwrite(str(folder / "b.png"), np.zeros((90, 100), np.uint8))
    return folder


def build(**options):
    base_model = importlib.import_module("hloc.utils.base_model")
    extractors = importlib.import_module("hloc.extractors")
    conf = {"name": "rekd", "preset": "rekd-fast", "max_keypoints": COUNT, **options}
    return base_model.dynamic_load(extractors, "rekd")(conf).eval()


def direct(image, count=COUNT):
    config = with_max_keypoints(get_preset("rekd-fast"), count)
    return Extractor.from_pretrained("rekd-fast", device="cpu", config=config)(image)


def as_hloc(image):
    return {"image": torch.from_numpy(image)[None, None] / 255}


@torch.no_grad()
def test_the_prediction_is_the_extractors_in_hlocs_form(hloc):
    image = textured_image(150, 200)
    prediction = build()(as_hloc(image))
    expected = direct(image)
    keypoints = expected.keypoints
    count = len(expected)
    assert count > 40
    assert {key: tuple(value.shape) for key, value in prediction.items()} == {
        "keypoints": (1, count, 2),
        "scales": (1, count),
        "oris": (1, count),
        "scores": (1, count),
        "descriptors": (1, 128, count),
    }
    torch.testing.assert_close(prediction["keypoints"][0], keypoints.xy.double())
    torch.testing.assert_close(prediction["oris"][0], torch.rad2deg(keypoints.angle.double()))
    torch.testing.assert_close(prediction["descriptors"][0].T, expected.descriptors)
    torch.testing.assert_close(prediction["descriptors"].norm(dim=1), torch.ones(1, count))
    for name in ("keypoints", "scales", "oris", "scores"):
        assert prediction[name].dtype == torch.float64
    assert 0 <= prediction["oris"].min() < 10 < 350 < prediction["oris"].max() < 360


@torch.no_grad()
def test_colour_is_made_grey_and_overshoot_is_cut(hloc):
    image = textured_image(100, 120)
    model = build()
    grey = model(as_hloc(image))
    colour = model({"image": as_hloc(image)["image"].expand(1, 3, -1, -1) * 1.0})
    torch.testing.assert_close(colour["keypoints"], grey["keypoints"], atol=0.05, rtol=0)
    beyond = as_hloc(image)
    beyond["image"] = beyond["image"] * 1.2 - 0.1
    assert build()(beyond)["keypoints"].shape[1] > 0


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (20, 30)])
def test_an_image_without_keypoints_has_the_right_shapes(hloc, size):
    prediction = build()({"image": torch.zeros(1, 1, *size)})
    assert prediction["keypoints"].shape == (1, 0, 2)
    assert prediction["descriptors"].shape == (1, 128, 0)
    for name in ("oris", "scales", "scores"):
        assert prediction[name].shape == (1, 0)


@torch.no_grad()
def test_hlocs_resizing_is_the_only_one(hloc):
    wide = torch.from_numpy(textured_image(60, 2000))[None, None] / 255
    prediction = build()({"image": wide})
    assert build().extractor.config.max_side_px == 0
    assert prediction["keypoints"][0, :, 0].max() > 1700


def test_networks_move_with_the_model(hloc):
    model = build()
    model.to(torch.float64)
    assert {p.dtype for p in model.extractor.detector.network.parameters()} == {torch.float64}
    assert {p.dtype for p in model.extractor.descriptor.parameters()} == {torch.float64}
    assert len(list(model.parameters())) > 0


@pytest.mark.parametrize("count", [0, -2, MAX_KEYPOINTS + 1])
def test_a_budget_that_hloc_cannot_index_is_refused(hloc, count):
    with pytest.raises(ValueError, match=rf"1\.\.{MAX_KEYPOINTS}.*{count}"):
        build(max_keypoints=count)


def test_minus_one_means_all_that_hloc_can_store(hloc):
    assert build(max_keypoints=-1).extractor.config.detector.max_keypoints == MAX_KEYPOINTS


def test_options_change_the_preset(hloc):
    model = build(options={"detector.border_px": 31, "descriptor.oriented": False})
    assert model.extractor.config.detector.border_px == 31
    assert not model.extractor.config.descriptor.oriented
    with pytest.raises(ValueError, match="boder_px.*border_px"):
        build(options={"detector.boder_px": 31})


def test_missing_weights_are_an_error_before_the_run(hloc, tmp_path):
    with random_weights(tmp_path), pytest.raises(FileNotFoundError, match="rekd-fast"):
        build()


def extract(images, out, **changes):
    extract_features = importlib.import_module("hloc.extract_features")
    conf = extract_features.confs["rekd-fast-n1500"]
    conf["preprocessing"] |= changes
    return extract_features.main(conf, images, out)


def test_hlocs_loop_stores_whole_precision(hloc, images, tmp_path):
    path = extract(images, tmp_path)
    assert path.name == "feats-rekd-fast-n1500-r1600.h5"
    expected = direct(images / "sub" / "a.png", 1500)
    with h5py.File(path) as file:
        group = file["sub/a.png"]
        assert group["keypoints"].dtype == np.float64
        assert group["descriptors"].dtype == np.float16
        stored = group["keypoints"][()]
        assert group["keypoints"].attrs["uncertainty"] == pytest.approx(DETECTION_NOISE_PX)
        assert group["image_size"][()].tolist() == [220, 170]
        assert file["b.png"]["keypoints"].shape == (0, 2)
        assert file["b.png"]["descriptors"].shape == (128, 0)
    np.testing.assert_allclose(stored, expected.keypoints.xy.numpy(), atol=1e-3)


def test_our_store_reads_what_hloc_wrote(hloc, images, tmp_path):
    expected = direct(images / "sub" / "a.png", 1500)
    with FeatureStore(extract(images, tmp_path)) as store:
        assert store.names() == ["b.png", "sub/a.png"]
        assert store.has_orientation("sub/a.png")
        features = store.read("sub/a.png")
        assert len(store.read("b.png")) == 0
    assert features.image_size == (220, 170)
    for name in ("xy", "angle", "scale", "score"):
        got, want = (getattr(f.keypoints, name) for f in (features, expected))
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(features.descriptors, expected.descriptors, atol=1e-3, rtol=0)


def test_keypoints_of_a_smaller_copy_come_back_to_the_original(hloc, images, tmp_path):
    path = extract(images, tmp_path, resize_max=110)
    small = cv2.resize(
        cv2.imread(str(images / "sub" / "a.png"), 0), (110, 85), interpolation=cv2.INTER_AREA
    )
    expected = direct(small, 1500).keypoints
    with FeatureStore(path) as store:
        got = store.read("sub/a.png").keypoints
    assert abs(len(got) - len(expected)) <= 2  # hloc keeps fractions of a grey value
    distance = torch.cdist(got.xy, (expected.xy + 0.5) * 2 - 0.5).min(dim=1).values
    assert distance.median() < 0.1
    assert got.scale.min() == 2 * expected.scale.min()
    with h5py.File(path) as file:
        noise = file["sub/a.png"]["keypoints"].attrs["uncertainty"]
    assert noise == pytest.approx(2 * DETECTION_NOISE_PX)


def test_the_command_line_extracts_and_matches(hloc, images, tmp_path, monkeypatch):
    both = ["--export_dir", str(tmp_path)]
    main(["extract_features", "--image_dir", str(images), *both, "--conf", "rekd-fast-n1500"])
    (tmp_path / "pairs.txt").write_text("sub/a.png sub/a.png\n")
    pairs = ["--pairs", str(tmp_path / "pairs.txt")]
    features = ["--features", "feats-rekd-fast-n1500-r1600"]
    main(["match_features", *pairs, *both, *features, "--conf", "NN-rekd"])
    name = "feats-rekd-fast-n1500-r1600_matches-NN-rekd_pairs.h5"
    with h5py.File(tmp_path / name) as file:
        partner = file["sub-a.png/sub-a.png"]["matches0"][()]
    assert (partner == np.arange(len(partner))).mean() > 0.9


def test_the_round_trip_through_hlocs_form_changes_nothing():
    features = random_features(30)
    data = {f"{key}1": value.float() for key, value in features_to_hloc(features).items()}
    width, height = features.image_size
    back = features_from_hloc(data | {"image1": torch.empty(1, 1, height, width)}, 1)
    assert back.image_size == features.image_size
    for name in ("xy", "angle", "scale"):
        want = getattr(features.keypoints, name)
        torch.testing.assert_close(getattr(back.keypoints, name), want)
    torch.testing.assert_close(back.descriptors, features.descriptors)


def test_every_preset_is_a_conf_the_extractor_accepts(hloc):
    for name, conf in extractor_confs().items():
        if name in PRESETS:
            model = build(**conf["model"])
            preset = get_preset(name)
            assert model.extractor.config.descriptor == preset.descriptor
            budget = model.extractor.config.detector.max_keypoints
            assert budget == preset.detector.max_keypoints


@torch.no_grad()
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_the_plugin_follows_hloc_to_the_gpu(hloc):
    image = textured_image(150, 200)
    on_cpu = build()(as_hloc(image))
    on_gpu = build().to("cuda")({"image": as_hloc(image)["image"].cuda()})
    assert on_cpu["keypoints"].shape == on_gpu["keypoints"].shape
    distance = torch.cdist(on_cpu["keypoints"][0], on_gpu["keypoints"][0].cpu()).amin(dim=1)
    assert (distance < 0.02).double().mean() > 0.98
