"""Loads a module of hloc with our entries in its dict ``confs``.

The statement that adds them goes behind the dict's assignment, in memory. A module that runs as a
program (``python -m``) reads ``confs`` before it ends, so adding entries afterwards is too late.
"""

import ast
import importlib.abc
import logging
from types import CodeType
from typing import Any

logger = logging.getLogger(__name__)


class ConfsLoader(importlib.abc.InspectLoader):
    """Compiles the module with one statement more; line numbers stay.

    Args:
        original: the loader that would have loaded it, with ``get_source``.
        origin: the file, for tracebacks.
        function: of ``rekd_hloc.plugin.confs``, gives the entries.
    """

    def __init__(self, original: Any, origin: str, function: str) -> None:
        self.original = original
        self.origin = origin
        self.function = function

    def get_source(self, fullname: str) -> str:
        """The module's text as its author wrote it."""
        return self.original.get_source(fullname) or ""

    def is_package(self, fullname: str) -> bool:
        """No: both modules are files."""
        return False

    def get_code(self, fullname: str) -> CodeType:
        """The compiled module; without a dict ``confs`` it is the original."""
        tree = ast.parse(self.get_source(fullname), self.origin)
        places = [index for index, node in enumerate(tree.body) if _assigns_confs(node)]
        if places:
            call = f"__import__('rekd_hloc.plugin.confs', fromlist=['_']).{self.function}()"
            statement = ast.parse(f"confs.update({{**{call}, **confs}})").body[0]
            for node in ast.walk(statement):
                ast.copy_location(node, tree.body[places[-1]])
            tree.body.insert(places[-1] + 1, statement)
        else:
            logger.warning("%s has no dict `confs`; the rekd confs are not added", fullname)
        return compile(tree, self.origin, "exec", dont_inherit=True)


def _assigns_confs(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "confs" for target in targets)
