"""Recall of retrieval on scenes mixed together: ``python -m evaluation.retrieval features/*.h5``.

Each file of features is one scene, named by its folder or by NAME=FILE. All images go into one
index. For an image and a number K, recall is the share of its true partners among its K nearest;
where it has more than K, among any K of them. True partners are the images of its own scene, and
for a scene with a list of covisible pairs those of the list.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
    parser.add_argument("scenes", nargs="+", metavar="[NAME=]FILE", help="features of a scene")
    parser.add_argument("--codebook", default="default")
    parser.add_argument("--at", type=int, nargs="+", default=[10, 20], help="numbers K")
    parser.add_argument(
        "--covisible", metavar="NAME=FILE", nargs="*", default=[],
        help="covisible pairs of a scene: IMC's keys-th-0.1.npy, or a COLMAP database whose pairs "
        f"of {MIN_INLIERS} verified matches count",
    )  # fmt: skip
    parser.add_argument(
        "--distractors", metavar="NAME", nargs="*", default=[],
        help="scenes whose images are in the index and have no partners",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    start = time.process_time()
    signatures = read_scenes(arguments.scenes, arguments.codebook)
    read = time.process_time() - start
    lists = dict(entry.split("=", 1) for entry in arguments.covisible)
    partners = true_partners(list(signatures), lists, arguments.distractors)
    most = max(arguments.at)
    start = time.process_time()
    nearest = nearest_images(signatures, most)
    seconds = time.process_time() - start
    sys.stdout.write(f"scene images {' '.join(f'recall@{at}' for at in arguments.at)}\n")
    for scene in dict.fromkeys(map(scene_of, partners)):
        names = [name for name in partners if scene_of(name) == scene]
        recalls = [
            recall(nearest, {name: partners[name] for name in names}, at) for at in arguments.at
        ]
        sys.stdout.write(f"{scene} {len(names)} {' '.join(f'{r:.3f}' for r in recalls)}\n")
    recalls = [recall(nearest, partners, at) for at in arguments.at]
    sys.stdout.write(f"all {len(partners)} {' '.join(f'{r:.3f}' for r in recalls)}\n")
    size = RetrievalIndex(signatures).num_bytes / len(signatures)
    sys.stdout.write(
        f"{len(signatures)} images: {read / len(signatures):.3f} s to read and describe, "
        f"{seconds / len(signatures):.4f} s to find, {size / 1024:.1f} KiB each\n"
    )


def read_scenes(scenes: Sequence[str], codebook: str) -> dict[str, Signature]:
    """Return the signatures of all images, named ``scene/image``.

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
    return found


def true_partners(
    names: Sequence[str], lists: Mapping[str, str], distractors: Sequence[str] = ()
) -> dict[str, set[str]]:
    """Return the true partners of the images that have some.

    Args:
        names: ``scene/image``, of all images.
        lists: files of covisible pairs, by scene: IMC's, or COLMAP databases.
        distractors: scenes without partners.
    """
    scenes: dict[str, list[str]] = {}
    for name in names:
        scenes.setdefault(scene_of(name), []).append(name)
    partners: dict[str, set[str]] = {}
    for scene, members in scenes.items():
        if scene in distractors:
            continue
        if scene not in lists:
            partners |= {name: set(members) - {name} for name in members}
            continue
        for a, b in _covisible(Path(lists[scene]), scene, members):
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
    with pycolmap.Database.open(str(path)) as database:
        names = {image.image_id: f"{scene}/{image.name}" for image in database.read_all_images()}
        for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
            a, b = (names[number] for number in pycolmap.pair_id_to_image_pair(pair_id))
            if len(geometry.inlier_matches) >= MIN_INLIERS and {a, b} <= known:
                yield a, b


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
