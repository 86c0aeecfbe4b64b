"""Image pairs with known homographies: the HPatches release, Oxford sequences, or a list of pairs.

HPatches holds ``1.ppm`` .. ``6.ppm`` and ``H_1_2`` .. ``H_1_6`` in each folder, Oxford
``img1.png`` .. ``img6.png`` and ``H1to2p`` .. ``H1to6p``. A list is a text file with a line for
each pair: two images, then a file with the homography or its nine numbers; paths are relative to
the list, quotes protect spaces, ``#`` starts a comment. Images and homographies are never changed.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".ppm", ".png", ".pgm", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
RELEASE = (
    "the release is hpatches-sequences-release.tar.gz (1.3 GB), linked from "
    "https://github.com/hpatches/hpatches-dataset"
)
MAX_PROBLEMS = 20
"""Problems that a message lists; further ones are counted."""
LEAST_DETERMINANT = 1e-12


@dataclass(frozen=True)
class HomographyPair:
    """Two images and the map of pixels of a to pixels of b."""

    sequence: str
    path_a: Path
    path_b: Path
    b_from_a: Float[Tensor, "3 3"]

    @property
    def name(self) -> str:
        """Return both images without folder and ending, ``1-3``."""
        return f"{self.path_a.stem}-{self.path_b.stem}"


def list_pairs(source: Path) -> list[HomographyPair]:
    """Return pairs 1 -> k of every sequence of a folder, by sequence and k; or the pairs of a list.

    Raises:
        FileNotFoundError: no such folder or list.
        ValueError: no pair in it; or images or homographies are missing or unreadable, all of
            which the one message names.
    """
    if not source.exists():
        raise FileNotFoundError(
            f"no folder of sequences and no list of pairs at {source}; for HPatches, {RELEASE}"
        )
    problems: list[str] = []
    if source.is_file():
        pairs = _listed_pairs(source, problems)
    else:
        folders = sorted(path for path in source.iterdir() if path.is_dir())
        pairs = [pair for folder in folders for pair in _sequence_pairs(folder, problems)]
    problems += _unreadable_images(pairs)
    if problems:
        raise ValueError(describe_problems(source, list(dict.fromkeys(problems))))
    if not pairs:
        raise ValueError(
            f"{source} holds no image pair: a sequence is a folder with its images and H_1_2 "
            "(HPatches) or H1to2p (Oxford); a list has lines `image_a image_b homography`; "
            f"for HPatches, {RELEASE}"
        )
    return pairs


def describe_problems(source: Path, problems: list[str]) -> str:
    """Return one message of all problems, long lists shortened."""
    shown = problems[:MAX_PROBLEMS]
    if len(problems) > MAX_PROBLEMS:
        shown = [*shown, f"and {len(problems) - MAX_PROBLEMS} more"]
    return f"{source} cannot be evaluated: " + "; ".join(shown)


def read_homography(path: Path) -> Float[Tensor, "3 3"]:
    """Return a text file with three rows of three numbers.

    Raises:
        ValueError: it holds something else, or a matrix without an inverse.
    """
    try:
        matrix = np.loadtxt(path)
    except ValueError as error:
        raise ValueError(f"{path} is no homography: {error}") from error
    return _checked(matrix, str(path))


def _checked(matrix: NDArray[np.float64], name: str) -> Float[Tensor, "3 3"]:
    if matrix.shape != (3, 3):
        raise ValueError(f"{name} is no homography: its shape is {matrix.shape}")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < LEAST_DETERMINANT:
        raise ValueError(f"{name} is no homography: the matrix has no inverse")
    return torch.from_numpy(matrix)


def _sequence_pairs(folder: Path, problems: list[str]) -> list[HomographyPair]:
    homographies = _homography_files(folder)
    if not homographies:
        if find_image(folder, 1) is not None:
            problems.append(f"{folder.name} has images but no homography H_1_2 or H1to2p")
        return []
    found = []
    for number in range(2, max(homographies) + 1):
        if number not in homographies:
            problems.append(f"{folder.name} has no homography H_1_{number} (or H1to{number}p)")
            continue
        first, other = find_image(folder, 1), find_image(folder, number)
        if first is None or other is None:
            missing = 1 if first is None else number
            problems.append(f"{folder.name} has no image {missing}.ppm (or img{missing}.png)")
            continue
        try:
            matrix = read_homography(homographies[number])
        except ValueError as error:
            problems.append(str(error))
            continue
        found.append(HomographyPair(folder.name, first, other, matrix))
    return found


def _homography_files(folder: Path) -> dict[int, Path]:
    """Homography files 1 -> k of a folder by k."""
    pattern = re.compile(r"H_1_(\d+)|H1to(\d+)p")
    found = {}
    for path in sorted(folder.iterdir()):
        if (match := pattern.fullmatch(path.name)) and path.is_file():
            found[int(match[1] or match[2])] = path
    return found


def find_image(folder: Path, number: int) -> Path | None:
    """Image ``number`` of a sequence, whatever its ending."""
    for stem in (str(number), f"img{number}"):
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    return None


def _listed_pairs(source: Path, problems: list[str]) -> list[HomographyPair]:
    pairs = []
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        where = f"{source.name} line {number}"
        try:
            words = shlex.split(line, comments=True)
            if words:
                pairs.append(_pair_from_words(source.parent, words, where))
        except (ValueError, FileNotFoundError) as error:
            problems.append(f"{where}: {error}")
    return pairs


def _pair_from_words(folder: Path, words: list[str], where: str) -> HomographyPair:
    if len(words) not in (3, 11):
        raise ValueError(
            f"{len(words)} words, not `image_a image_b file` or two images and nine numbers"
        )
    path_a, path_b = folder / words[0], folder / words[1]
    for path in (path_a, path_b):
        if not path.is_file():
            raise FileNotFoundError(f"no image {path}")
    if len(words) == 3:
        if not (folder / words[2]).is_file():
            raise FileNotFoundError(f"no homography file {folder / words[2]}")
        matrix = read_homography(folder / words[2])
    else:
        matrix = _checked(np.array([float(word) for word in words[2:]]).reshape(3, 3), where)
    return HomographyPair(path_a.parent.name or folder.name, path_a, path_b, matrix)


def _unreadable_images(pairs: list[HomographyPair]) -> list[str]:
    """Return images whose header cannot be read."""
    problems = []
    for path in dict.fromkeys(path for pair in pairs for path in (pair.path_a, pair.path_b)):
        try:
            with Image.open(path) as image:
                image.size  # noqa: B018  (opening reads the header)
        except (UnidentifiedImageError, OSError):
            problems.append(f"{path} is no readable image")
    return problems
