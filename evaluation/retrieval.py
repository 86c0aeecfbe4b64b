"""Recall of retrieval on scenes mixed together: ``python -m evaluation.retrieval features/*.h5``.

Each file of features is one scene, named by its folder or by NAME=FILE; with ``--mixed`` it holds
images of many scenes, each scene in a folder. All images go into one index. For an image and a
number K, recall is the share of its true partners among its K nearest; where it has more than K,
among any K of them. True partners are the images of its own scene, and for a scene with a list of
covisible pairs those of the list.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import numpy as np

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.retrieval.codebook import load_codebook
from rekd_hloc.retrieval.index import RetrievalIndex, nearest_images
from rekd_hloc.retrieval.signatures import Signature, read_signatures
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Pair

MIN_INLIERS = 30
"""Verified matches that make a pair of a database a true one."""
Partners = Mapping[str, set[str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("evaluation.retrieval", __doc__)
    parser.add_argument("scenes", nargs="*", metavar="[NAME=]FILE", help="features of a scene")
    parser.add_argument(
        "--mixed", metavar="FILE", nargs="*", default=[],
        help="features of images named SCENE/IMAGE; an image of a later file replaces that of the "
        "same name, as where some were rotated and extracted again",
    )  # fmt: skip
    parser.add_argument("--codebook", default="default")
    parser.add_argument("--at", type=int, nargs="+", default=[10, 20], help="numbers K")
    parser.add_argument(
        "--covisible", metavar="[NAME=]FILE", nargs="*", default=[],
        help="covisible pairs of a scene, or of all others: IMC's keys-th-0.1.npy, or a COLMAP "
        f"database whose pairs of {MIN_INLIERS} verified matches count",
    )  # fmt: skip
    parser.add_argument(
        "--distractors",
        metavar="NAME",
        nargs="*",
        default=[],
        help="scenes whose images are in the index and have no partners; distract_* names several",
    )
    parser.add_argument(
        "--nearest", metavar="FILE", type=Path,
        help="measure another engine instead: two names on each line, the best of an image first",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    most = max(arguments.at)
    start = time.process_time()
    signatures = read_scenes(arguments.scenes, arguments.codebook, arguments.mixed)
    read = time.process_time() - start
    lists = {scene: file for scene, _, file in (e.rpartition("=") for e in arguments.covisible)}
    partners = true_partners(list(signatures), lists, arguments.distractors)
    start = time.process_time()
    if arguments.nearest is None:
        nearest = nearest_images(signatures, most)
    else:
        nearest = read_nearest(arguments.nearest, list(signatures))
    seconds = time.process_time() - start
    sys.stdout.write(f"scene images {' '.join(f'recall@{at}' for at in arguments.at)}\n")
    for scene in [*dict.fromkeys(map(scene_of, partners)), "all"]:
        chosen = {n: others for n, others in partners.items() if scene in ("all", scene_of(n))}
        recalls = " ".join(f"{recall(nearest, chosen, at):.3f}" for at in arguments.at)
        sys.stdout.write(f"{scene} {len(chosen)} {recalls}\n")
    size = RetrievalIndex(signatures).num_bytes / len(signatures)
    sys.stdout.write(
        f"{len(signatures)} images: {read / len(signatures):.3f} s to read and describe, "
        f"{seconds / len(signatures):.4f} s to find, {size / 1024:.1f} KiB each\n"
    )


def read_scenes(
    scenes: Sequence[str], codebook: str, mixed: Sequence[str] = ()
) -> dict[str, Signature]:
    """Return the signatures of all images, named ``scene/image``.

    Args:
        scenes: ``[NAME=]FILE``, features of one scene each.
        codebook: name or file.
        mixed: files of features whose images are named so already; a later one goes before.

    Raises:
        FileNotFoundError: no such file or codebook.
        ValueError: two scenes of one name, or as :func:`read_signatures`.
    """
    book = load_codebook(codebook)
    found: dict[str, Signature] = {}
    for entry in scenes:
        scene, separator, file = entry.rpartition("=")
        path = Path(file)
        scene = scene if separator else path.parent.name
        if any(scene_of(name) == scene for name in found):
            raise ValueError(f"two scenes are called {scene!r}; name them: NAME={path}")
        with FeatureStore(path) as store:
            names = store.names()
        for name, signature in read_signatures(path, names, book).items():
            found[f"{scene}/{name}"] = signature
    for path in map(Path, mixed):
        with FeatureStore(path) as store:
            names = store.names()
        found |= read_signatures(path, names, book)
    return found


def read_nearest(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return for each image those that a file lists behind it, in the file's order.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a line without two names, or with one that is not among ``names``.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        parts = line.split()
        if len(parts) != 2 or not found.keys() >= set(parts):
            raise ValueError(f"{path}, line {number}: no two names of images, got {line!r}")
        found[parts[0]].append(parts[1])
    return found


def true_partners(
    names: Sequence[str], lists: Mapping[str, str], distractors: Sequence[str] = ()
) -> dict[str, set[str]]:
    """Return the true partners of the images that have some.

    Args:
        names: ``scene/image``, of all images.
        lists: files of covisible pairs, by scene, those of "" for all others: IMC's, or COLMAP
            databases.
        distractors: scenes without partners, or patterns of their names.
    """
    scenes: dict[str, list[str]] = {}
    for name in names:
        scenes.setdefault(scene_of(name), []).append(name)
    partners: dict[str, set[str]] = {}
    for scene, members in scenes.items():
        if any(fnmatch(scene, pattern) for pattern in distractors):
            continue
        if scene not in lists and "" not in lists:
            partners |= {name: set(members) - {name} for name in members}
            continue
        for a, b in _covisible(Path(lists.get(scene, lists.get("", ""))), scene, members):
            partners.setdefault(a, set()).add(b)
            partners.setdefault(b, set()).add(a)
    return {name: others for name, others in partners.items() if others}


def _covisible(path: Path, scene: str, members: Sequence[str]) -> Iterator[Pair]:
    """Yield the pairs of a list of IMC, whose names have no ending, or of a database."""
    if path.suffix == ".npy":
        stems = {Path(name).stem: name for name in members}
        pairs = [tuple(stems.get(stem) for stem in str(pair).split("-")) for pair in np.load(path)]
        yield from ((a, b) for a, b in pairs if a is not None and b is not None)
        return
    known = set(members)
    for names in _verified_pairs(path):
        a, b = (name if name in known else f"{scene}/{name}" for name in names)
        if {a, b} <= known:
            yield a, b


@cache
def _verified_pairs(path: Path) -> tuple[Pair, ...]:
    """Return the pairs of a COLMAP database that have enough verified matches."""
    with pycolmap.Database.open(str(path)) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        return tuple(
            (names[a], names[b])
            for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True)
            for a, b in [pycolmap.pair_id_to_image_pair(pair_id)]
            if len(geometry.inlier_matches) >= MIN_INLIERS
        )


def recall(nearest: Mapping[str, Sequence[str]], partners: Partners, at: int) -> float:
    """Return the mean share of true partners among the nearest ``at`` images.

    Of an image with more partners than ``at``, as many as ``at`` count as all.
    """
    shares = [
        len(true.intersection(nearest[name][:at])) / min(at, len(true))
        for name, true in partners.items()
    ]
    return float(np.mean(shares)) if shares else float("nan")


def scene_of(name: str) -> str:
    """Return the scene of an image's name."""
    return name.split("/", 1)[0]


if __name__ == "__main__":
    sys.exit(main())
