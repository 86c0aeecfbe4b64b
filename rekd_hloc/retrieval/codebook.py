"""Words for local descriptors: a codebook of two levels, and its file.

A descriptor belongs to one of the cells, and within the cells nearest to it to one of their words.
So a codebook of ``cell * word`` words is searched at the cost of a few hundred of them. It belongs
to the descriptor that it was trained on, whose hash its file records.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rekd_hloc.weight_files import (
    read_weights,
    shipped_names,
    shipped_path,
    weights_hash,
    write_weights,
)

logger = logging.getLogger(__name__)

CODEBOOK_FORMAT = "rekd_hloc codebook 1"
SHIPPED = "codebook"
"""Name of the shipped codebook that ``default`` stands for."""
DESCRIPTOR = "descriptor_weights"
"""What files of features and of codebooks record of their descriptor: a hash of its weights."""
BLOCK_ROWS = 8192
"""Descriptors that are compared with all centres at once."""
NUM_CELLS_TRIED = 3
"""Nearest cells of a descriptor in which its word is looked for."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Hold the words of one kind of descriptor, rows of length 1.

    Attributes:
        cells: centres of the coarse level.
        words: centres of the fine level, those of one cell together.
        descriptor: first digits of the hash of the descriptor's weights; of several with spaces
            between, where it was found to do as well for others; empty if unknown.
        digest: first digits of the hash of the codebook's own file; empty if there is none.
    """

    cells: Float[Tensor, "cell channel"]
    words: Float[Tensor, "cell word channel"]
    descriptor: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return self.words.shape[0] * self.words.shape[1]

    @property
    def num_channels(self) -> int:
        """Return the width of the descriptors that it is for."""
        return self.words.shape[2]

    def assign(
        self, descriptors: Float[Tensor, "keypoint channel"]
    ) -> tuple[Int64[Tensor, " keypoint"], Float[Tensor, "keypoint channel"]]:
        """Return the number of each descriptor's word, and the descriptor minus that word."""
        per_cell = self.words.shape[1]
        num_tried = min(NUM_CELLS_TRIED, len(self.cells))
        tried = (descriptors @ self.cells.T).topk(num_tried, dim=1).indices
        best = descriptors.new_full((len(descriptors),), -torch.inf)
        number = torch.zeros(len(descriptors), dtype=torch.int64, device=descriptors.device)
        for cell in sorted(set(tried.flatten().tolist())):
            rows = (tried == cell).any(dim=1).nonzero()[:, 0]
            cosine, word = (descriptors[rows] @ self.words[cell].T).max(dim=1)
            is_better = cosine > best[rows]
            best[rows[is_better]] = cosine[is_better]
            number[rows[is_better]] = cell * per_cell + word[is_better]
        return number, descriptors - self.words.flatten(0, 1)[number]


def load_codebook(name: str = "default") -> Codebook:
    """Read the codebook of a name: ``default``, that of shipped weights, or a file's path.

    Raises:
        FileNotFoundError: there is none; the message names those that ship.
        ValueError: the file is no codebook, or a damaged one.
    """
    shipped = shipped_path(SHIPPED if name == "default" else name)
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(shipped_names(CODEBOOK_FORMAT)) or "none"
        raise FileNotFoundError(f"no codebook {name!r}: shipped are {names}; or give a file's path")
    tensors, metadata = read_weights(path)
    if metadata.get("format") != CODEBOOK_FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, a codebook has {CODEBOOK_FORMAT!r}"
        )
    cells, words = (tensors.get(key, torch.zeros(0)).float() for key in ("cells", "words"))
    if words.ndim != 3 or cells.shape != (words.shape[0], words.shape[2]) or not len(words):
        raise ValueError(
            f"{path} holds cells {tuple(cells.shape)} and words {tuple(words.shape)}; "
            "a codebook has (cell, channel) and (cell, word, channel): train it anew"
        )
    return Codebook(cells, words, metadata.get(DESCRIPTOR, ""), weights_hash(path))


