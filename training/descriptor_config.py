"""Options of the descriptor's training."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rekd_hloc.features.descriptor.hardnet import MAX_WIDTH
from rekd_hloc.features.descriptor.support_hardnet import FULL_WIDTH
from training.common.checkpoint import make_identity
from training.scenes.matched_tracks import SceneConfig
from training.scenes.scene_folders import SceneFolders
from training.track_batches import BatchPlan
from training.tracks import TrackConfig

NO_INFLUENCE = (
    "output",
    "cache",
    "images",
    "detector",
    "peers",
    "teacher",
    "init",
    "device",
    "tensorboard",
    "checkpoint_every",
)
"""Options that a resumed run may change; images and detector are compared by their hashes."""


@dataclass(frozen=True)
class TrainDescriptorConfig:
    """A training run."""

    images: tuple[str, ...] = ()
    """Folders with natural images; one image in ten is held out for validation."""
    detector: str = "rekd-fast"
    """Name of shipped detector weights, or a file."""
    output: str = "runs/descriptor"
    """Folder for checkpoints, log, and weights."""
    cache: str = ""
    """Folder of the tracks; empty means ``output``/tracks."""
    tracks: TrackConfig = field(default_factory=TrackConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    """Reconstructions that give further tracks."""
    batch: BatchPlan = field(default_factory=BatchPlan)
    steps: int = 1000
    optimiser: str = "adam"
    """``adam``, or ``sgd`` with momentum 0.9 (the paper's)."""
    learning_rate: float = 3e-3
    """Highest learning rate; it falls linearly to zero."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly."""
    weight_decay: float = 1e-4
    margin: float = 1.0
    """Of the triplet loss (paper: 1)."""
    memory_size: int = 0
    """Past descriptors that serve as further negatives once the warm-up is over; 0 for none."""
    second_order_weight: float = 0.0
    """Weight of the second-order similarity term (SOSNet's paper: 1)."""
    average_decay: float = 0.0
    """Share of the average of the weights that a step keeps, e.g. 0.998, the mean of about 500
    steps; the average is validated and exported. 0 takes the weights of the last step."""
    width: int = FULL_WIDTH
    """Channels of the first layer (paper: 32); 16 is a quarter of the work."""
    teacher: str = ""
    """Descriptor weights, by name or file, that the network is to repeat; empty for none. It sees
    the same patches, so it needs as many supports."""
    teacher_weight: float = 1.0
    """Weight of the mean squared distance to the teacher's descriptors, where there is one."""
    dropout: float = 0.3
    """Before the last layer (paper's code: 0.3)."""
    seed: int = 0
    validate_every: int = 200
    """Steps between two validations, each also a checkpoint."""
    checkpoint_every: int = 0
    """Steps between two checkpoints without validation; 0 leaves them to the validations."""
    max_images: int = 0
    """Number of training images that give tracks, spread over all of them; 0 takes every one."""
    validation_images: int = 20
    """Number of held-out images, two pairs of each."""
    validation_keypoints: int = 300
    """Number of the strongest keypoints described in each validation image."""
    validation_scenes: SceneFolders = field(default_factory=SceneFolders)
    """Reconstructions whose pairs of photos are a further kind of validation; learn from none."""
    validation_scene_keypoints: int = 1000
    """Number of the strongest keypoints described in each of their photos."""
    peers: tuple[str, ...] = ()
    """Other descriptor weights, measured once on the same validation keypoints."""
    init: str = ""
    """Weights to start from: a checkpoint of this program (``.pt``), or HardNet weights by name or
    file (``default`` are those that ship); empty starts anew."""
    autocast: bool = False
    """Convolutions in bfloat16; losses and weights stay in float32. It pays on a CPU with
    bfloat16 units (Intel AMX)."""
    device: str = "auto"
    """``cuda``, ``cpu``, or ``auto`` for a GPU where there is one."""
    tensorboard: bool = True
    """Write curves for TensorBoard, if it is installed."""

    def __post_init__(self) -> None:
        if self.optimiser not in ("adam", "sgd"):
            raise ValueError(f"optimiser must be adam or sgd, got {self.optimiser!r}")
        if self.steps < 1 or self.validate_every < 1:
            raise ValueError(
                f"steps and validate_every must be positive, got {self.steps}, "
                f"{self.validate_every}"
            )
        if self.checkpoint_every < 0:
            raise ValueError(f"checkpoint_every must not be negative, got {self.checkpoint_every}")
        if not 1 <= self.width <= MAX_WIDTH:
            raise ValueError(f"width must be in 1..{MAX_WIDTH}, got {self.width}")
        for name in ("memory_size", "second_order_weight", "teacher_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("dropout", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def make_descriptor_identity(
    config: TrainDescriptorConfig, hashes: dict[str, Any]
) -> dict[str, Any]:
    """Return what must be the same for a run to go on: options, and hashes of what it learns from.

    See :func:`training.common.checkpoint.make_identity`.
    """
    options = {**asdict(config), "scenes": config.scenes.limits}
    return make_identity(options, NO_INFLUENCE, **hashes)
