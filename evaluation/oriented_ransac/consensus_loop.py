"""RANSAC's loop, the same for every sampling: draw, solve, score, optimise, stop.

A batch of samples is solved at once, scored by MSAC (Torr and Zisserman, 2000) on some of the
matches, and its best models on all. The best of every batch is optimised as in LO-RANSAC (Chum,
Matas, Kittler, 2003): minimal point samples among its supporters, then least squares on the
inliers. Sampling ends by the share of inliers.
"""

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from evaluation.oriented_ransac.samplers import Models, Sampler, draw_samples
from evaluation.oriented_ransac.two_view_models import TwoViewModel, refine
from evaluation.relative_pose.correspondences import Correspondences, Matrix

FIRST_BATCH = 16
LARGEST_BATCH = 512
NUM_PRELIMINARY = 128
"""Matches on which all models of a batch are scored."""
NUM_FINALISTS = 8
"""Models of a batch that are scored on all matches."""
NUM_INNER = 32
"""Point samples among the supporters of a model."""
INNER_WIDTH = 2.0
"""Models of inner samples are scored at so many thresholds."""
CHUNK = 1 << 15
"""Errors computed at once: their arrays stay in the CPU's cache."""


@dataclass(frozen=True)
class ConsensusOptions:
    """When a match is an inlier, and when sampling ends."""

    threshold_px: float = 1.0
    """Largest error of an inlier: Sampson's for F and E, the transfer error in image b for H."""
    confidence: float = 0.9999
    """Of having drawn one sample that leads to the model."""
    max_samples: int = 100_000
    """Most samples."""
    max_seconds: float | None = None
    """CPU time of this thread after which no new batch begins; results then depend on it."""
    is_adaptive: bool = True
    """Whether the share of inliers ends the sampling; without, one of the limits does."""

    def __post_init__(self) -> None:
        if not self.threshold_px > 0:
            raise ValueError(f"threshold_px must be above 0, got {self.threshold_px}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, got {self.max_samples}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, got {self.max_seconds}")


@dataclass(frozen=True, eq=False)
class Improvement:
    """A model better than all before it, in the frame of the problem, and when it came.

    Attributes:
        model: 3x3.
        seconds: CPU time since the start.
        num_samples: drawn until then.
    """

    model: Matrix
    seconds: float
    num_samples: int


@dataclass(frozen=True, eq=False)
class Estimate:
    """The result of a robust estimation.

    Attributes:
        history: ever better models with their times; the last is the result, if there is one.
        inliers: matches within the threshold of the result.
        num_samples: drawn in all.
        seconds: CPU time of this thread in all.
        cost: MSAC's: the sum over matches of min(error / threshold, 1) squared.
    """

    history: tuple[Improvement, ...]
    inliers: Bool[np.ndarray, " match"]
    num_samples: int
    seconds: float
    cost: float

    @property
    def model(self) -> Matrix | None:
        """Return the result, 3x3; None where there is none."""
        return self.history[-1].model if self.history else None


@dataclass(frozen=True, eq=False)
class Problem:
    """A model to estimate.

    Attributes:
        kind: errors of all matches.
        sampled: the matches in the frame of the solvers.
        sampler: of minimal samples.
        points: the sampler of points for local optimisation.
        squared: threshold on squared errors.
    """

    kind: TwoViewModel
    sampled: Correspondences
    sampler: Sampler
    points: Sampler
    squared: float

    def cost(self, model: Matrix) -> tuple[float, Bool[np.ndarray, " match"]]:
        """MSAC's cost, and the inliers."""
        errors = self.kind.squared_errors(model[None])[0] / self.squared
        return float(np.minimum(errors, 1).sum()), errors < 1


def run(problem: Problem, rng: np.random.Generator, options: ConsensusOptions) -> Estimate:
    """Estimate a model; equal states of ``rng`` give equal results unless time is limited."""
    begin, count = time.thread_time(), len(problem.sampled)
    size, history = problem.sampler.size, list[Improvement]()
    inliers, cost = np.zeros(count, bool), float(count)
    if count < max(size, problem.points.size):
        return Estimate((), inliers, 0, 0.0, cost)
    preliminary = problem.kind
    if count > 2 * NUM_PRELIMINARY:
        preliminary = problem.kind.chosen(rng.permutation(count)[:NUM_PRELIMINARY])
    drawn, needed, batch = 0, options.max_samples, FIRST_BATCH
    while drawn < needed:
        if options.max_seconds is not None and time.thread_time() - begin > options.max_seconds:
            break
        samples = draw_samples(rng, count, size, min(batch, needed - drawn))
        drawn, batch = drawn + len(samples), min(2 * batch, LARGEST_BATCH)
        models = problem.sampler.models(problem.sampled[samples])
        width = problem.squared * problem.sampler.width**2
        raw = best_model(models, problem.kind, preliminary, width)
        for model in [] if raw is None else optimise(raw, problem, rng):
            new_cost, new_inliers = problem.cost(model)
            if new_cost < cost:
                cost, inliers = new_cost, new_inliers
                history.append(Improvement(model, time.thread_time() - begin, drawn))
        if options.is_adaptive:
            needed = min(needed, max(drawn, samples_needed(inliers, problem.sampler, options)))
    return Estimate(tuple(history), inliers, drawn, time.thread_time() - begin, cost)


def optimise(model: Matrix, problem: Problem, rng: np.random.Generator) -> list[Matrix]:
    """Return a model, and what local optimisation makes of it."""
    kind, points = problem.kind, problem.points
    errors = kind.squared_errors(model[None])[0]
    support = np.nonzero(errors < problem.squared * problem.sampler.width**2)[0]
    start = model
    if len(support) > points.size:
        samples = support[draw_samples(rng, len(support), points.size, NUM_INNER)]
        candidates = np.concatenate([model[None], points.models(problem.sampled[samples])])
        costs = model_costs(kind, candidates, problem.squared * INNER_WIDTH**2)
        start = candidates[costs.argmin()]
    refined, _ = refine(kind, start, problem.squared)
    return [model, start, refined]


def best_model(
    models: Models, kind: TwoViewModel, preliminary: TwoViewModel, squared: float
) -> Matrix | None:
    """Return the model of least cost; None without models."""
    if len(models) == 0:
        return None
    if preliminary is not kind and len(models) > NUM_FINALISTS:
        costs = model_costs(preliminary, models, squared)
        models = models[np.argpartition(costs, NUM_FINALISTS - 1)[:NUM_FINALISTS]]
    best: Matrix = models[model_costs(kind, models, squared).argmin()]
    return best


def model_costs(
    kind: TwoViewModel, models: Models, squared: float
) -> Float64[np.ndarray, " model"]:
    """MSAC's cost of every model, a few models at a time."""
    step = max(1, CHUNK // max(kind.num_matches, 1))
    parts = [
        np.minimum(kind.squared_errors(models[i : i + step]) / squared, 1).sum(axis=1)
        for i in range(0, len(models), step)
    ]
    return np.concatenate(parts)


def samples_needed(
    inliers: Bool[np.ndarray, " match"], sampler: Sampler, options: ConsensusOptions
) -> int:
    """Samples after which a good one has been drawn with the wanted confidence."""
    chance = sampler.efficiency * float(inliers.mean()) ** sampler.size
    if chance >= 1:
        return 1
    if chance <= 0:
        return options.max_samples
    return int(min(np.ceil(np.log(1 - options.confidence) / np.log1p(-chance)), 2**62))
