"""The descriptor's trainer: views, tracks, batches, the loss, validation, and a small run."""

import json
import logging
import math
import signal

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import rekd_hloc
from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.descriptor.hardnet import describe, load_hardnet, read_hardnet
from rekd_hloc.features.descriptor.patches import cut_patches
from rekd_hloc.features.descriptor.tfeat import TFeat
from rekd_hloc.features.weights import read_weights
from rekd_hloc.geometry import warp_points
from rekd_hloc.types import Keypoints
from tests.helpers import board_events, random_keypoints, textured_image
from tests.wall_scene import make_wall
from training import train_descriptor
from training.common.checkpoint import load_checkpoint, save_checkpoint
from training.descriptor_run import (
    DescriptorRun,
    TrainDescriptorConfig,
    build_hardnet,
    learning_rate,
    read_start,
)
from training.descriptor_validation import (
    ValidationSet,
    by_root_sift,
    evaluate,
    make_pairs,
    root_sift,
)
from training.losses import hardest_in_batch_loss
from training.patch_augmentation import PatchAugmentation
from training.track_cache import BatchPlan, TrackSet, generate_tracks
from training.tracks import TrackConfig, make_tracks, match_by_map, warp_keypoints
from training.warps import WarpConfig, draw_view, plain_view

GENTLE = WarpConfig(scale_range=(0.9, 1.1), blur_px=0, noise=2, jpeg_quality=90, perspective=0.02)
TRACKS = TrackConfig(warps=GENTLE, num_views=2, min_tracks=4, max_tracks=60)


class CornerDetector:
    """Stands for the trained detector: OpenCV's SIFT points, so no weights are needed."""

    def detect(self, image):
        grey = (image.numpy() * 255).round().astype(np.uint8)
        points = sorted(cv2.SIFT.create().detect(grey, None), key=lambda p: -p.response)[:150]
        if not points:
            return Keypoints.empty()
        rows = torch.tensor([(*p.pt, p.size / 8, math.radians(p.angle), 1.0) for p in points])
        return Keypoints(rows[:, :2], rows[:, 2], rows[:, 3], rows[:, 4])


