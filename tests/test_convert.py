import logging
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from rekd_hloc.config import PAPER_DETECTOR, NetworkConfig
from rekd_hloc.features.convert import convert_checkpoint, convert_rekd_release
from rekd_hloc.features.detector.detect import make_detector
from rekd_hloc.features.weights import detector_provenance, learned_tensors, load_detector
from tests.helpers import ROOT, random_network
from training.common.checkpoint import save_checkpoint
from training.detector_run import network_state
from training.export import export_checkpoint
from training.export import main as export_main

# tests/golden/rekd_original.npz was made with the authors' code (github.com/bluedream1121/REKD,
# commit 49865de, `.cuda()` removed), torch 2.13, e2cnn 0.2.3, scikit-image 0.26, OpenCV 5.0:
#   torch.manual_seed(1); np.random.seed(0)
#   net = REKD(args, "cpu")      # args: group_size 8, dims 2 2 2, factor_scaling_pyramid 1.2
#   torch.nn.init.uniform_(net.last_layer_learner[1].weight, 0.1, 1.0); .bias set to ones
#   all batch norms get momentum 1, then one pass in train mode over the image / its maximum
#   state = net.eval().state_dict()                       # what the tensors are, without the bases
#   extractor: 200 points, 2 levels up and 2 down, border 15, NMS 15
#   score, hist = extractor._compute_score_maps(image[None].astype(float) / image.max(), net)
#   keypoints, _ = extractor._estimate_orientations(
#       extractor._estimate_keypoint_coordinates(score), hist)   # x, y, scale, score, degrees
#   score_0: map_3[::2, ::2], score_1: map_4[::2, ::2], score_-1: map_2[::4, ::4];
#   histogram: of map_3, [:, ::4, ::4]
GOLDEN = ROOT / "tests" / "golden" / "rekd_original.npz"
RESULTS = {"image", "keypoints", "histogram", "score_-1", "score_0", "score_1"}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def released(golden, tmp_path_factory):
    """The golden weights as the authors' checkpoint."""
    path = tmp_path_factory.mktemp("release") / "best_model.pt"
    tensors = {k: torch.from_numpy(v) for k, v in golden.items() if k not in RESULTS}
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "rekd.safetensors"
    convert_rekd_release(released, path)
    return path


def test_the_architecture_is_inferred(converted):
    _, config = load_detector(converted)
    assert config == NetworkConfig(group_order=8, pixel_range=1.0, blur_gain=0.0)
    assert detector_provenance(converted)["pixel_range"] == 1.0


def test_the_maps_are_those_of_the_authors_code(golden, converted):
    network, _ = load_detector(converted)
    image = torch.from_numpy(golden["image"]).float()[None, None]
    score, logits = network(image / image.max())
    inner = slice(16, -16, 2)  # the authors' code has cleared the border in its score map
    expected = golden["score_0"][8:-8, 8:-8]
    assert expected.std() > 0.1
    np.testing.assert_allclose(score[0, 0, inner, inner].numpy(), expected, atol=1e-4)
    histogram = logits.softmax(dim=1)[0, :, ::4, ::4].numpy()
    np.testing.assert_allclose(histogram, golden["histogram"], atol=1e-4)


def test_the_keypoints_are_those_of_the_authors_code(golden, converted):
    network, _ = load_detector(converted)
    config = replace(PAPER_DETECTOR, max_keypoints=200, levels_up=2, levels_down=2)
    grey = torch.from_numpy(golden["image"]).float() / 255
    got = make_detector(network, config).detect(grey)
    expected = golden["keypoints"]
    assert len(got) == len(expected) == 200
    places = torch.from_numpy(expected[:, :3]).float()
    gap = (torch.cat([got.xy, got.scale[:, None]], dim=1)[:, None] - places[None]).abs().amax(dim=2)
    distance, partner = gap.min(dim=1)
    assert distance.max() < 1e-3
    assert len(partner.unique()) == 200
    np.testing.assert_allclose(got.score.numpy(), expected[partner, 3], atol=1e-4)
    # their degrees grow counter-clockwise
    off = (got.angle.rad2deg().numpy() + expected[partner, 4] + 180) % 360 - 180
    np.testing.assert_allclose(off, 0, atol=1e-3)


def release_of(network, *, train_mode=False, filters=True, bases=True):
    """The state dict that the authors' code would save for a network of ours."""
    backbone = network.backbone
    order = backbone.group_order
    backbone.train(train_mode)
    state = {}
    names = [("block1.0", 0), ("block2.0", 1), ("block3.0", 2), ("ori_learner.0", None)]
    for name, index in names:
        layer = backbone.orientation if index is None else backbone.convolutions[index]
        for key, tensor in layer.state_dict().items():
            state[f"{name}.{key}"] = tensor.clone()
    for index, norm in enumerate(backbone.norms):
        for key, tensor in norm.state_dict().items():
            state[f"block{index + 1}.1.{key}"] = tensor.clone()
    for ours, theirs in (("score_norm", "0"), ("score_head", "1")):
        for key, tensor in getattr(network, ours).state_dict().items():
            state[f"last_layer_learner.{theirs}.{key}"] = tensor.clone()
    backbone.eval()
    assert any(f"batch_norm_[{order}]" in key for key in state)
    return {
        key: tensor
        for key, tensor in state.items()
        if (filters or not key.endswith(".filter")) and (bases or "basis" not in key)
    }


CONFIG = NetworkConfig(
    group_order=4, fields=(1, 2, 3), inner_levels=2, pixel_range=1.0, blur_gain=0.0
)
KINDS = {
    "eval": {},
    "filters only": {"bases": False},
    "train": {"train_mode": True, "filters": False},
    "learned only": {"filters": False, "bases": False},
}


