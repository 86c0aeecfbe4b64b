"""Batch normalisation over the joint batch of one or several processes.

torch's SyncBatchNorm runs on GPUs only, and it is no ``BatchNorm3d``, which e2cnn's InnerBatchNorm
holds and the backbone looks for when it saves and bakes. The layers here are, and run anywhere. On
a GPU they pay for a single process too: cuDNN gives each channel to one block of threads, and with
the two fields of a layer its kernels took 83 % of a training step's time (C36, H100).
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.common.distributed import sum_over_processes


class _SyncedStatistics:
    """Replaces the forward of a batch normalisation; all processes need shares of equal size."""

    def forward(self, values: Tensor) -> Tensor:
        assert isinstance(self, nn.BatchNorm2d | nn.BatchNorm3d)
        if not self.training:
            return super().forward(values)  # type: ignore[misc, no-any-return]
        exact = values.float()
        axes = [0, *range(2, values.ndim)]
        local_variance, local_mean = torch.var_mean(exact, dim=axes, correction=0, keepdim=True)
        num_processes = dist.get_world_size() if dist.is_initialized() else 1
        mean = sum_over_processes(local_mean) / num_processes
        spread = local_variance + (local_mean - mean).square()
        variance = sum_over_processes(spread) / num_processes
        count = values.numel() // values.shape[1] * num_processes
        self._update_running(mean.detach().flatten(), variance.detach().flatten(), count)
        shape = (1, -1, *[1] * (values.ndim - 2))
        gain = self.weight.view(shape) * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias.view(shape) - mean * gain, exact, gain).to(values.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert isinstance(self, nn.BatchNorm2d | nn.BatchNorm3d)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class SyncBatchNorm2d(_SyncedStatistics, nn.BatchNorm2d):
    """``BatchNorm2d`` whose statistics are those of all processes' batches together."""


class SyncBatchNorm3d(_SyncedStatistics, nn.BatchNorm3d):
    """``BatchNorm3d`` whose statistics are those of all processes' batches together."""


def synchronise_batchnorm(network: nn.Module) -> None:
    """Replace every batch normalisation inside a network, parameters and buffers kept."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                kind = SyncBatchNorm2d if isinstance(child, nn.BatchNorm2d) else SyncBatchNorm3d
                synced = kind(child.num_features, eps=child.eps, momentum=child.momentum)
                synced.load_state_dict(child.state_dict())
                setattr(parent, name, synced.train(child.training))