def save_codebook(path: Path, codebook: Codebook, provenance: Mapping[str, Any]) -> None:
    """Write a codebook; its centres are rounded to float16.

    Args:
        path: the file.
        codebook: to write.
        provenance: where it comes from; any JSON values.

    Raises:
        FileExistsError: what is there can be no weights file.
        OSError: the file cannot be written, or the disk is full.
    """
    tensors = {"cells": codebook.cells.half(), "words": codebook.words.half()}
    metadata = {
        "format": CODEBOOK_FORMAT,
        DESCRIPTOR: codebook.descriptor,
        "provenance": json.dumps(dict(provenance)),
    }
    write_weights(path, tensors, metadata)


def check_descriptor(codebook: Codebook, features: Path, provenance: Mapping[str, str]) -> None:
    """Warn in one line where features are of another descriptor than the codebook's own.

    Args:
        codebook: to use.
        features: their file, for the message.
        provenance: what that file records.
    """
    found = provenance.get(DESCRIPTOR, "unknown")
    if codebook.descriptor and found not in codebook.descriptor.split():
        logger.warning(
            "%s has the descriptor %s, the codebook %s: fewer overlapping images may be found; "
            "train one by `rekd-hloc codebook %s FILE`, and name it by --codebook",
            features, found, codebook.descriptor, features,
        )  # fmt: skip


def train_codebook(
    descriptors: Float[Tensor, "keypoint channel"],
    *,
    num_cells: int = 128,
    words_per_cell: int = 64,
    iterations: int = 10,
    seed: int = 0,
    descriptor: str = "",
) -> Codebook:
    """Cluster descriptors by spherical k-means, into cells and each cell into words.

    Args:
        descriptors: of many images, rows of length 1.
        num_cells: of the coarse level.
        words_per_cell: of the fine level.
        iterations: of each k-means.
        seed: of all random draws.
        descriptor: first digits of the hash of the descriptor's weights.

    Raises:
        ValueError: there are fewer descriptors than words, or no cell or word is asked for.
    """
    if num_cells < 1 or words_per_cell < 1:
        raise ValueError(
            f"cells and words of a cell must be at least 1, got {num_cells} and {words_per_cell}"
        )
    if len(descriptors) < num_cells * words_per_cell:
        raise ValueError(
            f"{num_cells * words_per_cell} words need as many descriptors, got {len(descriptors)}; "
            "give more images, or ask for fewer words"
        )
    generator = torch.Generator().manual_seed(seed)
    cells, member = _cluster(descriptors, num_cells, iterations, generator)
    words = [
        _words_of_cell(
            descriptors[member == cell], cells[cell], words_per_cell, iterations, generator
        )
        for cell in range(num_cells)
    ]
    return Codebook(cells, torch.stack(words), descriptor)


def _words_of_cell(
    rows: Float[Tensor, "keypoint channel"],
    centre: Float[Tensor, " channel"],
    count: int,
    iterations: int,
    generator: torch.Generator,
) -> Float[Tensor, "word channel"]:
    """Return the words of one cell; one with too few members has its own centre for the others."""
    if len(rows) > count:
        return _cluster(rows, count, iterations, generator)[0]
    return torch.cat([rows, centre.expand(count - len(rows), -1)])


def _cluster(
    rows: Float[Tensor, "keypoint channel"], count: int, iterations: int, generator: torch.Generator
) -> tuple[Float[Tensor, "word channel"], Int64[Tensor, " keypoint"]]:
    """Return centres, and the number of each row's; a centre without rows moves to one of them."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]]
    for _ in range(iterations):
        member = _nearest(rows, centres)
        total = torch.zeros_like(centres).index_add_(0, member, rows)
        is_empty = torch.bincount(member, minlength=count) == 0
        drawn = torch.randint(len(rows), (int(is_empty.sum()),), generator=generator)
        total[is_empty] = rows[drawn]
        centres = F.normalize(total, dim=1)
    return centres, _nearest(rows, centres)


def _nearest(
    rows: Float[Tensor, "keypoint channel"], centres: Float[Tensor, "word channel"]
) -> Int64[Tensor, " keypoint"]:
    parts = [rows[first : first + BLOCK_ROWS] for first in range(0, max(len(rows), 1), BLOCK_ROWS)]
    return torch.cat([(part @ centres.T).argmax(dim=1) for part in parts])
