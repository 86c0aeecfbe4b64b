"""One training run of the ranking: options, optimiser steps, checkpoints, export."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rekd_hloc.features.ranking import LooksAt, Ranking, RankingNetwork, save_ranking
from training.common.checkpoint import make_identity
from training.common.network_run import NetworkRun
from training.scenes.scene_folders import SceneFolders
from training.selection.candidates import CandidateConfig
from training.selection.ranking_samples import RankedImage

NO_INFLUENCE = (
    *("output", "cache", "scenes", "validation", "teacher"),
    *("tensorboard", "checkpoint_every"),
)
"""Options that a resumed run may change; scenes and teacher are compared by their hashes."""
MIN_DIFFERENCE = 0.5
"""Of the shares of two keypoints of a photo that the network is to put in order."""


@dataclass(frozen=True)
class TrainRankingConfig:
    """A training run."""

    scenes: SceneFolders = field(default_factory=SceneFolders)
    """Reconstructions to learn from."""
    validation: SceneFolders = field(default_factory=SceneFolders)
    """Reconstructions that choose the checkpoint; none of them is learned from."""
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    """Candidates of a photo, extracted once."""
    pool: int = 4096
    """Strongest candidates of a photo among which the ranking learns; twice a usual budget."""
    looks_at: LooksAt = "detection"
    """What the ranking looks at: ``detection`` needs no description of the candidates;
    ``likeness`` and ``descriptor`` do, and belong to one descriptor."""
    teacher: str = ""
    """A ranking that looks at more, whose judgement of each candidate is learned too."""
    teacher_weight: float = 0.5
    """Share of the target that the teacher's judgement is."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers."""
    output: str = "runs/ranking"
    """Folder for checkpoints, log, and weights."""
    cache: str = "runs/candidates"
    """Folder of the candidates."""
    steps: int = 3000
    images_per_step: int = 4
    keypoints_per_image: int = 512
    learning_rate: float = 2e-3
    """Highest learning rate; it falls linearly to zero."""
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    pairwise_weight: float = 0.5
    """Of the loss that puts pairs of one photo in order, beside the cross entropy."""
    noise: float = 0.1
    """Standard deviation of what is added to the signs, in theirs."""
    budget_share: float = 0.5
    """Share of the candidates that validation keeps."""
    seed: int = 0
    validate_every: int = 250
    checkpoint_every: int = 0
    tensorboard: bool = False
    """Write curves for TensorBoard, if it is installed."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.validate_every < 1:
            raise ValueError(
                f"steps and validate_every must be positive, got {self.steps}, "
                f"{self.validate_every}"
            )
        if self.pool < 1:
            raise ValueError(f"pool must be positive, got {self.pool}")
        if self.looks_at not in get_args(LooksAt):
            raise ValueError(
                f"looks_at must be one of {', '.join(get_args(LooksAt))}, got {self.looks_at!r}"
            )
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be in [0, 1], got {self.teacher_weight}")
        if not self.scenes.models or not self.validation.models:
            return  # the program refuses it; defaults must be valid
        if set(self.scenes.images) & set(self.validation.images):
            raise ValueError("scenes and validation share a scene; name it in one of them only")


@dataclass(frozen=True)
class RankingBatch:
    """Candidates of several photos, as many of each."""

    signs: Float[Tensor, "image keypoint sign"]
    num_seen: Float[Tensor, "image keypoint"]
    target: Float[Tensor, "image keypoint"]


class RankingRun(NetworkRun[TrainRankingConfig, RankingNetwork]):
    """The run of a ranking.

    Args:
        config: the run's options.
        images: to learn from; their signs set the network's mean and deviation.
        hashes: of the data that it is trained on.
        descriptor_weights: hash of the descriptor's file.
    """

    def __init__(
        self,
        config: TrainRankingConfig,
        images: list[RankedImage],
        hashes: dict[str, Any],
        descriptor_weights: str,
    ) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(config.seed)
            network = RankingNetwork(num_signs=images[0].signs.shape[1], hidden=config.hidden)
        every = torch.cat([image.signs for image in images])
        network.mean.copy_(every.mean(dim=0))
        network.deviation.copy_(every.std(dim=0).clamp(min=1e-4))
        self.descriptor_weights = "" if config.looks_at == "detection" else descriptor_weights
        super().__init__(
            config,
            network,
            optimiser="adam",
            schedule="linear",
            score="kept",
            identity=make_identity(asdict(config), NO_INFLUENCE, **hashes),
            no_influence=NO_INFLUENCE,
        )

    def advance(self, batch: RankingBatch) -> dict[str, float]:
        """Take one optimiser step and return the losses by name.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step.
        """
        self.begin_step()
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        noise = torch.randn(batch.signs.shape, generator=generator) * self.config.noise
        signs = batch.signs + noise * self.network.deviation
        logit = self.network(signs.flatten(0, 1)).view(batch.target.shape)
        entropy = F.binary_cross_entropy_with_logits(logit, batch.target, batch.num_seen.sqrt())
        order = pairwise_loss(logit, batch.target)
        loss = entropy + self.config.pairwise_weight * order
        return self.end_step(loss, {"entropy": entropy.item(), "order": order.item()})

    def export(self) -> Path:
        """Write the best checkpoint as it ships."""
        provenance = self.load_best()
        ranking = Ranking(self.network, self.config.looks_at, self.descriptor_weights)
        out = self.folder.path / "ranking.safetensors"
        save_ranking(out, ranking, provenance)
        return out


def draw_batch(
    images: list[RankedImage], config: TrainRankingConfig, rng: np.random.Generator
) -> RankingBatch:
    """Draw photos, and of each candidates that another photo shows."""
    columns = []
    for number in rng.integers(0, len(images), config.images_per_step):
        image = images[int(number)]
        shown = torch.nonzero(image.num_seen > 0)[:, 0]
        rows = shown[torch.from_numpy(rng.integers(0, len(shown), config.keypoints_per_image))]
        seen = image.num_seen[rows]
        target = (image.num_right[rows] / seen).clamp(max=1)
        if image.taught is not None:
            target = torch.lerp(target, image.taught[rows], config.teacher_weight)
        columns.append((image.signs[rows], seen, target))
    return RankingBatch(*(torch.stack(parts) for parts in zip(*columns, strict=True)))


def pairwise_loss(
    logit: Float[Tensor, "image keypoint"], target: Float[Tensor, "image keypoint"]
) -> Tensor:
    """Mean logistic loss over pairs of candidates of one photo whose shares differ enough.

    Neighbours in the batch make the pairs, each with the one half a row further.
    """
    half = logit.shape[1] // 2
    difference = logit - logit.roll(half, 1)
    wanted = target - target.roll(half, 1)
    counts = wanted.abs() >= MIN_DIFFERENCE
    losses = F.softplus(-difference * wanted.sign()) * counts
    return losses.sum() / counts.sum().clamp(min=1)


@torch.inference_mode()
def validate(network: RankingNetwork, images: list[RankedImage], share: float) -> dict[str, float]:
    """Return the share of right matches that the ranking keeps, and that the score keeps."""
    kept = [image.kept_share(network(image.signs), share) for image in images]
    by_score = [image.kept_share(image.score, share) for image in images]
    best = [image.kept_share(image.num_right, share) for image in images]
    return {
        "kept": float(np.mean(kept)),
        "kept_by_score": float(np.mean(by_score)),
        "kept_at_best": float(np.mean(best)),
    }