def rgb_image(seed=0, height=240, width=320):
    return np.repeat(textured_image(height, width, seed)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of which the hash rule holds some out."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        cv2.imwrite(str(folder / f"p{i}.png"), rgb_image(i))
    return folder


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("tracks")
    generate(path, folder)
    return path


def generate(path, folder, config=TRACKS):
    generate_tracks(
        path,
        sorted(folder.glob("*.png")),
        CornerDetector(),
        config,
        detector_hash="corner",
        seed=0,
        quiet=True,
    )


def pixels_around(grey, xy):
    ones = torch.ones(len(xy))
    keypoints = Keypoints(torch.as_tensor(xy, dtype=torch.float32), ones, 0 * ones, ones)
    image = torch.from_numpy(grey).float()
    return cut_patches(image, keypoints, patch_size_px=8.0, oriented=False, antialias=False).mean(
        (1, 2, 3)
    )


@pytest.mark.parametrize("upright", [False, True])
def test_a_view_shows_what_its_map_says(upright):
    config = WarpConfig(
        gamma=(1, 1), contrast=(1, 1), brightness=0, shading=0, noise=0, blur_px=0, jpeg_quality=100
    )
    image = rgb_image(1)
    for seed in range(4):
        view = draw_view(np.random.default_rng(seed), image, config, upright=upright)
        assert view.is_upright == upright
        xy = torch.rand(400, 2, dtype=torch.float64) * torch.tensor([250, 180.0]) + 30
        moved = warp_points(torch.from_numpy(view.view_from_image), xy)
        size = torch.tensor(view.grey.shape[::-1])
        inside = ((moved > 8) & (moved < size - 9)).all(dim=1)
        assert inside.sum() > 30
        truth = pixels_around(image[..., 0], xy[inside])
        seen = pixels_around(view.grey, moved[inside])
        assert float((truth - seen).abs().median()) < 4
        turn = math.degrees(math.atan2(*view.view_from_image[[1, 0], 0]))
        assert abs(turn) < 40 or not upright
        assert view.grey.size < 1.35 * image[..., 0].size


def test_plain_view_is_the_photo():
    view = plain_view(rgb_image())
    assert np.abs(view.grey.astype(int) - rgb_image()[..., 0]).max() <= 1
    assert np.array_equal(view.view_from_image, np.eye(3))


def test_keypoints_agree_only_within_all_tolerances():
    a = random_keypoints(30, (300, 300))
    b_from_a = torch.tensor([[0.0, -1.1, 320.0], [1.1, 0.0, 5.0], [0.0, 0.0, 1.0]]).double()
    b = warp_keypoints(a, b_from_a)
    assert torch.allclose(b.scale, a.scale * 1.1, atol=1e-4)
    assert torch.allclose(
        (b.angle - a.angle) % (2 * torch.pi), torch.tensor(torch.pi / 2), atol=1e-4
    )
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    partner = match_by_map(a, b[order], b_from_a, TRACKS, angles=True)
    assert torch.equal(order[partner], torch.arange(30))
    turned = Keypoints(b.xy, b.scale, b.angle + 0.6, b.score)
    assert (match_by_map(a, turned, b_from_a, TRACKS, angles=True) == -1).all()
    assert (match_by_map(a, turned, b_from_a, TRACKS, angles=False) >= 0).all()
    larger = Keypoints(b.xy, b.scale * 1.6, b.angle, b.score)
    assert (match_by_map(a, larger, b_from_a, TRACKS, angles=True) != torch.arange(30)).all()
    moved = Keypoints(b.xy + 3 * b.scale[:, None], b.scale, b.angle, b.score)
    assert (match_by_map(a, moved, b_from_a, TRACKS, angles=True) != torch.arange(30)).all()
    assert len(match_by_map(Keypoints.empty(), b, b_from_a, TRACKS, angles=True)) == 0


def test_patches_of_a_track_look_alike():
    tracks = make_tracks(rgb_image(2), CornerDetector(), TRACKS, np.random.default_rng(0))
    assert len(tracks) > 20
    assert tracks.start[-1] == len(tracks.patches)
    assert (np.diff(tracks.start) >= 2).all()
    assert 0 < tracks.is_upright.sum() < len(tracks)
    flat = tracks.patches.reshape(len(tracks.patches), -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    same = (flat[tracks.start[:-1]] * flat[tracks.start[:-1] + 1]).sum(axis=1)
    other = (flat[tracks.start[:-1]] * np.roll(flat[tracks.start[:-1] + 1], 1, axis=0)).sum(axis=1)
    for kind in (tracks.is_upright, ~tracks.is_upright):
        assert np.median(same[kind]) > 0.8
        assert np.median(other[kind]) < 0.5


def test_lonely_keypoints_get_a_partner_by_the_true_map():
    config = TrackConfig(warps=GENTLE, num_views=1, min_tracks=30, distance_px=1e-9)
    tracks = make_tracks(rgb_image(3), CornerDetector(), config, np.random.default_rng(0))
    assert (~tracks.is_upright).sum() == 30


def test_a_photo_without_keypoints_gives_no_track():
    tracks = make_tracks(
        np.full_like(rgb_image(), 90), CornerDetector(), TRACKS, np.random.default_rng(0)
    )
    assert len(tracks) == 0
    assert tracks.patches.shape == (0, 32, 32)


def test_tracks_are_made_once_and_only_for_one_configuration(folder, tmp_path):
    generate(tmp_path, folder)
    first = {p.name: p.read_bytes() for p in tmp_path.glob("*.np?")}
    assert len(first) == 12
    (tmp_path / "00001.npz").unlink()  # as a run that was killed leaves it
    kept = (tmp_path / "00002.npy").stat().st_mtime_ns
    generate(tmp_path, folder)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.npy")} == {
        name: data for name, data in first.items() if name.endswith(".npy")
    }
    assert (tmp_path / "00002.npy").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="another configuration.*tracks"):
        generate(tmp_path, folder, TrackConfig(warps=GENTLE, num_views=3))


def test_batches_pair_views_of_one_track(cache):
    tracks = TrackSet(cache)
    plan = BatchPlan(batch_size=60, images=2, augmentation=PatchAugmentation(max_gamma=1.0))
    batch = tracks.batch(np.random.default_rng([0, 5]), plan)
    again = tracks.batch(np.random.default_rng([0, 5]), plan)
    assert torch.equal(batch.a, again.a)
    assert batch.a.shape == batch.b.shape == (60, 1, 32, 32)
    assert not torch.equal(batch.a, tracks.batch(np.random.default_rng([0, 6]), plan).a)
    a, b = (
        nn.functional.normalize(x.flatten(1) - x.flatten(1).mean(1, True))
        for x in (batch.a, batch.b)
    )
    similarity = a @ b.T
    assert similarity.diagonal().median() > 0.8
    assert not (batch.a == batch.b).flatten(1).all(dim=1).any()  # two views, never one twice
    apart = similarity[~batch.is_excluded]
    assert apart.median() < 0.3
    assert batch.is_excluded.diagonal().all()
    assert torch.equal(batch.is_excluded, batch.is_excluded.T)
    assert 0 < int(batch.is_excluded.sum()) - 60 < 600


