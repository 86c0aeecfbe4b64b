"""A shallow descriptor network of the TFeat family, for external weights only.

Two convolutions and one full-size filter with tanh between them (Balntas et al., BMVC 2016); the
weights published as HardTFeat were trained for it with HardNet's loss. It is no HardNet and its
results must not be reported as such.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TFeat(nn.Module):
    """128 numbers from a 32x32 patch: 7x7 convolution, halving, 6x6 convolution, 8x8 filter.

    Every patch is brought to mean 0 and standard deviation 1 first; flat patches become zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=7),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=6),
            nn.Tanh(),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.1), nn.Conv2d(64, 128, kernel_size=8), nn.Tanh()
        )

    def forward(self, patches: Float[Tensor, "patch 1 32 32"]) -> Float[Tensor, "patch 128"]:
        """Return descriptors of unit length."""
        deviation, mean = torch.std_mean(patches, dim=(1, 2, 3), keepdim=True)
        standard = (patches - mean) / (deviation + 1e-6)
        return nn.functional.normalize(self.classifier(self.features(standard)).flatten(1))
