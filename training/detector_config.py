"""Options of the detector's training; the defaults are the paper's recipe."""

from dataclasses import dataclass, field
from typing import Literal

from rekd_hloc.config import NetworkConfig
from training.losses import Importance
from training.pair_config import PairConfig

Device = Literal["auto", "cpu", "cuda"]

NO_INFLUENCE = (
    "output",
    "init",
    "images",
    "scene_models",
    "scene_images",
    "pair_cache",
    "device",
    "compile",
    "tensorboard",
    "checkpoint_every",
    "load_threads",
)
"""Options that a resumed run may change, because they do not change what is computed."""


@dataclass(frozen=True)
class TrainDetectorConfig:
    """A training run."""

    images: tuple[str, ...] = ()
    """Folders with natural images; one image in ten is held out for validation."""
    pair_cache: str = ""
    """Folder made by training.pair_cache (the paper's way); empty draws new pairs at every step."""
    scene_models: tuple[str, ...] = ()
    """COLMAP models of real scenes, of any features, that give pairs of two photos."""
    scene_images: tuple[str, ...] = ()
    """The folder of photos of each model."""
    scene_share: float = 0.0
    """Share of the pairs that come from the models, where they show planes."""
    output: str = "runs/detector"
    """Folder for checkpoints, log, curves and resolved configuration."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    steps: int = 11240
    """Optimiser steps (paper: 20 epochs of 562)."""
    batch_size: int = 16
    """Pairs in a step, of all processes together (paper: 16)."""
    learning_rate: float = 1e-3
    """Adam's (paper: 1e-3)."""
    schedule: str = "halve"
    """``halve`` once after half of the steps (paper), or ``cosine`` to zero."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly (paper: 0)."""
    weight_decay: float = 0.1
    """L2 penalty inside Adam (paper: 0.1)."""
    decay_orientation: bool = True
    """Penalise the orientation head as well (paper); it keeps the histogram flat."""
    orientation_weight: float = 100.0
    """Factor on the orientation loss (paper: 100)."""
    orientation_focus: float = 0.0
    """Share of the orientation loss that is weighted by the score, 0..1 (paper: 0, all pixels)."""
    whole_bins: bool = False
    """Cut the true rotation to whole bins, towards zero, as the paper's code does; avoid it."""
    window_importance: Importance = "score"
    """Weight of index-proposal windows by ``score`` (paper) or by its ``rank`` in the image."""
    similarity_weight: float = 0.0
    """Factor on the cosine loss between the two score maps (paper: none)."""
    peakiness_weight: float = 0.0
    """Factor on the share of the scores that lies where the image is flat (paper: none)."""
    shift_grid: bool = False
    """Move the grid of index-proposal windows at random (paper: fixed)."""
    seed: int = 0
    validate_every: int = 500
    """Steps between two validations, each also a checkpoint."""
    checkpoint_every: int = 0
    """Steps between two checkpoints without validation; 0 leaves them to the validations."""
    num_validation_pairs: int = 100
    validation_crop_px: int = 192
    """Side of the validation crops."""
    init: str = ""
    """Checkpoint, or weights as they ship (``rekd-fast`` or a file), to start from; empty starts
    anew."""
    device: Device = "auto"
    """``cuda`` or ``cpu``; ``auto`` takes a GPU where there is one."""
    autocast: bool = False
    """Convolutions in bfloat16; losses and weights stay in float32."""
    compile: bool = False
    """Compile the orientation loss with torch.compile; the first step takes a minute longer."""
    load_threads: int = 1
    """Threads that draw the next pairs while a step runs; 0 draws them in between."""
    tensorboard: bool = True
    """Write curves and pictures to ``output/tensorboard``, if tensorboard is installed."""

    def __post_init__(self) -> None:
        if self.schedule not in ("halve", "cosine"):
            raise ValueError(f"schedule must be halve or cosine, got {self.schedule!r}")
        if self.window_importance not in ("score", "rank"):
            raise ValueError(
                f"window_importance must be score or rank, got {self.window_importance!r}"
            )
        if len(self.scene_models) != len(self.scene_images):
            raise ValueError(
                f"scene_models and scene_images must be as many, got {len(self.scene_models)} and "
                f"{len(self.scene_images)}; give the folder of photos of each model"
            )
        if not 0 <= self.scene_share <= 1 or (self.scene_share > 0 and not self.scene_models):
            raise ValueError(
                f"scene_share must be in [0, 1], and above 0 only with scene_models, got "
                f"{self.scene_share}"
            )
        for name in ("steps", "batch_size", "validate_every", "num_validation_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("checkpoint_every", "warmup_steps", "peakiness_weight", "load_threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
