"""The extractor for kornia's pipelines: ``from rekd_hloc.kornia import RekdFeature``."""

from rekd_hloc.interfaces.kornia_feature import RekdFeature as RekdFeature

__all__ = ["RekdFeature"]