def test_loss_by_hand():
    a = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    b = nn.functional.normalize(torch.tensor([[1.0, 0.1, 0], [0.6, 1, 0], [0, 0, 1]]))
    none = torch.zeros(3, 3, dtype=torch.bool)
    distance = torch.cdist(a, b)
    negatives = []
    for i in range(3):
        others = [j for j in range(3) if j != i]
        negatives.append(min(*distance[i, others], *distance[others, i]))
    truth = (1 + distance.diagonal() - torch.stack(negatives)).clamp(min=0).mean()
    loss, positive, negative = hardest_in_batch_loss(a, b, none)
    assert float(loss) == pytest.approx(float(truth), abs=2e-3)
    assert float(positive) == pytest.approx(float(distance.diagonal().mean()), abs=2e-3)
    assert float(negative) == pytest.approx(float(torch.stack(negatives).mean()), abs=2e-3)
    excluded = none.clone()
    excluded[0, 1] = excluded[1, 0] = True
    assert hardest_in_batch_loss(a, b, excluded)[0] < loss


def test_root_sift_at_given_keypoints_is_opencv_s_own():
    grey = textured_image(240, 320, 5)
    points = [p for p in cv2.SIFT.create().detect(grey, None) if p.size > 5][:80]
    _, theirs = cv2.SIFT.create().compute(grey, points)
    theirs = torch.from_numpy(theirs / theirs.sum(axis=1, keepdims=True)).sqrt()
    rows = torch.tensor([(*p.pt, p.size * 6 / 64, math.radians(p.angle)) for p in points])
    keypoints = Keypoints(rows[:, :2], rows[:, 2], rows[:, 3], torch.ones(len(points)))
    ours = root_sift(grey, keypoints, patch_size_px=64.0, oriented=True)
    assert float((ours * theirs).sum(dim=1).median()) > 0.97
    upright = root_sift(grey, keypoints, patch_size_px=64.0, oriented=False)
    assert float((upright * theirs).sum(dim=1).median()) < 0.9


def test_validation_knows_good_from_bad(folder):
    paths = sorted(folder.glob("*.png"))[:2]
    pairs = make_pairs(paths, CornerDetector(), TRACKS, upright=False, max_keypoints=80, seed=0)
    good = evaluate(pairs, by_root_sift)
    generator = torch.Generator().manual_seed(0)
    bad = evaluate(
        pairs,
        lambda side: nn.functional.normalize(
            torch.randn(len(side.keypoints), 128, generator=generator)
        ),
    )
    assert good.precision > 0.6
    assert good.average_precision > 0.6
    assert good.fpr95 < 0.3
    assert bad.precision < 0.2
    assert bad.average_precision < 0.1
    assert bad.fpr95 > 0.5


def run_config(folder, cache, output, **changes):
    plan = BatchPlan(batch_size=16, images=3)
    values = {
        "images": (str(folder),),
        "output": str(output),
        "batch": plan,
        "steps": 6,
        "warmup_steps": 1,
        "learning_rate": 5e-3,
        "dropout": 0.1,
        "validate_every": 3,
        **changes,
    }
    return TrainDescriptorConfig(tracks=TRACKS, cache=str(cache), **values)


def run_steps(config, cache, count, pairs):
    tracks, run, losses = TrackSet(cache), DescriptorRun(config, {"data_hash": "x"}), []
    for _ in range(count):
        rng = np.random.default_rng([config.seed, run.step])
        values = run.advance(tracks.batch(rng, config.batch))
        losses.append(values["loss"])
        if run.step % config.validate_every == 0:
            run.record(ValidationSet({"oriented": pairs}).evaluate_network(run.network))
    return run, losses


@pytest.fixture(scope="module")
def pairs(folder):
    return make_pairs(
        sorted(folder.glob("*.png"))[:1],
        CornerDetector(),
        TRACKS,
        upright=False,
        max_keypoints=30,
        seed=0,
    )


def test_resumed_equals_uninterrupted_and_the_loss_falls(folder, cache, pairs, tmp_path):
    whole, losses = run_steps(run_config(folder, cache, tmp_path / "a"), cache, 6, pairs)
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.03
    config = run_config(folder, cache, tmp_path / "b")
    run_steps(config, cache, 3, pairs)
    torch.manual_seed(123)  # the resumed run must not depend on the program's own generator
    resumed, rest = run_steps(config, cache, 3, pairs)
    assert resumed.step == 6
    assert rest == losses[3:]
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    lines = (tmp_path / "b" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]


