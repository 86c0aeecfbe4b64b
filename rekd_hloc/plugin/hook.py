"""How this plugin enters hloc: an import hook for four of its modules, idle until they load.

hloc finds an extractor or matcher as a submodule of ``hloc.extractors`` or ``hloc.matchers``; the
hook adds this package's folders to the search path of both. It chooses confs from the dict
``confs`` of ``hloc.extract_features`` and ``hloc.match_features``; the hook adds entries there.
"""

import sys
from pathlib import Path
from typing import Any

from rekd_hloc.plugin.finder import Finder

PACKAGES = {
    "hloc.extractors": str(Path(__file__).parent / "extractors"),
    "hloc.matchers": str(Path(__file__).parent / "matchers"),
}
"""Packages of hloc, and the folder that each is extended by."""
CONFS = {"hloc.extract_features": "extractor_confs", "hloc.match_features": "matcher_confs"}
"""Modules of hloc with a dict ``confs``, and the function of ``confs.py`` with our entries."""


def install() -> None:
    """Extend what hloc has loaded already, and from now on what it loads; idempotent."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder(PACKAGES, CONFS))
    for name, folder in PACKAGES.items():
        if name in sys.modules and folder not in (path := sys.modules[name].__path__):
            path.append(folder)
    for name, function in CONFS.items():
        known: Any = getattr(sys.modules.get(name), "confs", None)
        if isinstance(known, dict):
            from rekd_hloc.plugin import confs

            known.update({k: v for k, v in getattr(confs, function)().items() if k not in known})
