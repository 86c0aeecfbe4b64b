"""Image sequences with known homographies: the HPatches release and the Oxford sequences.

HPatches holds ``1.ppm`` .. ``6.ppm`` and ``H_1_2`` .. ``H_1_6`` in each folder, Oxford
``img1.png`` .. ``img6.png`` and ``H1to2p`` .. ``H1to6p``. Images and homographies are never changed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SUFFIXES = (".ppm", ".png", ".pgm", ".jpg", ".jpeg", ".bmp", ".tif")


@dataclass(frozen=True)
class HomographyPair:
    """Two images and the map of pixels of a to pixels of b."""

    sequence: str
    path_a: Path
    path_b: Path
    b_from_a: Float[Tensor, "3 3"]


def list_pairs(root: Path) -> list[HomographyPair]:
    """Pairs 1 -> k of every sequence below a folder, sorted by sequence and k.

    Raises:
        FileNotFoundError: no such folder, or an image or homography of a sequence is missing.
        ValueError: no sequence below the folder, or a homography that is not 3x3.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    pairs = [pair for folder in sorted(root.iterdir()) for pair in _sequence_pairs(folder)]
    if not pairs:
        raise ValueError(
            f"{root} holds no sequence: a sequence is a folder with H_1_2 (HPatches) or H1to2p "
            "(Oxford) and its images"
        )
    return pairs


def _sequence_pairs(folder: Path) -> list[HomographyPair]:
    if not folder.is_dir():
        return []
    pairs = []
    for k in range(2, 100):
        files = [path for path in (folder / f"H_1_{k}", folder / f"H1to{k}p") if path.is_file()]
        if not files:
            break
        pairs.append(
            HomographyPair(
                sequence=folder.name,
                path_a=_find_image(folder, 1),
                path_b=_find_image(folder, k),
                b_from_a=_read_homography(files[0]),
            )
        )
    return pairs


def _find_image(folder: Path, number: int) -> Path:
    for stem in (str(number), f"img{number}"):
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    raise FileNotFoundError(f"{folder} has no image {number} ({number}.ppm or img{number}.png)")


def _read_homography(path: Path) -> Float[Tensor, "3 3"]:
    try:
        matrix = np.loadtxt(path)
    except ValueError as error:
        raise ValueError(f"{path} is no homography: {error}") from error
    if matrix.shape != (3, 3) or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(f"{path} is no homography: shape {matrix.shape}, or not invertible")
    return torch.from_numpy(matrix)
