import logging
import math

import cv2
import numpy as np
import pytest
import torch

from tests.helpers import textured_image
from training.pair_cache import PairCache, PairCacheConfig, generate
from training.pair_config import PairConfig
from training.pairs import ImageSet

PLAIN = PairConfig(crop_px=96, brightness=0, contrast=(1, 1), hue_deg=0, saturation=(1, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for number in range(12):
        grey = textured_image(200, 260, seed=number)
        assert cv2.imwrite(str(path / f"{number}.png"), cv2.merge([grey, grey, grey]))
    return path


@pytest.fixture(scope="module")
def paths(folder):
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize("index", range(4))
def test_the_map_takes_crop_a_to_crop_b(paths, index):
    config = PairConfig(**{**PLAIN.__dict__, "scale_range": (0.8, 1.25), "zoom_range": (0.8, 1.2)})
    a, b, b_from_a, angle = ImageSet(paths, config).pair(0, index)
    moved = cv2.warpPerspective(a, b_from_a, (96, 96), flags=cv2.INTER_LINEAR)
    seen = cv2.warpPerspective(np.ones_like(a), b_from_a, (96, 96), flags=cv2.INTER_NEAREST) > 0
    seen = cv2.erode(seen.astype(np.uint8), np.ones((7, 7))) > 0
    alike = np.corrcoef(moved[seen].astype(float), b[seen].astype(float))[0, 1]
    assert alike > 0.98
    turn = math.atan2(b_from_a[1, 0], b_from_a[0, 0])  # clockwise in image coordinates
    assert math.cos(turn - angle) > 1 - 1e-9


@pytest.mark.parametrize("index", range(4))
def test_a_tilt_moves_the_crop_and_keeps_the_turn_at_its_centre(paths, index):
    tilted = {"crop_px": 96, "max_stretch": 1.6, "perspective": 0.2, "zoom_range": (1.0, 1.3)}
    images = ImageSet(paths, PairConfig(**{**PLAIN.__dict__, **tilted}))
    a, b, b_from_a, angle = images.pair(0, index)
    moved = cv2.warpPerspective(a, b_from_a, (96, 96), flags=cv2.INTER_LINEAR)
    seen = cv2.warpPerspective(np.ones_like(a), b_from_a, (96, 96), flags=cv2.INTER_NEAREST) > 0
    seen = cv2.erode(seen.astype(np.uint8), np.ones((7, 7))) > 0
    assert np.corrcoef(moved[seen].astype(float), b[seen].astype(float))[0, 1] > 0.95
    centre, step = np.array([47.5, 47.5, 1.0]), 1e-4
    nearby = [b_from_a @ (centre + step * np.eye(3)[axis]) for axis in (0, 1)]
    here = b_from_a @ centre
    jacobian = np.stack([(n / n[2] - here / here[2])[:2] / step for n in nearby], axis=1)
    left, sizes, right = np.linalg.svd(jacobian)
    turn = left @ right
    assert math.cos(math.atan2(turn[1, 0], turn[0, 0]) - angle) > 1 - 1e-6
    assert 1 < sizes[0] / sizes[1] <= 1.6 + 1e-3
    assert np.abs(b_from_a[2, :2] / b_from_a[2, 2]).max() > 1e-5


@pytest.mark.parametrize(("name", "value"), [("max_stretch", 0.9), ("perspective", 0.5)])
def test_impossible_tilts_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        PairConfig(**{name: value})


def test_a_pair_depends_on_seed_and_index_alone(paths):
    first, second = ImageSet(paths, PairConfig(crop_px=96)), ImageSet(paths, PairConfig(crop_px=96))
    second.pair(0, 5)
    for got, wanted in zip(second.pair(3, 1), first.pair(3, 1), strict=True):
        assert np.array_equal(got, wanted)
    assert not np.array_equal(first.pair(3, 1)[0], first.pair(3, 2)[0])
    assert not np.array_equal(first.pair(3, 1)[0], first.pair(4, 1)[0])


def test_a_batch_is_its_pairs(paths):
    images = ImageSet(paths, PairConfig(crop_px=96))
    batch = images.batch(0, 2, 3)
    crop_a, crop_b, b_from_a, angle = images.pair(0, 2 * 3 + 1)
    assert torch.equal(batch.image_a[1, 0], torch.from_numpy(crop_a).float() / 255)
    assert torch.equal(batch.image_b[1, 0], torch.from_numpy(crop_b).float() / 255)
    assert np.allclose(batch.b_from_a[1], b_from_a, atol=1e-4)
    assert float(batch.angle[1]) == pytest.approx(angle, abs=1e-6)


def test_useless_files_are_skipped_and_counted(paths, tmp_path, caplog):
    (tmp_path / "text.png").write_text("no image")
    assert cv2.imwrite(str(tmp_path / "small.png"), textured_image(90, 300))
    extra = [tmp_path / "text.png", tmp_path / "small.png"]
    with caplog.at_level(logging.WARNING):
        images = ImageSet([*paths, *extra], PLAIN)
    assert len(images.images) == len(paths)
    assert set(images.skipped) == {str(path) for path in extra}
    assert "2 of 14 images skipped" in caplog.text
    with pytest.raises(ValueError, match="only 0 of 2 images can be used.*short side of 136 px"):
        ImageSet(extra, PLAIN)


def test_flat_photos_are_skipped_and_counted(paths, tmp_path):
    flat = tmp_path / "flat.png"
    assert cv2.imwrite(str(flat), np.full((200, 200, 3), 90, np.uint8))
    images = ImageSet([*paths, flat], PLAIN)
    assert images.skipped == {str(flat): "no texture anywhere"}
    assert len(images.images) == len(paths)


def test_a_photo_with_one_edge_gives_crops_even_where_it_is_flat(tmp_path):
    photo = np.full((600, 600, 3), 90, np.uint8)
    photo[:3, 10:13] = 255
    for name in "ab":
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), photo)
    config = PairConfig(**{**PLAIN.__dict__, "centred": True})
    a, b, _, _ = ImageSet(sorted(tmp_path.glob("*.png")), config).pair(0, 0)
    assert a.std() == b.std() == 0