@pytest.fixture(scope="module")
def network():
    return random_network(CONFIG)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_function(network, kind, tmp_path):
    state = release_of(network, **KINDS[kind])
    assert ("block1.0.filter" in state) == (kind in ("eval", "filters only"))
    source, out = tmp_path / "best_model.pt", tmp_path / "w.safetensors"
    torch.save(state, source)
    convert_rekd_release(source, out, group_order=4, fields=(1, 2, 3))
    loaded, config = load_detector(out)
    assert config == CONFIG
    image = torch.rand(1, 1, 40, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        score, logits = network(image)
    got_score, got_logits = loaded(image)
    torch.testing.assert_close(got_score, score, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got_logits, logits, atol=1e-4, rtol=1e-4)
    learned = learned_tensors(out)["backbone"]
    for name, tensor in network.backbone.learned_state().items():
        torch.testing.assert_close(learned[name], tensor)


def test_a_stale_filter_is_not_used(network, tmp_path, caplog):
    state = release_of(network)
    state["block2.0.filter"] = torch.zeros_like(state["block2.0.filter"])
    torch.save(state, tmp_path / "stale.pt")
    with caplog.at_level(logging.WARNING):
        convert_rekd_release(tmp_path / "stale.pt", tmp_path / "w.safetensors")
    assert "block2.0.filter" in caplog.text
    loaded, _ = load_detector(tmp_path / "w.safetensors")
    assert loaded.backbone.blocks[1].weight.abs().max() > 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("ori_learner.0.weights"), "lacks ori_learner.0.weights"),
        (lambda s: s.pop("block2.1.batch_norm_[4].weight"), "damaged"),
        (lambda s: s.pop("block2.1.batch_norm_[4].running_var"), "damaged.*running_var"),
        (lambda s: s.update({"block3.0.filter": torch.zeros(3, 3, 5, 5)}), "damaged.*block3.0"),
        (lambda s: s.update({"block3.0.weights": torch.zeros(5)}), "damaged.*block3.0"),
        (
            lambda s: s.update({"last_layer_learner.1.bias": torch.tensor([float("nan")])}),
            "not finite",
        ),
    ],
)
def test_a_damaged_release_is_refused_by_name(network, change, words, tmp_path):
    state = release_of(network, bases=False)
    change(state)
    source, out = tmp_path / "best_model.pt", tmp_path / "w.safetensors"
    torch.save(state, source)
    with pytest.raises(ValueError, match=words):
        convert_rekd_release(source, out)
    assert not out.exists()


def test_another_architecture_than_asked_for_is_refused(released, tmp_path):
    with pytest.raises(ValueError, match="has group_order 8, asked for was 36"):
        convert_rekd_release(released, tmp_path / "w", group_order=36)
    with pytest.raises(ValueError, match=r"has fields \(2, 2, 2\), asked for was \(1, 1, 1\)"):
        convert_rekd_release(released, tmp_path / "w", fields=(1, 1, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"some text", "damaged"),
        ({"conv.weight": torch.zeros(3)}, "no checkpoint of REKD: it lacks block1.0.weights"),
        (torch.zeros(3), "holds a Tensor"),
    ],
)
def test_a_foreign_file_is_refused_by_name(content, words, tmp_path):
    path = tmp_path / "foreign.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    for convert in (convert_checkpoint, convert_rekd_release):
        with pytest.raises(ValueError, match=words) as caught:
            convert(path, tmp_path / "w.safetensors")
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="gone.pt"):
        convert_checkpoint(tmp_path / "gone.pt", tmp_path / "w.safetensors")


def test_a_truncated_release_is_refused(released, tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(released.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged"):
        convert_checkpoint(path, tmp_path / "w.safetensors")


@pytest.mark.slow
def test_no_e2cnn_is_needed_where_the_file_holds_filters(released, tmp_path):
    program = (
        "import sys, pathlib\n"
        "sys.modules['e2cnn'] = None\n"
        "from rekd_hloc.features.convert import convert_checkpoint\n"
        "convert_checkpoint(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
    )
    out = tmp_path / "w.safetensors"
    command = [sys.executable, "-c", program, str(released), str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert out.is_file()


def training_checkpoint(path, network, config):
    state = {
        **network_state(network),
        "step": 7,
        "seconds": 1.5,
        "result": {"repeatability_3px": 0.5},
        "identity": {"data_hash": "abc", "seed": 3},
        "network": asdict(config),
    }
    save_checkpoint(path, state)


def test_a_training_checkpoint_is_baked_with_its_provenance(network, tmp_path):
    source, out = tmp_path / "best.pt", tmp_path / "w.safetensors"
    training_checkpoint(source, network, CONFIG)
    export_checkpoint(source, out)
    loaded, config = load_detector(out)
    assert config == CONFIG
    provenance = detector_provenance(out)
    assert provenance["steps"] == 7
    assert provenance["data_hash"] == "abc"
    assert provenance["validation"] == {"repeatability_3px": 0.5}
    assert provenance["config"]["seed"] == 3
    image = torch.rand(1, 1, 33, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image)[0]
    torch.testing.assert_close(loaded(image)[0], expected, atol=1e-5, rtol=1e-4)
    other = tmp_path / "other.safetensors"
    convert_checkpoint(source, other)
    assert other.read_bytes() == out.read_bytes()


def test_the_export_program(network, released, tmp_path, caplog):
    source, out = tmp_path / "best.pt", tmp_path / "w.safetensors"
    training_checkpoint(source, network, CONFIG)
    assert export_main([str(source), str(out)]) == 0
    assert out.is_file()
    assert export_main([str(tmp_path / "gone.pt"), str(out)]) == 2
    assert export_main([str(released), str(out)]) == 2
    assert "gone.pt" in caplog.text
    assert "no detector checkpoint of this project" in caplog.text
