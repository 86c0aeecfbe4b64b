"""The pipelines that are compared: presets, COLMAP's own SIFT, and other methods' features.

Each leaves ``features.h5`` and ``matches.h5`` in the folder of its first seed. From them come the
refined models, and the models of both halves of the keypoints.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pycolmap

from evaluation.extractors.registry import EXTRACTORS, LEVEL_SCALE, load_extractor
from evaluation.reconstruction.colmap_files import export_colmap
from evaluation.reconstruction.halves import Half, take_half
from rekd_hloc.config import (
    PRESETS,
    RECONSTRUCTION_KEYPOINTS,
    RECONSTRUCTION_MATCHING,
    ExtractConfig,
    MatchConfig,
    reconstruction_preset,
    with_max_keypoints,
)
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import EXHAUSTIVE, make_pairs
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.alignment import Pose
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.keypoint_scales import SIGMA_OF_LEVEL
from rekd_hloc.sfm.mapping import map_scene
from rekd_hloc.sfm.reconstruct import reconstruct, reconstruct_from_files
from rekd_hloc.sfm.refined_features import RefineOptions, refine_features
from rekd_hloc.sfm.stages import MappingOptions

COLMAP_SIFT = "colmap-sift"
CONSENSUS = ", consensus"
"""At the end of the names of methods whose matches are filtered by consensus."""
GUIDED = ", guided"
"""At the end of the names of methods whose matches lead to others."""
PEER_MATCHING = MatchConfig(ratio=0.8, filter="none")
"""Of methods that are neither presets nor COLMAP's SIFT: mutual neighbours as COLMAP takes them."""
CONSENSUS_MATCHING = MatchConfig(filter="consensus")


@dataclass(frozen=True)
class ImageSet:
    """Images to reconstruct, their masks if any, and their true poses if known."""

    name: str
    images: Path
    masks: Path | None
    poses: Mapping[str, Pose] | None


@dataclass(frozen=True)
class Files:
    """Features and matches that a model can be made from."""

    features: Path
    matches: Path


@dataclass(frozen=True)
class Pipeline:
    """One method on one set of images; results lie in a folder for each seed.

    Attributes:
        method: a preset, ``colmap-sift``, or another extractor; ``-nN`` at the end is a budget of
            keypoints.
        image_set: what is reconstructed.
        out: folder of all results.
        first_seed: whose features and matches all seeds use.
        consensus: whether matches are filtered by consensus, in place of the method's own filter;
            COLMAP's SIFT keeps COLMAP's matching.
        guided: whether the matches that pass lead to others; likewise.
    """

    method: str
    image_set: ImageSet
    out: Path
    first_seed: int
    consensus: bool = False
    guided: bool = False

    @property
    def label(self) -> str:
        """Return the name in tables, but for refinement."""
        return self.method + CONSENSUS * self.consensus + GUIDED * self.guided

    def folder(self, seed: int, ending: str = "") -> Path:
        """Return the folder of a seed, made if need be; ``ending`` belongs to the method's name."""
        matching = "-consensus" * self.consensus + "-guided" * self.guided
        name = f"{self.method}{matching}{ending}"
        path = self.out / self.image_set.name / name / f"seed{seed}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, seed: int, *, refine: bool = False) -> tuple[list[Any], dict[str, str]]:
        """Return the models, largest first, and the hashes of weights."""
        preset, _ = split_budget(self.method)
        if preset in PRESETS:
            return self._run_preset(seed, refine)
        if refine:
            folder = self.folder(seed, "-refined")
            return self._run_files(self.files(seed), folder, seed, refine=True), {}
        if self.method == COLMAP_SIFT:
            return self._run_colmap(seed), {}
        return self._run_files(self.files(seed), self.folder(seed), seed), {}

    def run_half(self, half: Half, seed: int, *, refine: bool = False) -> list[Any]:
        """Return the models of one half of the keypoints; :meth:`run` must have been before."""
        whole, folder = self.files(seed), self.folder(seed, "-halves")
        part = Files(folder / f"features-{half}.h5", folder / f"matches-{half}.h5")
        if not (part.features.is_file() and part.matches.is_file()):
            take_half(whole.features, whole.matches, half, part.features, part.matches)
        return self._run_files(part, folder / f"{half}{'-refined' * refine}", seed, refine=refine)

    def files(self, seed: int) -> Files:
        """Return features and matches of a seed, made if need be."""
        if self.method == COLMAP_SIFT:
            folder = self.folder(seed)
            files = Files(folder / "features.h5", folder / "matches.h5")
            if not (files.features.is_file() and files.matches.is_file()):
                export_colmap(folder / "database.db", files.features, files.matches)
            return files
        folder = self.folder(self.first_seed)
        files = Files(folder / "features.h5", folder / "matches.h5")
        preset, budget = split_budget(self.method)
        if preset not in PRESETS:
            self._extract_peer(preset, budget or RECONSTRUCTION_KEYPOINTS, files)
        return files

    def _run_preset(self, seed: int, refine: bool) -> tuple[list[Any], dict[str, str]]:
        first = self.folder(self.first_seed)
        folder = self.folder(seed, "-refined" if refine else "")
        plain = replace(self, consensus=False, guided=False)
        features = plain.folder(self.first_seed) / "features.h5"
        for source in (features, first / "matches.h5"):
            target = folder / source.name
            if not target.exists() and source.exists():
                shutil.copy(source, target)
        conf, config = resolve_preset(self.method)
        report = reconstruct(
            self.image_set.images, folder, conf=conf, config=config,
            matching=self._matching(RECONSTRUCTION_MATCHING),
            mask_dir=self.image_set.masks, seed=seed, refine=refine, progress=True,
        )  # fmt: skip
        return _read_models(folder), report["weights"]

    def _run_files(
        self, files: Files, folder: Path, seed: int, *, refine: bool = False
    ) -> list[Any]:
        images, features = self.image_set.images, files.features
        if refine:
            features = folder.with_name(f"{folder.name}-features.h5")
            scales = RefineOptions(scales=stored_scales(self.method))
            refine_features(files.features, files.matches, images, features, options=scales)
        options = MappingOptions(seed=seed)
        model = folder / "model"
        reconstruct_from_files(features, files.matches, None, images, model, options=options)
        return _read_models(model)

    def _run_colmap(self, seed: int) -> list[Any]:
        folder, images = self.folder(seed), self.image_set.images
        database, extracted = folder / "database.db", self.folder(self.first_seed) / "extracted.db"
        with compat.quiet():
            if not extracted.is_file():
                reader = pycolmap.ImageReaderOptions()
                if self.image_set.masks is not None:
                    reader.mask_path = str(self.image_set.masks)
                pycolmap.extract_features(str(extracted), str(images), reader_options=reader)
            shutil.copy(extracted, database)
            options = pycolmap.TwoViewGeometryOptions()
            compat.set_options(options, ransac__random_seed=seed)
            pycolmap.match_exhaustive(str(database), verification_options=options)
        return map_scene(database, images, folder / "sparse", seed=seed)

    def _extract_peer(self, name: str, budget: int, files: Files) -> None:
        extractor = load_extractor(name, budget)
        images, masks = self.image_set.images, self.image_set.masks
        summary = extract_images(extractor, images, files.features, mask_dir=masks, progress=True)
        pairs = make_pairs(summary.names, EXHAUSTIVE)
        config = self._matching(PEER_MATCHING)
        match_images(files.features, files.matches, pairs, config, progress=True)

    def _matching(self, own: MatchConfig) -> MatchConfig:
        return replace(CONSENSUS_MATCHING if self.consensus else own, guided=self.guided)


