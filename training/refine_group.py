"""Give a trained network a finer rotation group: train with C8, go on with C16 or C36.

A regular-to-regular filter of C_N is one function psi of the relative rotation, sampled N times:
k[o, i](x) = psi(R_o^-1 x, i - o). Reading psi between its samples (band-limited, periodic) and
scaling by N / M, because M terms are summed now, gives the filters of C_M that compute nearly the
same maps at finer angles. A step of the fine group costs (M / N)^2 times as much, so most steps are
better taken with the coarse one. Fine-tune afterwards: the group maximum runs over more samples.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector.steerable import SteerableBackbone, expand_filter
from rekd_hloc.weight_files import weights_hash
from training.common.checkpoint import load_start, save_checkpoint, start_path


def refine_group(coarse: SteerableBackbone, group_order: int) -> SteerableBackbone:
    """Build a backbone of a finer cyclic group that computes nearly the same function.

    Args:
        coarse: a trained backbone of order N.
        group_order: M, a multiple of 4, not smaller than N.

    Raises:
        ValueError: the new group is coarser.
    """
    if group_order < coarse.group_order:
        raise ValueError(
            f"group_order must be at least the trained {coarse.group_order}, got {group_order}"
        )
    fine = SteerableBackbone(group_order=group_order, fields=coarse.fields, initialise=False)
    state = coarse.learned_state()
    pairs = [*zip(coarse.convolutions, fine.convolutions, strict=True)]
    for index, (source, target) in enumerate(pairs):
        state[f"convolutions.{index}"] = _refit(source, target, coarse, fine)
    state["orientation"] = _refit(coarse.orientation, fine.orientation, coarse, fine)
    fine.load_learned_state(state)
    return fine


@torch.no_grad()
def _refit(
    source: Any,  # noqa: ANN401  (an e2cnn R2Conv)
    target: Any,  # noqa: ANN401
    coarse: SteerableBackbone,
    fine: SteerableBackbone,
) -> Tensor:
    """Solve for the weights that give the target convolution the source's filters, resampled."""
    filters = _first_rotation(expand_filter(source), coarse.group_order)
    if filters.shape[2] > 1:
        filters = _resample_periodic(filters, fine.group_order)
        filters = filters * (coarse.group_order / fine.group_order)
    columns = []
    weights = torch.zeros_like(target.weights)
    for index in range(len(weights)):
        weights.zero_()[index] = 1.0
        kernel = target.basisexpansion(weights).reshape(expand_filter(target).shape)
        columns.append(_first_rotation(kernel, fine.group_order).flatten())
    basis = torch.stack(columns, dim=1).double()
    solution = torch.linalg.lstsq(basis, filters.flatten().double()[:, None]).solution
    weights_of_target: Tensor = solution[:, 0].float()
    return weights_of_target


def _first_rotation(
    kernel: Float[Tensor, "out in side side"], order: int
) -> Float[Tensor, "field_out field_in rotation side side"]:
    """Filters of each output field's unrotated element; the others are rotated copies."""
    out, into, side, _ = kernel.shape
    rotations = order if into % order == 0 else 1
    return kernel.reshape(out // order, order, into // rotations, rotations, side, side)[:, 0]


def _resample_periodic(values: Tensor, count: int) -> Tensor:
    """Resample a periodic function along dim 2 at ``count`` evenly spaced points."""
    old = values.shape[2]
    if old == count:
        return values
    spectrum = torch.fft.rfft(values.double(), dim=2)
    spectrum[:, :, -1] /= 2  # the highest frequency of an even count stands for both signs
    resampled: Tensor = torch.fft.irfft(spectrum, n=count, dim=2) * (count / old)
    return resampled.to(values.dtype)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("training.refine_group", __doc__)
    parser.add_argument(
        "checkpoint",
        help="a training checkpoint, or weights as they ship, by name or file: rekd-fast",
    )
    parser.add_argument(
        "output", type=Path, help="checkpoint to write; name it as init=OUTPUT in the next training"
    )
    parser.add_argument("--group-order", type=int, default=36)
    arguments = parser.parse_args(argv)

    def work() -> None:
        state = load_start(arguments.checkpoint)
        config = NetworkConfig(**{**state["network"], "fields": tuple(state["network"]["fields"])})
        coarse = SteerableBackbone(
            group_order=config.group_order, fields=config.fields, initialise=False
        )
        coarse.load_learned_state(state["backbone"])
        fine = refine_group(coarse, arguments.group_order)
        network = asdict(replace(config, group_order=arguments.group_order))
        origin = {"refined_from": weights_hash(start_path(arguments.checkpoint))}
        refined = {"backbone": fine.learned_state(), "head": state["head"], "step": state["step"]}
        identity = {**state.get("identity", {}), **origin}
        save_checkpoint(arguments.output, {**refined, "network": network, "identity": identity})

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
