"""What docs/results holds, part by part, the command that measures each, and its chart.

A command writes ``results.json`` somewhere in the results folder. A part collects the results of
its protocols there, so the methods of one part may be measured by several commands.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.extractors.registry import CLASSICAL, EXTRACTORS, LEARNED
from evaluation.reporting.bars import Series
from rekd_hloc.config import PRESETS

SAME_DESCRIPTOR = tuple(
    f"{name}+rekd-hardnet" for name in ("sift", "rootsift-upright", "orb", "disk", "aliked-n16")
)
"""Detectors compared alone, with this project's descriptor; keynet has no other anyway."""
AUC_EXTRACTORS = tuple(name for name in EXTRACTORS if name != "rekd-paper")
ROBUSTNESS_EXTRACTORS = (
    "rekd",
    "rekd-fast",
    "sift",
    "rootsift-upright",
    "orb",
    "akaze",
    "colmap-sift",
    *LEARNED,
)
SPEED_EXTRACTORS = ("rekd-fast", "rekd", "rekd-c36", "rekd-upright", *CLASSICAL, *LEARNED)
SFM_EXTRACTORS = ("rekd-fast", "rekd", "colmap-sift")
IMC_EXTRACTORS = (
    *("rekd-fast", "rekd", "rekd-upright", "rootsift", "rootsift-upright"),
    *("keynet", "disk", "aliked-n16rot"),
)
NUM_TRANSFORMED_IMAGES = 4


@dataclass(frozen=True)
class Chart:
    """What a part's bar chart shows."""

    x_label: str
    series: tuple[Series, ...]
    is_best_low: bool = False
    """Whether the smallest value is the best."""


@dataclass(frozen=True)
class Part:
    """One benchmark, and the name of its files."""

    name: str
    title: str
    protocols: tuple[str, ...]
    """Names of the protocols whose results belong here."""
    program: str
    """Module that measures it."""
    arguments: tuple[str, ...]
    """Its words without methods and folder; ``{data}`` stands for the data folder."""
    methods: tuple[str, ...] = ()
    """Those that should be measured; empty if the program has none to choose."""
    shared: str = ""
    """Folder whose extracted features several parts use; empty for a folder of its own."""
    is_one_run: bool = False
    """Whether methods compare only within one run."""
    chart: Chart | None = None

    def words(self, data: str, results: str, methods: Sequence[str], run: int = 1) -> list[str]:
        """Return the program's arguments.

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
        """Return the same as a line for a shell."""
        return f"python -m {self.program} {shlex.join(self.words(data, results, methods, run))}"


_SEQUENCES = ("--data", "{data}/homographies")
_IMAGES = (
    *("--data", "{data}/train/bsds500_train", "{data}/train/imagenet_sample", "--held-out"),
    *("--max-images", str(NUM_TRANSFORMED_IMAGES)),
)
_SACRE_COEUR = "{data}/imc2021/phototourism/sacre_coeur/set_100"
_SCENE = ("--images", f"{_SACRE_COEUR}/images", "--reference", f"{_SACRE_COEUR}/calibration")


def _homographies(protocol: str, title: str, methods: tuple[str, ...], chart: Chart) -> Part:
    words = (*_SEQUENCES, "--protocol", protocol)
    program = "evaluation.hpatches"
    return Part(protocol, title, (protocol,), program, words, methods, "hpatches", chart=chart)


def _robustness(kind: str, title: str) -> Part:
    words = (*_IMAGES, "--sweep", kind)
    series = (Series("worst", "matches", "MMA@3 worst"), Series("mean", "matches", "MMA@3 mean"))
    return Part(
        *(kind, title, (kind,), "evaluation.rotation", words, ROBUSTNESS_EXTRACTORS, "robustness"),
        chart=Chart("MMA@3, %", series),
    )


def _filtered(metric: str) -> Chart:
    series = Series("all matches", "full", metric), Series("filtered", "full", f"filter: {metric}")
    return Chart(f"{metric}, %", series)


def _reconstruction(x_label: str, column: str) -> Chart:
    series = (
        Series("upright", "upright images", column, is_whole_title=True),
        Series("rotated", "rotated images", column, is_whole_title=True),
        Series("one half against the other", "upright images, two halves", column),
    )
    return Chart(x_label, series, is_best_low=True)


PARTS = (
    _homographies(
        *("rekd", "Matching under known homographies: REKD's protocol"),
        (*EXTRACTORS, *SAME_DESCRIPTOR),
        _filtered("MMA@3"),
    ),
    _homographies(
        "homography-auc", "Homographies from matches", AUC_EXTRACTORS, _filtered("AUC@3")
    ),
    _homographies(
        *("keynet", "Repeatability by Key.Net's protocol", EXTRACTORS),
        Chart(
            "repeatability, %",
            (
                Series("one radius for all", "full", "rep, single scale"),
                Series("each method's scales", "full", "rep, multi scale"),
            ),
        ),
    ),
    _homographies(
        *("superpoint", "Repeatability by SuperPoint's protocol", EXTRACTORS),
        Chart("repeatability, %", (Series("rep", "full", "rep"),)),
    ),
    _robustness("rotation", "Rotation"),
    _robustness("gaussian", "Gaussian blur"),
    _robustness("motion", "Motion blur"),
    _robustness("scale", "Change of size"),
    Part(
        name="speed",
        title="Speed",
        protocols=("speed",),
        program="evaluation.speed",
        arguments=(),
        methods=SPEED_EXTRACTORS,
        is_one_run=True,
        chart=Chart("seconds for one image", (Series("median", "", "median, s"),), True),
    ),
    Part(
        name="sfm",
        title="Reconstruction against true poses",
        protocols=("SfM",),
        program="evaluation.sfm",
        arguments=(*_SCENE, "--rotated"),
        methods=SFM_EXTRACTORS,
        chart=_reconstruction("median rotation error, degrees", "rotation median °"),
    ),
    Part(
        name="hloc",
        title="Reconstruction with hloc",
        protocols=("hloc",),
        program="evaluation.hloc_report",
        arguments=(*_SCENE, "--conf", "rekd-fast"),
        chart=_reconstruction("median rotation error, degrees", "rotation deg"),
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
