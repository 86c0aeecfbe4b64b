"""How this plugin enters hloc: an import hook for four of its modules, idle until they load.

hloc finds an extractor or matcher as a submodule of ``hloc.extractors`` or ``hloc.matchers``; the
hook adds this package's folders to the search path of both. It chooses confs from the dict
``confs`` of ``hloc.extract_features`` and ``hloc.match_features``; the hook adds entries there.
Nothing of hloc changes on disk.
"""

import ast
import importlib.abc
import logging
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

logger = logging.getLogger(__name__)

EXTENDED_PACKAGES = {
    "hloc.extractors": str(Path(__file__).parent / "extractors"),
    "hloc.matchers": str(Path(__file__).parent / "matchers"),
}
"""Packages of hloc, and the folder that each is extended by."""
EXTENDED_CONFS = {
    "hloc.extract_features": "extractor_confs",
    "hloc.match_features": "matcher_confs",
}
"""Modules of hloc with a dict ``confs``, and the function of ``confs.py`` with our entries."""


def install() -> None:
    """Extend the modules of hloc that are loaded, and from now on those that load; idempotent."""
    if not any(isinstance(finder, ImportHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, ImportHook())
    for name, folder in EXTENDED_PACKAGES.items():
        if name in sys.modules and folder not in (path := sys.modules[name].__path__):
            path.append(folder)
    for name, function in EXTENDED_CONFS.items():
        existing: Any = getattr(sys.modules.get(name), "confs", None)
        if isinstance(existing, dict):
            from rekd_hloc.plugin import confs

            added = getattr(confs, function)()
            existing.update({key: conf for key, conf in added.items() if key not in existing})


class ImportHook(importlib.abc.MetaPathFinder):
    """Finds four modules of hloc as Python would without it, and extends what it found.

    It stands first in ``sys.meta_path`` and leaves every other module to the finders behind it.
    """

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give, extended; None for all other modules."""
        if fullname not in EXTENDED_PACKAGES and fullname not in EXTENDED_CONFS:
            return None
        spec = _find_without_hook(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        if fullname in EXTENDED_PACKAGES:
            locations = spec.submodule_search_locations
            if locations is not None and EXTENDED_PACKAGES[fullname] not in locations:
                locations.append(EXTENDED_PACKAGES[fullname])
        elif hasattr(spec.loader, "get_source"):
            spec.loader = ConfsLoader(spec.loader, str(spec.origin), EXTENDED_CONFS[fullname])
        else:
            logger.warning("%s has no source; the rekd confs are not added to it", fullname)
        return spec


class ConfsLoader(importlib.abc.InspectLoader):
    """Loads a module of hloc with our entries in its dict ``confs``.

    The statement that adds them goes behind the dict's assignment, in memory; line numbers stay. A
    module that runs as a program (``python -m``) reads ``confs`` before it ends, so adding entries
    afterwards is too late.

    Args:
        original: the loader that would have loaded the module, with ``get_source``.
        origin: the module's file, for tracebacks.
        function: name of the function in ``rekd_hloc.plugin.confs`` that returns the entries.
    """

    def __init__(self, original: Any, origin: str, function: str) -> None:
        self.original = original
        self.origin = origin
        self.function = function

    def get_source(self, fullname: str) -> str:
        """Return the module's text as its author wrote it."""
        return self.original.get_source(fullname) or ""

    def is_package(self, fullname: str) -> bool:
        """Return False: both modules are files."""
        return False

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled module; without a dict ``confs`` it is the original."""
        tree = ast.parse(self.get_source(fullname), self.origin)
        rows = [index for index, node in enumerate(tree.body) if _assigns_confs(node)]
        if rows:
            call = f"__import__('rekd_hloc.plugin.confs', fromlist=['_']).{self.function}()"
            statement = ast.parse(f"confs.update({{**{call}, **confs}})").body[0]
            for node in ast.walk(statement):
                ast.copy_location(node, tree.body[rows[-1]])
            tree.body.insert(rows[-1] + 1, statement)
        else:
            logger.warning("%s has no dict `confs`; the rekd confs are not added", fullname)
        return compile(tree, self.origin, "exec", dont_inherit=True)


def _find_without_hook(
    fullname: str, path: Iterable[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if not isinstance(finder, ImportHook) and hasattr(finder, "find_spec"):
            spec = finder.find_spec(fullname, path, target)  # type: ignore[arg-type]
            if spec is not None:
                return spec
    return None


def _assigns_confs(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "confs" for target in targets)
