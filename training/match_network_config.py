"""Options of the training of the match network."""

from dataclasses import dataclass, field

from training.match_composites import CompositeConfig
from training.match_rendered import RenderedConfig
from training.match_scenes import MatchScenes


@dataclass(frozen=True)
class MatchDataConfig:
    """Pairs to learn from; each kind may be left out."""

    scenes: MatchScenes = field(default_factory=MatchScenes)
    """Photos of reconstructions."""
    images: tuple[str, ...] = ()
    """Folders of photos that composites are made of."""
    max_images: int = 150
    """Photos that are used, evenly spread; 0 takes all."""
    composites: CompositeConfig = field(default_factory=CompositeConfig)
    """How the views of a photo are drawn."""
    rendered: RenderedConfig = field(default_factory=RenderedConfig)
    """Scenes that are rendered."""
    preset: str = "rekd-fast"
    """Extractor of the views."""
    correlation: bool = False
    """Also tell the network how well the images correlate about each match after alignment. Such
    weights need images, so they are for experiments: matching by features has none."""
    max_keypoints: int = 2048
    """Keypoints of a view."""
    num_unrelated: int = 150
    """Pairs of images that have nothing in common: of different scenes, and different photos."""


@dataclass(frozen=True)
class TrainMatchNetworkConfig:
    """A training run."""

    data: MatchDataConfig = field(default_factory=MatchDataConfig)
    """Pairs to learn from."""
    validation: MatchScenes = field(default_factory=MatchScenes)
    """Reconstructions that choose the checkpoint; none of them is learned from."""
    validation_images: int = 12
    """Photos of the validation tenth whose views are judged too."""
    validation_unrelated: int = 40
    """Pairs of different validation scenes."""
    width: int = 64
    """Numbers that the network keeps of a match."""
    edge_width: int = 32
    """Numbers that it keeps of a neighbour."""
    num_heads: int = 4
    num_layers: int = 6
    output: str = "runs/match-network"
    """Folder for checkpoints, log, and weights."""
    cache: str = "runs/match-pairs"
    """Folder of the pairs."""
    steps: int = 3000
    pairs_per_step: int = 6
    max_matches: int = 700
    """Matches of a pair in a step, about a random one."""
    learning_rate: float = 1.5e-3
    """Highest learning rate; it falls to zero as a cosine does."""
    warmup_steps: int = 50
    weight_decay: float = 1e-3
    stage_weights: tuple[float, float, float] = (0.3, 0.5, 1.0)
    """Of the judgement after each stage."""
    geometry_weight: float = 0.05
    """Of the weighted eight-point term."""
    geometry_from: float = 0.7
    """Share of the steps after which it counts."""
    seed: int = 0
    validate_every: int = 250
    checkpoint_every: int = 50
    tensorboard: bool = False
    """Write curves for TensorBoard, if it is installed."""

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "pairs_per_step", "max_matches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        learned = set(self.data.scenes.folders.images)
        if learned & set(self.validation.folders.images):
            raise ValueError("data and validation share a scene; name it in one of them only")
