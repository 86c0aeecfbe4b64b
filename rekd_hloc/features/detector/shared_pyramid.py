"""Levels of an image whose inner levels are the next levels: each size is computed once.

A network with ``shared_pyramid`` sees every level with smaller images of the same pyramid. What the
backbone gives for one of them is kept until the level comes that has its size, and no longer.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor

from rekd_hloc.config import DetectorConfig
from rekd_hloc.features.detector.network import DetectorNetwork, InnerMaps, Maps
from rekd_hloc.features.detector.tiles import Pixels, PyramidPixels, Region, Size

NEARLY = 1 - 1e-9
"""Factors are powers of roots, which are rounded."""


@runtime_checkable
class PyramidNetwork(DetectorNetwork, Protocol):
    """A network that can be run on each size of a pyramid by itself.

    :class:`~rekd_hloc.features.detector.network.Rekd` is one; see its methods.
    """

    shared_pyramid: bool

    @property
    def inner_scales(self) -> tuple[float, ...]:
        """Return how much smaller each inner level is, from 1 up."""

    def inner_maps(self, image: Tensor) -> InnerMaps:
        """Return the features and logits of one size."""

    def join_maps(self, inner: Iterable[InnerMaps], size: Size) -> Maps:
        """Return the maps of a level from those of its inner levels."""


def pyramid_network(network: DetectorNetwork) -> PyramidNetwork | None:
    """Return the network if it sees levels of a shared pyramid."""
    if isinstance(network, PyramidNetwork) and network.shared_pyramid:
        return network
    return None


class LevelMaps:
    """The maps of an image's levels, which are asked for from the largest to the smallest.

    Args:
        network: computes them.
        config: its factor says what the next level needs.
    """

    def __init__(self, network: DetectorNetwork, config: DetectorConfig) -> None:
        self._network = network
        self._factor = config.factor
        self._kept: dict[Size, InnerMaps] = {}

    @property
    def inner_scales(self) -> tuple[float, ...]:
        """Return which smaller images the network needs beside a level, none without sharing."""
        network = pyramid_network(self._network)
        return () if network is None else network.inner_scales

    def compute(self, pixels: Pixels) -> Maps:
        """Return the maps of a level; of a network that shares, from what was kept of larger ones.

        Args:
            pixels: of the level; for sharing with those of the inner levels.
        """
        network = pyramid_network(self._network)
        if network is not None and isinstance(pixels, PyramidPixels):
            return self._compute_shared(network, pixels)
        whole = pixels.read(Region.whole(pixels.size))
        return self._network.level_maps(whole.to(self._network.device))

    def _compute_shared(self, network: PyramidNetwork, pixels: PyramidPixels) -> Maps:
        return network.join_maps(self._inner_maps(network, pixels), pixels.size)

    def _inner_maps(self, network: PyramidNetwork, pixels: PyramidPixels) -> Iterator[InnerMaps]:
        kept, self._kept = self._kept, {}
        for scale, image in zip(network.inner_scales, pixels.images, strict=True):
            maps = kept.pop(image.size, None)
            if maps is None:
                whole = image.read(Region.whole(image.size))
                maps = network.inner_maps(whole.to(network.device))
            if scale > self._factor * NEARLY:
                self._kept[image.size] = maps
            yield maps
