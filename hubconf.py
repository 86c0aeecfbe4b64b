"""Entry points of ``torch.hub`` for a folder of this repository; docs/python.md shows them."""

from typing import Any

dependencies = ["cv2", "h5py", "jaxtyping", "numpy", "omegaconf", "safetensors", "torch"]


def extractor(preset: str = "rekd", **options: Any) -> Any:
    """Return a ``rekd_hloc.Extractor``; arguments are those of its ``from_pretrained``."""
    from rekd_hloc import Extractor

    return Extractor.from_pretrained(preset, **options)


def kornia_feature(preset: str = "rekd", **options: Any) -> Any:
    """Return a ``rekd_hloc.kornia.RekdFeature``; arguments are its own."""
    from rekd_hloc.kornia import RekdFeature

    return RekdFeature(preset, **options)