def check_method(method: str, *, refine: bool = False) -> None:
    """Refuse, before the work, what cannot be run.

    Args:
        method: its name, with or without a budget.
        refine: whether its keypoints are to be refined.

    Raises:
        ValueError: no such method, a budget of no keypoints, or scales that are neither levels nor
            sigmas and so cannot be refined.
        FileNotFoundError: its weights are not there.
    """
    name, budget = split_budget(method)
    if name in PRESETS or name not in EXTRACTORS:
        resolve_preset(method)
    elif method != COLMAP_SIFT:
        load_extractor(name, budget or RECONSTRUCTION_KEYPOINTS)
    if refine:
        stored_scales(method)


def stored_scales(method: str) -> str:
    """Return what refinement has to take the scales in a method's files for.

    Raises:
        ValueError: for something that it does not know.
    """
    name, _ = split_budget(method)
    scales = {1.0: "rekd", SIGMA_OF_LEVEL: "sigma"}.get(LEVEL_SCALE.get(name, 1.0))
    if scales is None:
        raise ValueError(f"{method} has scales that are no sigmas; leave it out, or --refine")
    return scales


def resolve_preset(method: str) -> tuple[str, ExtractConfig]:
    """Return a preset's name and its options.

    The budget of keypoints is the one that ``-nN`` at the end asks for, or that of
    :func:`rekd_hloc.sfm.reconstruct.reconstruct`.

    Raises:
        ValueError: no such preset, or a budget of no keypoints.
    """
    conf, budget = split_budget(method)
    config = reconstruction_preset(conf)
    return conf, config if budget is None else with_max_keypoints(config, budget)


def split_budget(method: str) -> tuple[str, int | None]:
    """Return a method's name without its budget of keypoints, and that."""
    if method in EXTRACTORS:  # aliked-n16 is a name
        return method, None
    found = re.fullmatch(r"(.+?)(?:-n(\d+))?", method)
    assert found is not None
    return found[1], int(found[2]) if found[2] else None


def _read_models(folder: Path) -> list[Any]:
    models = sorted((folder / "sparse").glob("[0-9]*"), key=lambda path: int(path.name))
    return [pycolmap.Reconstruction(str(path)) for path in models]
