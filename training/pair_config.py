"""Options of the pairs that the detector is trained on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PairConfig:
    """How a pair is drawn; the defaults are the paper's where it has one, and said where not."""

    crop_px: int = 192
    """Side of both crops (paper: 192)."""
    max_angle_deg: float = 180.0
    """The rotation is uniform in +- this (paper: 180)."""
    scale_range: tuple[float, float] = (1.0, 1.0)
    """Log-uniform factor of size between the two crops (paper: 1; its code has a flag)."""
    max_stretch: float = 1.0
    """Largest ratio of the scales along two axes, log-uniform from 1; a shear of s is a stretch
    of 1 + s to first order (paper: 1; its code has a flag for shear)."""
    perspective: float = 0.0
    """Largest change of scale across half the crop by perspective (paper: 0)."""
    zoom_range: tuple[float, float] = (1.0, 1.0)
    """Log-uniform factor on the image's size before cropping (paper: 1)."""
    centred: bool = False
    """Crop at the image's centre (paper) rather than anywhere the crop fits."""
    brightness: float = 36.0
    """Largest change of brightness, grey levels (paper: 36)."""
    contrast: tuple[float, float] = (0.5, 1.5)
    """Range of the factor on pixel values (paper)."""
    hue_deg: float = 36.0
    """Largest change of hue in degrees (paper: 18 of OpenCV's 180)."""
    saturation: tuple[float, float] = (0.5, 1.5)
    """Range of the factor on saturation (paper)."""
    blur_px: float = 0.0
    """Largest sigma of a Gaussian blur (paper: 0)."""
    noise: float = 0.0
    """Largest standard deviation of added noise, grey levels (paper: 0)."""
    jpeg_quality: int = 100
    """Lowest JPEG quality that a crop is put through; 100 switches it off (paper)."""
    min_texture: float = 0.25
    """Crops whose strongest horizontal edge, over their brightest pixel, is below are redrawn."""
    max_tries: int = 20
    """Draws before a crop without texture is taken after all."""

    def __post_init__(self) -> None:
        if self.crop_px < 48:
            raise ValueError(f"crop_px must be at least 48, got {self.crop_px}")
        for name in ("scale_range", "zoom_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers in order, got {low}, {high}")
        if self.max_stretch < 1:
            raise ValueError(f"max_stretch must be at least 1, got {self.max_stretch}")
        if not 0 <= self.perspective < 0.5:
            raise ValueError(f"perspective must be in [0, 0.5), got {self.perspective}")
