"""Generate pairs once: ``python -m training.pair_cache --config YAML images=[DIR] output=DIR``.

The paper draws its 9,000 pairs once and trains 20 epochs on them. A cache holds three arrays and
the configuration that they were drawn with; generation goes on where it was stopped.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluation.image_folders import images_hash, list_image_paths
from training.common.checkpoint import claim_folder, make_identity
from training.common.cli import run_cli
from training.common.distributed import Process
from training.pair_config import PairConfig
from training.pairs import ImageSet, PairBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairCacheConfig:
    """The pairs to generate."""

    images: tuple[str, ...] = ()
    """Folders with natural images; only the training share is used."""
    output: str = "runs/pairs"
    pairs: PairConfig = field(default_factory=PairConfig)
    num_pairs: int = 9000
    """Pairs in the cache (paper: 9,000)."""
    seed: int = 0


class PairCache:
    """Pairs read from a cache, in a new random order for each epoch.

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
        """Return number of pairs."""
        return len(self.angles)

    def batch(self, seed: int, step: int, size: int) -> PairBatch:
        """Read the pairs of one step; an epoch has every pair once and drops the last few."""
        per_epoch = max(len(self) // size, 1)
        order = np.random.default_rng([seed, step // per_epoch]).permutation(len(self))
        chosen = np.sort(order[(step % per_epoch) * size :][:size])
        crops = torch.from_numpy(np.asarray(self.crops[chosen])).float() / 255
        return PairBatch(
            image_a=crops[:, :1],
            image_b=crops[:, 1:],
            b_from_a=torch.from_numpy(self.maps[chosen]).float(),
            angle=torch.from_numpy(self.angles[chosen]).float(),
        )


def draw_share(
    source: ImageSet | PairCache, process: Process, *, seed: int, step: int, batch_size: int
) -> PairBatch:
    """Draw the pairs of a step's joint batch that fall to this process.

    All shares together, in the order of the processes' ranks, are what one process would draw.

    Raises:
        ValueError: the batch cannot be shared evenly.
    """
    share = process.share_of(batch_size)
    if isinstance(source, ImageSet):  # pairs are numbered through: draw no more than the share
        return source.batch(seed, step * process.count + process.rank, share)
    joint = source.batch(seed, step, batch_size)
    rows = slice(process.rank * share, (process.rank + 1) * share)
    return PairBatch(**{item.name: getattr(joint, item.name)[rows] for item in fields(joint)})


def generate(config: PairCacheConfig, *, quiet: bool = False) -> Path:
    """Write the cache, or the pairs that it lacks.

    Raises:
        ValueError: too few images, or the folder holds a cache of another configuration.
    """
    paths, _ = list_image_paths(config.images)
    source = ImageSet(paths, config.pairs)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    identity = make_identity(asdict(config), ("output", "images"), data_hash=images_hash(paths))
    claim_folder(folder / "config.json", identity)
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


def _open(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.memmap[Any, Any]:
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.pair_cache", __doc__, PairCacheConfig(), generate, argv)


if __name__ == "__main__":
    sys.exit(main())
