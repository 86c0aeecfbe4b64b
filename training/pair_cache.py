"""Pairs generated once: ``python -m training.pair_cache --config YAML photos=[DIR] output=DIR``.

The paper draws its 9,000 pairs once and trains 20 epochs on them. A cache is four arrays and the
configuration they were drawn with; generation goes on where it was stopped.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.image_folders import images_hash, list_image_paths
from rekd_hloc.files import write_json
from training.common.checkpoint import require_same
from training.common.cli import run_cli
from training.pairs import ImageSet, PairBatch, PairConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairCacheConfig:
    """What to generate."""

    photos: tuple[str, ...] = ()
    """Folders with natural images; only the training share is used."""
    output: str = "runs/pairs"
    pairs: PairConfig = field(default_factory=PairConfig)
    num_pairs: int = 9000
    """Pairs in the cache (paper: 9,000)."""
    seed: int = 0


class PairCache:
    """Pairs read from a cache, in an order drawn anew for each epoch.

    Raises:
        FileNotFoundError: the folder holds no finished cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "done").is_file():
            raise FileNotFoundError(
                f"{folder} holds no finished pair cache; make one with training.pair_cache"
            )
        self.crops = np.load(folder / "crops.npy", mmap_mode="r")
        self.maps = np.load(folder / "b_from_a.npy")
        self.angles = np.load(folder / "angle.npy")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.angles)

    def batch(self, seed: int, step: int, size: int) -> PairBatch:
        """Pairs of one step; every pair once in an epoch, what is left of an epoch is dropped."""
        per_epoch = max(len(self) // size, 1)
        order = np.random.default_rng([seed, step // per_epoch]).permutation(len(self))
        chosen = order[(step % per_epoch) * size :][:size]
        crops = torch.from_numpy(np.asarray(self.crops[np.sort(chosen)])).float() / 255
        chosen = np.sort(chosen)
        return PairBatch(
            image_a=crops[:, :1],
            image_b=crops[:, 1:],
            b_from_a=torch.from_numpy(self.maps[chosen]).float(),
            angle=torch.from_numpy(self.angles[chosen]).float(),
        )


def generate(config: PairCacheConfig, *, quiet: bool = False) -> Path:
    """Write the cache, or what is missing of it.

    Raises:
        ValueError: too few photos, or the folder holds a cache of another configuration.
    """
    if not config.photos:
        raise ValueError("no photos: give photos=[FOLDER,...] with natural images")
    paths, _ = list_image_paths([Path(p) for p in config.photos])
    source = ImageSet(paths, config.pairs)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    identity = json.loads(json.dumps({**asdict(config), "data_hash": images_hash(paths)}))
    identity = {k: v for k, v in identity.items() if k not in ("output", "photos")}
    stated = folder / "config.json"
    if stated.is_file():
        require_same(stated, json.loads(stated.read_text()), identity)
    else:
        write_json(stated, identity)
    side = config.pairs.crop_px
    crops = _open(folder / "crops.npy", (config.num_pairs, 2, side, side), np.uint8)
    maps = _open(folder / "b_from_a.npy", (config.num_pairs, 3, 3), np.float64)
    angles = _open(folder / "angle.npy", (config.num_pairs,), np.float64)
    # a pair that is written has an invertible map; the rest is still zero
    missing = np.flatnonzero(maps[:, 2, 2] == 0)
    for index in tqdm(missing, disable=quiet, unit="pair"):
        crop_a, crop_b, b_from_a, angle = source.pair(config.seed, int(index))
        crops[index], angles[index] = np.stack([crop_a, crop_b]), angle
        maps[index] = b_from_a
    for array in (crops, maps, angles):
        array.flush()
    (folder / "done").touch()
    logger.info("%d pairs in %s", config.num_pairs, folder)
    return folder


def _open(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.memmap:
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r+")
    array: NDArray[np.generic] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    return array


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.pair_cache", __doc__, PairCacheConfig(), generate, argv)


if __name__ == "__main__":
    sys.exit(main())
