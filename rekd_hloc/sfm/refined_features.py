"""A file of features, of any extractor, becomes one whose keypoints lie where the images agree.

Matches are verified, joined to tracks, and each track's keypoints are aligned to its root
(:mod:`rekd_hloc.refinement.track_alignment`). The new file has all that the old one has, in the
same order, so matches of the old file are matches of the new one.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from rekd_hloc.config_file import hash_of_tree
from rekd_hloc.devices import choose_device
from rekd_hloc.files import beside
from rekd_hloc.images import read_image
from rekd_hloc.matching.pairs import make_pairs, unique_pairs
from rekd_hloc.names import one_line
from rekd_hloc.progress import progress_bar
from rekd_hloc.refinement.pyramid import ImagePyramid
from rekd_hloc.refinement.track_alignment import (
    PyramidCache,
    TrackAligner,
)
from rekd_hloc.refinement.tracks import ImageMatches, build_tracks
from rekd_hloc.sfm.cameras import CameraOptions
from rekd_hloc.sfm.database import DEFAULT_CAMERAS, export_database, remove_database
from rekd_hloc.sfm.database_record import refuse_foreign_database, write_database
from rekd_hloc.sfm.image_work import SKIPPED_ERRORS
from rekd_hloc.sfm.keypoint_scales import check_scales, read_frames
from rekd_hloc.sfm.refined_record import REASON, refined_record
from rekd_hloc.sfm.refinement_sources import (
    find_unusable,
    is_made_again,
    refinement_provenance,
    refuse_same_file,
    size_reason,
)
from rekd_hloc.sfm.refinement_summary import RefineSummary, summarise
from rekd_hloc.sfm.verification import check_seed, verify
from rekd_hloc.sfm.verified_matches import read_verified
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Keypoints, Pair

VERIFIED = ".verified.db"
"""Behind the name of the output: the database in which matches are verified, until the end."""


@dataclass(frozen=True)
class RefineOptions:
    """How keypoints are refined.

    Attributes:
        cameras: what is known of the cameras, for the verification of matches.
        seed: of the verification.
        scales: what the file's scales are: ``auto``, ``rekd`` or ``sigma``, see
            :func:`rekd_hloc.sfm.keypoint_scales.read_frames`.

    Raises:
        ValueError: a negative seed, or no such sense of scales.
    """

    cameras: CameraOptions = DEFAULT_CAMERAS
    seed: int = 0
    scales: str = "auto"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_scales(self.scales)


DEFAULT_OPTIONS = RefineOptions()


def refine_features(
    features: Path,
    matches: Path,
    image_dir: Path,
    output: Path,
    *,
    pairs: str | Path | Sequence[Pair] | None = None,
    verified: Path | None = None,
    options: RefineOptions = DEFAULT_OPTIONS,
    overwrite: bool = False,
    redo: bool = False,
    device: str = "cpu",
    progress: bool = False,
) -> RefineSummary:
    """Write a copy of a features file in which the keypoints of verified tracks are refined.

    An image is safe as soon as it is refined: after an interruption the same call goes on.

    Args:
        features: file of this package, or of hloc with any extractor.
        matches: of these features, by any matcher.
        image_dir: where the images are. One that is missing, or another than its features are of,
            is named in the summary, and its keypoints keep their positions.
        output: file to write, or to go on with if it was made from the same files.
        pairs: whose matches count: a file, or the pairs themselves; all in ``matches`` when None.
        verified: a COLMAP database of the same keypoints and matches in which the pairs are
            verified; None verifies them first.
        options: how.
        overwrite: replace ``output`` instead of going on with it.
        redo: replace an ``output`` that was refined from other files or in another way.
        device: torch device, or ``auto``.
        progress: show bars on stderr.

    Raises:
        FileNotFoundError: a file is not there, or none of the images is.
        ValueError: files that do not fit each other, no such device, or an ``output`` that is an
            input, or was made from something else.
        FileExistsError: ``output`` holds matches.
        OSError: ``output`` cannot be written, or the disk is full; what is finished is kept.
    """
    start = time.perf_counter()
    torch_device = choose_device(device)
    refuse_same_file(output, features, matches)
    with ExitStack() as stack:
        source = stack.enter_context(FeatureStore(features))
        match_store = stack.enter_context(MatchStore(matches))
        names = source.names()
        image_pairs = _choose_pairs(pairs, match_store, names)
        unusable = find_unusable(source, names, image_dir)
        made_with = refinement_provenance(
            source, match_store, image_pairs, unusable,
            verified=verified, **{f.name: getattr(options, f.name) for f in fields(options)},
        )  # fmt: skip
        anew = overwrite or is_made_again(output, made_with, redo=redo)
        store = stack.enter_context(FeatureStore.resume(output, made_with, overwrite=anew))
        todo = [name for name in names if name not in store]
        images = _Images(source, names, image_dir, torch_device, options.scales, unusable)
        if todo:
            store.require_writable()
            usable = [pair for pair in image_pairs if unusable.keys().isdisjoint(pair)]
            found = _find_verified(
                verified, beside(output, VERIFIED), source, match_store, usable, images, options,
                owner=f"a refinement ({hash_of_tree(made_with)})", overwrite=anew,
                progress=progress,
            )  # fmt: skip
            aligner = TrackAligner(build_tracks(found), images.frames, PyramidCache(images.pyramid))
            bar = progress_bar(None, "refine", total=len(todo), shown=progress)
            for number in aligner.in_order([images.numbers[name] for name in todo]):
                name, refined = names[number], aligner.refine(number)
                store.write_record(refined_record(source, name, refined, images.skipped))
                bar.update()
            bar.close()
        skipped = {
            **images.skipped,
            **{n: str(why) for n in names if (why := store.attributes(n).get(REASON))},
        }
        summary = summarise(
            source, store, names, options.scales,
            skipped=skipped, num_resumed=len(names) - len(todo),
        )  # fmt: skip
    remove_database(beside(output, VERIFIED))
    return replace(summary, seconds=time.perf_counter() - start)


class _Images:
    """Keypoints and pyramids of images by their numbers, as tracks have them.

    Attributes:
        folder: of the images.
        numbers: of the images by their names.
        skipped: images that cannot be used, and why; more are found when they are read.
    """

    def __init__(
        self,
        features: FeatureStore,
        names: Sequence[str],
        folder: Path,
        device: torch.device,
        scales: str,
        unusable: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.numbers = {name: number for number, name in enumerate(names)}
        self.skipped = dict(unusable)
        self._features = features
        self._names = names
        self._device = device
        self._scales = scales
        self._frames: dict[int, Keypoints] = {}

    def frames(self, image: int) -> Keypoints:
        """Return keypoints; those of all images together take 16 bytes for each keypoint."""
        if image not in self._frames:
            read = read_frames(self._features, self._names[image], self._scales)
            self._frames[image] = read.to(self._device)
        return self._frames[image]

    def pyramid(self, image: int) -> ImagePyramid | None:
        """Return the pyramid of an image that can be used; None of any other."""
        name = self._names[image]
        if name in self.skipped:
            return None
        try:
            grey = read_image(self.folder / name)
        except (*SKIPPED_ERRORS, PermissionError) as error:
            self.skipped[name] = one_line(str(error))
            return None
        height, width = grey.shape
        if why := size_reason((width, height), self._features.image_size(name)):
            self.skipped[name] = why
            return None
        return ImagePyramid.of(grey.to(self._device))


def _choose_pairs(
    pairs: str | Path | Sequence[Pair] | None, matches: MatchStore, names: Sequence[str]
) -> list[Pair]:
    if pairs is None:
        stored = matches.pairs(names)
        if not stored:
            raise ValueError(f"{matches.path} holds no matches; match the features first")
        return stored
    if isinstance(pairs, str | Path):
        return make_pairs(names, pairs)
    return unique_pairs(pairs, names)


def _find_verified(
    verified: Path | None,
    scratch: Path,
    features: FeatureStore,
    matches: MatchStore,
    pairs: Sequence[Pair],
    images: _Images,
    options: RefineOptions,
    *,
    owner: str,
    overwrite: bool,
    progress: bool,
) -> ImageMatches:
    """Return the verified matches; those that a killed run has verified are not verified again."""
    if not pairs:
        return ImageMatches.concatenate([])
    if verified is None:
        if not _is_of(scratch, owner):
            export_database(
                scratch, images.folder, features, matches, pairs,
                names={name for pair in pairs for name in pair}, cameras=options.cameras,
                owner=owner, overwrite=overwrite, progress=progress,
            )  # fmt: skip
        with write_database(scratch, owner=owner):
            verify(scratch, pairs, options.seed, progress=progress)
    return read_verified(verified or scratch, matches, pairs, images.numbers)


def _is_of(database: Path, owner: str) -> bool:
    """Say whether a database is there that an interrupted run of the same has left."""
    try:
        refuse_foreign_database(database, owner=owner, overwrite=False)
    except FileExistsError:
        return False
    return database.is_file() and database.stat().st_size > 0
