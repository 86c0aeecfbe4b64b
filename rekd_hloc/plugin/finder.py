"""Finds hloc's modules as Python would without it, and hands some of them on extended."""

import importlib.abc
import logging
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType

from rekd_hloc.plugin.confs_loader import ConfsLoader

logger = logging.getLogger(__name__)


class Finder(importlib.abc.MetaPathFinder):
    """Goes first in ``sys.meta_path``.

    Args:
        packages: packages to extend, and the folder that each gets.
        confs: modules whose dict ``confs`` to extend, and the function that gives the entries.
    """

    def __init__(self, packages: Mapping[str, str], confs: Mapping[str, str]) -> None:
        self.packages = packages
        self.confs = confs

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, extended; None for all other modules."""
        if fullname not in self.packages and fullname not in self.confs:
            return None
        spec = _find_elsewhere(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        if fullname in self.packages:
            locations = spec.submodule_search_locations
            if locations is not None and self.packages[fullname] not in locations:
                locations.append(self.packages[fullname])
        elif hasattr(spec.loader, "get_source"):
            spec.loader = ConfsLoader(spec.loader, str(spec.origin), self.confs[fullname])
        else:
            logger.warning("%s has no source; the rekd confs are not added to it", fullname)
        return spec


def _find_elsewhere(
    fullname: str, path: Iterable[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if not isinstance(finder, Finder) and hasattr(finder, "find_spec"):
            spec = finder.find_spec(fullname, path, target)  # type: ignore[arg-type]
            if spec is not None:
                return spec
    return None