def test_light_blur_noise_and_compression_change_the_second_view(paths):
    jitter = PairConfig(
        crop_px=96, max_angle_deg=0.001, blur_px=2, noise=5, jpeg_quality=40, centred=True
    )
    images = ImageSet(paths, jitter)
    changes = [
        np.abs(a.astype(int) - b).mean() for a, b, _, _ in (images.pair(0, i) for i in range(8))
    ]
    assert np.median(changes) > 5


def test_a_cache_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    config = PairCacheConfig(
        images=(str(folder),), output=str(tmp_path / "cache"), pairs=PLAIN, num_pairs=6
    )
    real, calls = ImageSet.pair, []

    def stop_at_four(self, seed, index):
        calls.append(index)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, seed, index)

    monkeypatch.setattr(ImageSet, "pair", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        generate(config, quiet=True)
    with pytest.raises(FileNotFoundError, match="no finished pair cache"):
        PairCache(tmp_path / "cache")
    generate(config, quiet=True)
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    cache = PairCache(tmp_path / "cache")
    batches = [cache.batch(0, step, 2) for step in range(3)]
    drawn = sorted(float(x) for batch in batches for x in batch.angle)
    assert drawn == pytest.approx(sorted(cache.angles))  # an epoch sees every pair once
    other = PairCacheConfig(**{**config.__dict__, "seed": 1})
    with pytest.raises(ValueError, match="seed: 0 then, 1 now"):
        generate(other, quiet=True)


def test_cached_crops_are_those_drawn_on_the_fly(folder, tmp_path):
    from evaluation.image_folders import list_image_paths

    config = PairCacheConfig(
        images=(str(folder),), output=str(tmp_path / "cache"), pairs=PLAIN, num_pairs=2
    )
    cache = PairCache(generate(config, quiet=True))
    images = ImageSet(list_image_paths([folder])[0], PLAIN)
    assert np.array_equal(cache.crops[1, 0], images.pair(0, 1)[0])
    assert np.array_equal(cache.maps[1], images.pair(0, 1)[2])
