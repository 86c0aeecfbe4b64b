"""Every option with its default, as frozen dataclasses, and the presets made of them.

``load_config`` merges a dataclass with a YAML file and ``key=value`` overrides.
"""

import difflib
from dataclasses import dataclass, field, replace
from typing import Literal

from rekd_hloc.config_checks import above, at_least, between, check_values, odd, require
from rekd_hloc.config_file import LATER, UNRECORDED
from rekd_hloc.config_file import config_hash as config_hash  # part of this module's interface
from rekd_hloc.config_file import config_json as config_json
from rekd_hloc.config_file import config_tree as config_tree
from rekd_hloc.config_file import load_config as load_config


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the equivariant network; stored inside every weights file."""

    group_order: int = 36
    """Rotations in the cyclic group, a multiple of 4; the histogram's bins too (paper: 36)."""
    fields: tuple[int, int, int] = (2, 2, 2)
    """Regular fields after each of the three blocks (paper: 2, 2, 2)."""
    inner_levels: int = 3
    """Sizes of the image that one forward pass sees (paper: 3)."""
    inner_factor: float = 1.2
    """Size ratio between two inner levels (paper: 1.2)."""
    pixel_range: float = 255.0
    """White, as the network sees it; the paper trains on 0..255 and tests on 0..1."""
    norm_window_px: int = 65
    """Side of the box of the local contrast normalisation, odd (paper: 65)."""
    blur_gain: float = 1.0
    """Sum of the 7x7 Gaussian before inner levels 1 and up (paper's code: sqrt(2 pi) 1.5 = 3.76
    for an unbounded kernel, 3.63 on 7x7; use 0 for exactly the paper's kernel)."""
    orientation_blur_px: float = 0.0
    """Sigma of a Gaussian that pools the histogram's logits over a neighbourhood, in pixels of the
    level; 0 as in the paper reads one pixel."""
    shared_pyramid: bool = field(default=False, metadata=LATER)
    """Take inner levels from one pyramid of the whole image, so that each size is computed once
    where it is an inner level of several outer ones; with an ``inner_factor`` of 2^(1/4) every
    second is. Nothing is smoothed before inner levels 1 and up (paper: each is made of its outer
    level, by a Gaussian)."""

    def __post_init__(self) -> None:
        check_values(self)
        order = self.group_order
        require(order > 0 and order % 4 == 0, "group_order", "a positive multiple of 4", order)
        require(
            len(self.fields) == 3 and min(self.fields) > 0,
            "fields",
            "three positive counts",
            self.fields,
        )
        between(self, 1, 10, "inner_levels")
        above(self, 1, "inner_factor")
        above(self, 0, "pixel_range")
        odd(self, "norm_window_px")
        between(self, 1, 1001, "norm_window_px")
        at_least(self, 0, "blur_gain", "orientation_blur_px")


@dataclass(frozen=True)
class DetectorConfig:
    """How keypoints are taken from the score maps of the outer pyramid."""

    max_keypoints: int = 2048
    """Largest number of keypoints of an image (paper: 1,500)."""
    levels_up: int = 2
    """Outer levels above the image's size (paper: 2)."""
    levels_down: int = 5
    """Outer levels below the image's size (paper: 5)."""
    factor: float = 2.0**0.5
    """Size ratio between two outer levels (paper: sqrt 2)."""
    border_px: int = 15
    """Margin of each level without keypoints, in its pixels (paper: 15)."""
    nms_window_px: int = 9
    """Side of the non-maximum suppression window at each level, odd (paper: 15)."""
    score_threshold: float = 0.0
    """Responses at or below it are no keypoints."""
    min_prominence: float = 1e-3
    """Least height of a keypoint above the lowest response of its window, as a share of its own; a
    flat response has no keypoint (paper: 0, every pixel of it is one)."""
    fill_budget: bool = True
    """Fill what the coarser levels leave of the budget with the strongest keypoints of any level
    (paper: it stays unused)."""
    subpixel: bool = True
    """Quadratic fit of the position (paper: whole pixels)."""
    duplicate_radius_px: float = 0.8
    """Of two detections on neighbouring levels that are closer than this, in pixels of the coarser
    level, the weaker is dropped; 0 keeps both (paper)."""
    protocol: Literal["default", "paper"] = "default"
    """This package's pyramid and reading of angles, or those of the paper's published code; see
    :mod:`rekd_hloc.features.detector.paper`."""
    tile_rows: int = -1
    """Height of the strips that a level is run in, 0 for one piece, -1 for strips of 128 rows on a
    CPU and one piece on a GPU; strips save memory and time there, and change nothing."""
    autocast: bool = False
    """Run the backbone in what the device does fast: TF32 on a GPU (error of the features 2e-4, of
    the logits 5e-4), bfloat16 on a CPU that has instructions for it (3e-3 and 7e-3); any other CPU
    stays exact. Without it a GPU gives a CPU's features."""

    def __post_init__(self) -> None:
        check_values(self)
        at_least(self, 1, "max_keypoints")
        at_least(self, 0, "border_px", "min_prominence")
        between(self, 0, 4, "levels_up")
        between(self, 0, 20, "levels_down")
        at_least(self, -1, "tile_rows")
        at_least(self, 0, "duplicate_radius_px")
        above(self, 1, "factor")
        odd(self, "nms_window_px")
        between(self, 1, 501, "nms_window_px")