def test_a_run_starts_from_the_weights_of_another(folder, cache, pairs, tmp_path):
    first, _ = run_steps(run_config(folder, cache, tmp_path / "a"), cache, 3, pairs)
    start = str(tmp_path / "a" / "last.pt")
    config = run_config(folder, cache, tmp_path / "b", init=start)
    second = DescriptorRun(config, {"data_hash": "x"}, read_start(config))
    assert second.step == 0
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    fresh = DescriptorRun(run_config(folder, cache, tmp_path / "c"), {"data_hash": "x"})
    weight = "features.0.weight"
    assert not torch.equal(fresh.network.state_dict()[weight], first.network.state_dict()[weight])


def test_a_run_starts_from_shipped_weights(folder, cache, pairs, tmp_path):
    config = run_config(folder, cache, tmp_path / "a", init="default")
    run = DescriptorRun(config, {}, read_start(config))
    patches = pairs[0].a.patches
    found = describe(run.network.eval(), patches, 8)
    torch.testing.assert_close(
        found, describe(load_hardnet("default"), patches, 8), rtol=0, atol=1e-4
    )
    for name, tensor in read_hardnet("default").items():
        assert torch.equal(tensor, run.network.state_dict()[name]), name


def test_a_run_that_goes_on_needs_its_start_no_more(folder, cache, pairs, tmp_path):
    run_steps(run_config(folder, cache, tmp_path), cache, 3, pairs)
    assert read_start(run_config(folder, cache, tmp_path, init="gone.pt")) is None


def test_a_start_that_is_no_hardnet_is_refused_before_the_long_work(arguments, tmp_path, caplog):
    torch.save(TFeat().state_dict(), tmp_path / "tfeat.pth")
    save_checkpoint(tmp_path / "detector.pt", {"step": 3, "network": {"group_order": 8}})
    for name, message in (
        ("tfeat.pth", "tfeat.pth does not hold the weights of a HardNet"),
        ("detector.pt", "detector.pt is no checkpoint of training.train_descriptor"),
        ("gone.pt", "no checkpoint"),
    ):
        out = tmp_path / "out"
        options = [f"init={tmp_path / name}", f"output={out}"]
        assert train_descriptor.main([*arguments, *options]) == 2
        assert message in caplog.text
        assert not out.exists()


def test_a_line_that_a_kill_left_is_written_again(folder, cache, pairs, tmp_path):
    config = run_config(folder, cache, tmp_path)
    run_steps(config, cache, 3, pairs)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6}\n')
    run_steps(config, cache, 3, pairs)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[1]["seconds"] >= lines[0]["seconds"] > 0
    assert "loss" in lines[1]


def test_another_configuration_does_not_resume(folder, cache, pairs, tmp_path):
    run_steps(run_config(folder, cache, tmp_path), cache, 3, pairs)
    with pytest.raises(ValueError, match="another configuration.*margin: 1.0 then, 0.5 now"):
        DescriptorRun(run_config(folder, cache, tmp_path, margin=0.5), {"data_hash": "x"})


