"""Rekd: an image pyramid through one equivariant backbone gives a score map and histograms.

The figure of Lee et al. (CVPR 2022), line by line: the image at three sizes, each normalised and
run through the backbone; the group-pooled features resized and concatenated into the score head;
the orientation logits resized and summed.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rekd_hloc.config import NetworkConfig
from rekd_hloc.features.detector.frozen import HALO_PX, FrozenBackbone
from rekd_hloc.features.detector.normalise import normalise_contrast
from rekd_hloc.features.detector.resample import (
    aligned_source,
    aligned_taps,
    area_taps,
    resize_image,
    resize_region,
    shrink_side,
    size_at,
)
from rekd_hloc.features.detector.smoothing import blur_taps, gaussian_taps, smooth
from rekd_hloc.features.detector.tiles import (
    PartialMap,
    Pixels,
    PyramidPixels,
    Region,
    RegionMaps,
    Size,
    StoredPixels,
)
from rekd_hloc.features.precision import full_precision

BLUR_RADIUS_PX = 3
"""Reach of the Gaussian before inner levels 1 and up."""

Maps = tuple[Float[Tensor, "batch 1 height width"], list[Float[Tensor, "batch bin _ _"]]]
InnerMaps = tuple[Float[Tensor, "batch field _ _"], Float[Tensor, "batch bin _ _"]]
"""Group-pooled features and orientation logits of one inner level, at its own size."""


@runtime_checkable
class DetectorNetwork(Protocol):
    """What a :class:`~rekd_hloc.features.detector.detect.Detector` runs.

    :class:`Rekd` is one. A network in another runtime is one too; to load it from its files, add
    a line to ``RUNTIMES`` in :mod:`rekd_hloc.features.weights`.
    """

    @property
    def device(self) -> torch.device:
        """Return where images must be, and where maps are given."""

    def level_maps(self, image: Float[Tensor, "batch 1 height width"]) -> Maps:
        """Return the score map, and the logits of each inner level; see :meth:`Rekd.level_maps`."""


@runtime_checkable
class TiledNetwork(DetectorNetwork, Protocol):
    """A network that can run on a part of an image, so that an image of any size fits in memory.

    One that cannot runs on the whole.
    """

    def region_maps(self, pixels: Pixels, region: Region) -> RegionMaps:
        """Return the maps of a part; see :meth:`Rekd.region_maps`."""


class Rekd(nn.Module):
    """Score map and orientation histogram of a grey image.

    Args:
        backbone: gives (features, logits) of one inner level: a
            :class:`~rekd_hloc.features.detector.steerable.SteerableBackbone` to train, or its baked
            form.
        num_fields: channels of the backbone's features (d3).
        inner_levels, inner_factor, pixel_range, norm_window_px, blur_gain, orientation_blur_px,
            shared_pyramid: see :class:`~rekd_hloc.config.NetworkConfig`.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        num_fields: int = 2,
        inner_levels: int = 3,
        inner_factor: float = 1.2,
        pixel_range: float = 255.0,
        norm_window_px: int = 65,
        blur_gain: float = 1.0,
        orientation_blur_px: float = 0.0,
        shared_pyramid: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.score_norm: nn.Module = nn.BatchNorm2d(num_fields * inner_levels)
        self.score_head = nn.Conv2d(num_fields * inner_levels, 1, 1)
        with torch.no_grad():  # positive weights: a head that starts below ReLU's kink never learns
            self.score_head.weight.abs_()
            self.score_head.bias.fill_(0.5)  # type: ignore[union-attr]
        self.inner_levels = inner_levels
        self.inner_factor = inner_factor
        self.pixel_range = pixel_range
        self.norm_window_px = norm_window_px
        self.shared_pyramid = shared_pyramid
        self._taps = area_taps if shared_pyramid else aligned_taps
        self._blur: Tensor
        self.register_buffer("_blur", blur_taps(1.5, BLUR_RADIUS_PX, blur_gain), persistent=False)
        pool = gaussian_taps(orientation_blur_px) if orientation_blur_px > 0 else torch.ones(1)
        self._pool: Tensor
        self.register_buffer("_pool", pool, persistent=False)

    def forward(
        self, image: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch bin height width"]]:
        """Scores (not negative) and, for each pixel, the logits of the orientation histogram.

        Bin k of N stands for the direction 2 pi k / N counter-clockwise on the screen; the
        histogram is the softmax of the logits over the bins.

        Args:
            image: grey, 0..1.
        """
        score, levels = self.level_maps(image)
        size = image.shape[2:]
        logits = torch.stack([self._resize(level, size) for level in levels]).sum(dim=0)
        return score, logits

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.score_head.weight.device

    @property
    def inner_scales(self) -> tuple[float, ...]:
        """Return how much smaller each inner level is than the image, from 1 up."""
        return tuple(self.inner_factor**level for level in range(self.inner_levels))

    def level_maps(self, image: Float[Tensor, "batch 1 height width"]) -> Maps:
        """Return the score map, and the logits of each inner level at that level's own size.

        Inference reads the logits at a few thousand points, so resizing them everywhere would be
        wasted; the sum of bilinear reads is what :meth:`forward` gives at whole pixels.

        In low precision the backbone alone runs so: scores in bfloat16 would be equal over many
        pixels, and equal scores have no maximum.
        """
        inner = (self.inner_maps(image, level) for level in range(self.inner_levels))
        return self.join_maps(inner, (image.shape[2], image.shape[3]))

    def inner_maps(self, image: Float[Tensor, "batch 1 height width"], level: int = 0) -> InnerMaps:
        """Return what the backbone gives for an inner level of an image.

        With ``shared_pyramid`` level 0 is the image as it is. The maps of an image then serve
        wherever it is an inner level.
        """
        with full_precision(image.device):
            inner = self._inner_image(image, level)
        features, logits = self.backbone(inner)
        with full_precision(image.device):
            return features.float(), self._pool_logits(logits.float())

    def join_maps(self, inner: Iterable[InnerMaps], size: Size) -> Maps:
        """Return the maps of an image of that size from those of its inner levels, in turn."""
        pooled, logits = [], []
        for features, level_logits in inner:
            with full_precision(self.device):
                pooled.append(self._resize(features, size))
            logits.append(level_logits)
        with full_precision(self.device):
            score = self._score(torch.cat(pooled, dim=1))
        return score, logits

    def region_maps(self, pixels: Pixels, region: Region) -> RegionMaps:
        """Return what :meth:`level_maps` gives for a part of an image, from as much as that needs.

        Args:
            pixels: the image, on any device; of a shared pyramid with its inner levels.
            region: the part.
        """
        size, taps = pixels.size, self._taps
        images = self._inner_pixels(pixels)
        pooled, logits = [], []
        for level in range(self.inner_levels):
            inner = images[level].size if images else self._inner_size(size, level)
            needed = aligned_source(region, size, inner, taps=taps)
            smoothed = needed.grow(len(self._pool) // 2, inner)
            seen = smoothed.grow(HALO_PX, inner)
            with full_precision(self.device):
                if images:
                    image = self._inner_region(images[level], 0, seen, inner)
                else:
                    image = self._inner_region(pixels, level, seen, inner)
            features, level_logits = self.backbone(image)
            with full_precision(self.device):
                features = needed.cut(features.float(), seen)
                pooled.append(resize_region(features, needed, inner, region, size, taps=taps))
                level_logits = self._pool_logits(smoothed.cut(level_logits.float(), seen))
                values = needed.cut(level_logits, smoothed)
                logits.append(PartialMap(values, needed, inner, not self.shared_pyramid))
        with full_precision(self.device):
            score = self._score(torch.cat(pooled, dim=1))
        return RegionMaps(score, logits, region, size)

    def _score(self, pooled: Tensor) -> Tensor:
        """Return the score map; on a CPU it is the same to the bit for any number of threads."""
        normalised = self.score_norm(pooled)
        if self.training or pooled.device.type != "cpu":
            return F.relu(self.score_head(normalised))
        assert self.score_head.bias is not None
        weighted = normalised * self.score_head.weight.view(-1, 1, 1)
        return F.relu(weighted.sum(dim=1, keepdim=True) + self.score_head.bias)

    @torch.no_grad()
    def _inner_image(self, image: Tensor, level: int) -> Tensor:
        height, width = image.shape[2:]
        size = self._inner_size((height, width), level)
        if self.shared_pyramid:
            image = resize_image(image, size)
        image = image * self.pixel_range
        if level > 0 and not self.shared_pyramid:
            image = self._resize(smooth(image, self._blur), size)
        return normalise_contrast(image, self.norm_window_px)

    @torch.no_grad()
    def _inner_region(self, pixels: Pixels, level: int, region: Region, inner: Size) -> Tensor:
        """Return a part of what :meth:`_inner_image` gives."""
        seen = region.grow(self.norm_window_px // 2, inner)
        read = seen
        if level > 0:
            resized = aligned_source(seen, inner, pixels.size)
            read = resized.grow(BLUR_RADIUS_PX, pixels.size)
        image = pixels.read(read).to(self.device) * self.pixel_range
        if level > 0:
            image = smooth(image, self._blur)
            image = resize_region(resized.cut(image, read), resized, pixels.size, seen, inner)
        return region.cut(normalise_contrast(image, self.norm_window_px), seen)

    def _inner_size(self, size: Size, level: int) -> Size:
        shrink = self.inner_scales[level]
        if self.shared_pyramid:
            return size_at(size, shrink)
        return shrink_side(size[0], shrink), shrink_side(size[1], shrink)

    def _inner_pixels(self, pixels: Pixels) -> tuple[Pixels, ...]:
        """Return the inner levels of a shared pyramid, none without."""
        if not self.shared_pyramid:
            return ()
        if isinstance(pixels, PyramidPixels):
            return pixels.images
        whole = pixels.read(Region.whole(pixels.size))
        sizes = [self._inner_size(pixels.size, level) for level in range(self.inner_levels)]
        return tuple(StoredPixels(resize_image(whole, size)) for size in sizes)

    def _resize(self, maps: Tensor, size: Size | torch.Size) -> Tensor:
        if maps.shape[2:] == torch.Size(size):
            return maps
        align_corners = not self.shared_pyramid
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)

    def _pool_logits(self, logits: Tensor) -> Tensor:
        return logits if len(self._pool) == 1 else smooth(logits, self._pool)


def build_network(config: NetworkConfig, backbone: nn.Module) -> Rekd:
    """Return a network of that configuration around a backbone."""
    return Rekd(
        backbone=backbone,
        num_fields=config.fields[2],
        inner_levels=config.inner_levels,
        inner_factor=config.inner_factor,
        pixel_range=config.pixel_range,
        norm_window_px=config.norm_window_px,
        blur_gain=config.blur_gain,
        orientation_blur_px=config.orientation_blur_px,
        shared_pyramid=config.shared_pyramid,
    )


def build_frozen(config: NetworkConfig, *, tile_rows: int = -1) -> Rekd:
    """Return an inference network of that configuration, its weights still to be loaded."""
    backbone = FrozenBackbone(
        group_order=config.group_order, fields=config.fields, tile_rows=tile_rows
    )
    network = build_network(config, backbone)
    network.score_norm = nn.Identity()  # folded into the score head
    return network.eval()