@dataclass(frozen=True)
class DescriptorConfig:
    """How patches are cut and described."""

    oriented: bool = True
    """Rotate each patch by its keypoint's angle (paper: upright)."""
    patch_size_px: float = 64.0
    """Side of the square that becomes a 32x32 patch, for a keypoint of scale 1 (paper: 64)."""
    weights: str = "default"
    """``default`` (this project's), ``official`` (kornia's HardNet++, downloads), or a file."""
    batch_size: int = 0
    """Patches described at once; 0 for 64 on a CPU, whose caches hold no more, and 2,048 on
    a GPU."""
    autocast: bool = field(default=False, metadata=LATER)
    """Run the network in bfloat16 on a CPU that has instructions for it (half the time; cosines
    with the exact descriptors above 0.9999), in float16 on a CUDA GPU (closer yet); any other CPU
    stays exact."""
    antialias: bool = True
    """Cut from an image pyramid (the paper's code samples the full image bilinearly)."""

    def __post_init__(self) -> None:
        check_values(self)
        above(self, 0, "patch_size_px")
        at_least(self, 0, "batch_size")


@dataclass(frozen=True)
class ExtractConfig:
    """Hold one preset: which weights, and how they are used."""

    weights: str = "rekd"
    """Name of shipped detector weights, or a safetensors file."""
    max_side_px: int = 1600
    """Larger images are made smaller before extraction; 0 keeps every size."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    descriptor: DescriptorConfig = field(default_factory=DescriptorConfig)
    runtime: Literal["torch", "onnx", "openvino"] = field(default="torch", metadata=UNRECORDED)
    """What computes the convolutions: torch, or on a CPU ONNX Runtime or OpenVINO (extras). They
    differ by rounding, so files do not record it, and each goes on with files of the others."""
    ranking: str = field(default="none", metadata=LATER)
    """What chooses the keypoints of the budget: ``none`` (the detector's scores),
    ``ranking-linear`` (contrast too), or a file of ``training.train_ranking``."""
    ranking_pool: float = field(default=2.0, metadata=LATER)
    """Candidates that a ranking chooses from, times ``detector.max_keypoints``; all are
    described first, unless the ranking looks at the detection alone."""

    def __post_init__(self) -> None:
        check_values(self)
        at_least(self, 0, "max_side_px")
        between(self, 1, 16, "ranking_pool")
        if self.runtime != "torch":
            exact = not (self.detector.autocast or self.descriptor.autocast)
            require(exact, "runtime", "torch with autocast", self.runtime)
        if self.ranking != "none":
            protocol = self.detector.protocol
            require(protocol == "default", "protocol", "default with a ranking", protocol)


@dataclass(frozen=True)
class MatchConfig:
    """Nearest neighbours and the orientation-consistency filter after them."""

    ratio: float = 1.0
    """Largest allowed distance ratio best/second; 1 switches the test off."""
    filter: Literal["none", "paper", "density", "consensus", "adalam", "network"] = "density"
    """Orientation filter: none, the paper's mode of whole degrees, circular density, consensus of
    neighbours, or a network that learned to judge matches by their frames; adalam is another
    matcher, with a ratio test and a filter of its own."""
    tolerance_deg: float = 30.0
    """Half width of the band of accepted rotations about a mode (paper: 30)."""
    max_modes: int = 1
    """Rotations accepted at once in an image pair (density filter)."""
    scale_tolerance: float = 0.0
    """Largest accepted factor from a mode's scale ratio, 0 for any (density filter)."""
    guided: bool = field(default=False, metadata=LATER)
    """Add matches that lie where those that passed the filter lead: guided matching."""
    network: str = field(default="match-network", metadata=LATER)
    """Name of shipped weights of the network, or a file of ``training.train_match_network``."""

    def __post_init__(self) -> None:
        check_values(self)
        require(0 < self.ratio <= 1, "ratio", "in (0, 1]", self.ratio)
        if self.filter == "adalam":
            require(self.ratio == 1, "ratio", "1 with adalam, which has its own", self.ratio)
        require(0 < self.tolerance_deg <= 180, "tolerance_deg", "in (0, 180]", self.tolerance_deg)
        at_least(self, 1, "max_modes")
        factor = self.scale_tolerance
        require(factor == 0 or factor > 1, "scale_tolerance", "0 or above 1", factor)


RECONSTRUCTION_MATCHING = MatchConfig(ratio=0.95)
"""Matching by ``reconstruct`` and its steps ``extract`` and ``match``: a mild ratio test takes two
thirds of the wrong matches that the filter leaves, and camera centres come out a third nearer to
the truth (docs/training.md)."""

RECONSTRUCTION_KEYPOINTS = 4096
"""Budget of an image in the same, whatever the preset's own: twice the points, and poses nearer to
the truth, than with 2,048 (docs/training.md)."""

PAIRS, OVERLAP = "auto", 10
"""Which images the same match, and neighbours of each in a sequence."""

MAX_ERROR_PX = 3.0
"""Largest epipolar error of a verified match (COLMAP's: 4), see docs/training.md."""
REFINED_MAX_ERROR_PX = 2.0
"""The same where keypoints were refined."""

PAPER_DETECTOR = DetectorConfig(
    max_keypoints=1500,
    nms_window_px=15,
    min_prominence=0.0,
    fill_budget=False,
    subpixel=False,
    duplicate_radius_px=0.0,
    protocol="paper",
)

RANKED = ExtractConfig(ranking="ranking-linear")
"""All but the paper's; an ``ExtractConfig`` has none by itself, so that earlier files are known."""

PRESETS: dict[str, ExtractConfig] = {
    "rekd": RANKED,
    "rekd-upright": replace(RANKED, descriptor=DescriptorConfig(oriented=False)),
    "rekd-c36": replace(RANKED, weights="rekd-c36"),
    "rekd-paper": ExtractConfig(
        weights="rekd-c36",
        max_side_px=0,
        detector=PAPER_DETECTOR,
        descriptor=DescriptorConfig(oriented=False, antialias=False),
    ),
    "rekd-fast": replace(
        RANKED, weights="rekd-fast", detector=DetectorConfig(levels_up=1, levels_down=4)
    ),
    "rekd-lite": replace(
        RANKED,
        weights="rekd-fast",
        detector=DetectorConfig(levels_up=0, levels_down=4, nms_window_px=5, autocast=True),
        descriptor=DescriptorConfig(weights="hardnet-half", autocast=True),
    ),
}


def get_preset(name: str) -> ExtractConfig:
    """Return the preset of that name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no preset {name!r}; {hint}presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def reconstruction_preset(name: str) -> ExtractConfig:
    """Return the preset of that name with the budget of a reconstruction.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    return with_max_keypoints(get_preset(name), RECONSTRUCTION_KEYPOINTS)


def with_max_keypoints(config: ExtractConfig, count: int) -> ExtractConfig:
    """Return the same preset with another keypoint budget."""
    return replace(config, detector=replace(config.detector, max_keypoints=count))