def test_nan_stops_with_the_step(folder, cache, tmp_path):
    config = run_config(folder, cache, tmp_path)
    run = DescriptorRun(config, {})
    with torch.no_grad():
        run.network.features[0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        run.advance(TrackSet(cache).batch(np.random.default_rng(0), config.batch))


def test_learning_rate_rises_then_falls_to_zero():
    config = TrainDescriptorConfig(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == 0


def test_the_start_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = build_hardnet(1).state_dict()
    second, third = build_hardnet(1).state_dict(), build_hardnet(2).state_dict()
    name = "features.15.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], third[name])


@pytest.fixture
def arguments(folder, tmp_path, monkeypatch):
    """Command line of the program, on photos of the test and without detector weights."""
    monkeypatch.setattr(train_descriptor, "resolve_weights", lambda name: folder / "p0.png")
    monkeypatch.setattr(train_descriptor, "load_detector", lambda path: (nn.Identity(), None))
    monkeypatch.setattr(train_descriptor, "Detector", lambda network, config: CornerDetector())
    monkeypatch.setattr(
        train_descriptor,
        "list_image_paths",
        lambda folders: (sorted(folder.glob("*.png"))[:4], sorted(folder.glob("*.png"))[4:]),
    )
    return [
        "--quiet", f"images=[{folder}]", f"output={tmp_path}", "steps=2", "batch.batch_size=8",
        "validation_keypoints=20", "tracks.num_views=1", "tracks.min_tracks=4",
    ]  # fmt: skip


def test_the_program_ends_in_weights_that_load(arguments, tmp_path):
    assert train_descriptor.main(arguments) == 0
    path = tmp_path / "hardnet.safetensors"
    described = describe(load_hardnet(str(path)), torch.rand(5, 1, 32, 32), 5)
    assert torch.allclose(described.norm(dim=1), torch.ones(5), atol=1e-5)
    provenance = json.loads(read_weights(path)[1]["provenance"])
    assert provenance["step"] == 2
    assert provenance["identity"]["data_hash"]
    assert set(provenance["peers"]) == {"RootSIFT"}
    assert set(provenance["quality"]) == {"oriented", "upright"}
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 2
    assert state["code_version"].startswith(rekd_hloc.__version__)
    assert state["config"] == json.loads((tmp_path / "config.json").read_text())
    assert state["config"]["batch"]["batch_size"] == 8
    assert train_descriptor.main(arguments) == 0  # nothing left to do
    assert not list(tmp_path.rglob("*.tmp"))


def test_tensorboard_has_curves(arguments, tmp_path):
    assert train_descriptor.main([*arguments, "validate_every=1"]) == 0
    found = board_events(tmp_path)
    for name in ("loss/loss", "loss/positive", "learning_rate", "validation/upright/precision"):
        assert [event.step for event in found.Scalars(name)] == [1, 2], name
    last = load_checkpoint(tmp_path / "last.pt")["quality"]["oriented"]["average_precision"]
    assert found.Scalars("validation/oriented/average_precision")[-1].value == pytest.approx(last)
    bare = tmp_path / "bare"
    assert train_descriptor.main([*arguments, f"output={bare}", "tensorboard=false"]) == 0
    assert not (bare / "tensorboard").exists()


def test_a_signal_leaves_a_checkpoint_of_its_step(arguments, tmp_path, monkeypatch, caplog):
    whole = [*arguments, "steps=3", f"output={tmp_path / 'whole'}"]
    assert train_descriptor.main(whole) == 0
    advance = DescriptorRun.advance

    def advance_and_signal(self, pairs):
        values = advance(self, pairs)
        if self.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return values

    stopped = [*arguments, "steps=3", f"output={tmp_path / 'stopped'}"]
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(DescriptorRun, "advance", advance_and_signal)
        assert train_descriptor.main(stopped) == 130
    assert "stopped at step 2 of 3" in caplog.text
    assert load_checkpoint(tmp_path / "stopped" / "last.pt")["step"] == 2
    assert not (tmp_path / "stopped" / "hardnet.safetensors").exists()
    assert train_descriptor.main(stopped) == 0
    states = [load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "stopped")]
    for name, tensor in states[0]["network"].items():
        assert torch.equal(tensor, states[1]["network"][name]), name


def test_a_reconstruction_gives_tracks_too(arguments, tmp_path, caplog):
    out, images = make_wall(tmp_path / "wall")
    scenes = [f"scenes.folders=[{out}]", f"scenes.images=[{images}]"]
    with caplog.at_level(logging.INFO):
        assert train_descriptor.main([*arguments, *scenes]) == 0
    assert f"{out}: 60 scene points in 5 images" in caplog.text
    (out / "features.h5").unlink()
    fresh = tmp_path / "fresh"
    assert train_descriptor.main([*arguments, *scenes, f"output={fresh}"]) == 2
    assert "rekd-hloc reconstruct IMAGES" in caplog.text
    assert not fresh.exists()  # before any work on the photos


def test_an_unknown_device_is_an_error(arguments, caplog):
    assert train_descriptor.main([*arguments, "device=tpu9"]) == 2
    assert "no device 'tpu9'" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_run_on_a_gpu_is_close_to_one_on_the_cpu(folder, cache, pairs, tmp_path):
    losses = [
        run_steps(run_config(folder, cache, tmp_path / name, device=name), cache, 3, pairs)[1]
        for name in ("cpu", "cuda")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images"),
        (["images=[/nowhere]"], "/nowhere"),
        (["optimiser=rmsprop"], "adam or sgd"),
        (["tracks.num_views=0"], "num_views"),
        (["checkpoint_every=-1"], "checkpoint_every must not be negative"),
        (["batch.batch_size=1"], "batch_size must be at least 2"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, caplog):
    assert train_descriptor.main(["--quiet", *arguments]) == 2
    assert message in caplog.text


def test_detector_options_are_the_fast_preset_s_pyramid():
    options = TrackConfig().detector
    assert (options.levels_up, options.levels_down) == (0, 4)
    assert options.factor == DetectorConfig().factor
