"""What docs/results.md reports, part by part, and the command that measures each.

A command writes ``results.json`` somewhere in the results folder; a part shows what it finds there
under its protocols' names, so the methods of one part may be measured by several commands.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.extractors.registry import CLASSICAL, EXTRACTORS, LEARNED
from rekd_hloc.config import PRESETS

SAME_DESCRIPTOR = ("sift+ours", "rootsift-upright+ours", "orb+ours", "disk+ours", "aliked-n16+ours")
"""Detectors compared alone, with this project's descriptor; keynet has no other anyway."""
AUC_EXTRACTORS = tuple(name for name in EXTRACTORS if name != "rekd-paper")
SWEPT = ("rekd", "rekd-fast", "sift", "rootsift-upright", "orb", "akaze", "colmap-sift", *LEARNED)
SPEED_EXTRACTORS = ("rekd-fast", "rekd", "rekd-c36", "rekd-upright", *CLASSICAL, *LEARNED)
SFM_EXTRACTORS = ("rekd-fast", "rekd", "colmap-sift")
IMC_EXTRACTORS = (
    *("rekd-fast", "rekd", "rekd-upright", "rootsift", "rootsift-upright"),
    *("keynet", "disk", "aliked-n16rot"),
)
NUM_SWEPT_IMAGES = 4


@dataclass(frozen=True)
class Part:
    """A section of the document."""

    name: str
    title: str
    protocols: tuple[str, ...]
    """Names of protocols whose results belong here, or how they begin."""
    program: str
    """Module that measures it."""
    arguments: tuple[str, ...]
    """Its words without methods and folder; ``{data}`` stands for the data folder."""
    methods: tuple[str, ...] = ()
    """Those that the document should show; empty if the program has none to choose."""
    shared: str = ""
    """Folder whose extracted features several parts use; empty for a folder of its own."""
    is_one_run: bool = False
    """Whether methods compare only within one run."""

    def shows(self, protocol: str) -> bool:
        """Whether results of that protocol belong here."""
        return any(protocol == name or protocol.startswith(f"{name} ") for name in self.protocols)

    def words(self, data: str, results: str, methods: Sequence[str], run: int = 1) -> list[str]:
        """The program's arguments.

        Args:
            data: folder of the data.
            results: folder of all results.
            methods: to measure.
            run: 1 for the first; further runs write beside it.
        """
        folder = self.name if run == 1 else f"{self.name}-{run}"
        fixed = [word.replace("{data}", data) for word in self.arguments]
        chosen = [word for name in methods for word in ("--method", name)]
        if self.shared:
            return [*fixed, *chosen, "--out", f"{results}/{self.shared}", "--exp-name", folder]
        return [*fixed, *chosen, "--out", f"{results}/{folder}"]

    def command(self, data: str, results: str, methods: Sequence[str], run: int = 1) -> str:
        """The same as a line for a shell."""
        return f"python -m {self.program} {shlex.join(self.words(data, results, methods, run))}"


_SEQUENCES = ("--data", "{data}/homographies")
_PHOTOS = (
    *("--data", "{data}/train/bsds500_train", "{data}/train/imagenet_sample", "--held-out"),
    *("--max-images", str(NUM_SWEPT_IMAGES)),
)
_SACRE_COEUR = "{data}/imc2021/phototourism/sacre_coeur/set_100"
_SCENE = ("--images", f"{_SACRE_COEUR}/images", "--reference", f"{_SACRE_COEUR}/calibration")


def _homographies(protocol: str, title: str, methods: tuple[str, ...]) -> Part:
    words = (*_SEQUENCES, "--protocol", protocol)
    return Part(protocol, title, (protocol,), "evaluation.hpatches", words, methods, "hpatches")


def _sweep(kind: str, title: str) -> Part:
    words = (*_PHOTOS, "--sweep", kind)
    return Part(kind, title, (kind,), "evaluation.rotation", words, SWEPT, "sweeps")


PARTS = (
    _homographies(
        "rekd",
        "Matching under known homographies: REKD's protocol",
        (*EXTRACTORS, *SAME_DESCRIPTOR),
    ),
    _homographies("homography-auc", "Homographies from matches", AUC_EXTRACTORS),
    _homographies("keynet", "Repeatability by Key.Net's protocol", EXTRACTORS),
    _homographies("superpoint", "Repeatability by SuperPoint's protocol", EXTRACTORS),
    _sweep("rotation", "Rotation"),
    _sweep("gaussian", "Gaussian blur"),
    _sweep("motion", "Motion blur"),
    _sweep("scale", "Change of size"),
    Part(
        name="speed",
        title="Speed",
        protocols=("speed",),
        program="evaluation.speed",
        arguments=(),
        methods=SPEED_EXTRACTORS,
        is_one_run=True,
    ),
    Part(
        name="sfm",
        title="Reconstruction against true poses",
        protocols=("SfM",),
        program="evaluation.sfm",
        arguments=(*_SCENE, "--turned"),
        methods=SFM_EXTRACTORS,
    ),
    Part(
        name="hloc",
        title="Reconstruction with hloc",
        protocols=("hloc,", "hloc"),
        program="evaluation.hloc_report",
        arguments=(*_SCENE, "--conf", "rekd-fast"),
    ),
    Part(
        name="imc",
        title="Image Matching Challenge 2021",
        protocols=("imc2021-stereo", "imc2021-multiview"),
        program="evaluation.imc",
        arguments=("--data", "{data}/imc2021"),
        methods=IMC_EXTRACTORS,
    ),
)
PRESET_NAMES = tuple(PRESETS)
