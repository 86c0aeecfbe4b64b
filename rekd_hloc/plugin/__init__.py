"""The hloc plugin: ``import rekd_hloc.plugin`` and hloc knows the rekd confs.

Importing this package is enough, before or after hloc's own modules, and costs nothing while hloc
is not used; nothing of hloc is edited. Without hloc the import still works and has no effect, so
that a script may try it; :func:`register` says what to install.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

from rekd_hloc.plugin.import_hook import install

HLOC_REMEDY = (
    "install hloc beside this package: git clone "
    "https://github.com/cvg/Hierarchical-Localization && "
    "pip install --no-deps ./Hierarchical-Localization"
)


def register() -> None:
    """Add the rekd confs, extractor and matchers to hloc. May be called any number of times.

    Raises:
        ImportError: hloc is not importable; the message says how to install it.
    """
    if not hloc_is_importable():
        raise ImportError(f"hloc is not installed; {HLOC_REMEDY}", name="hloc")
    install()


def pick(confs: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Return one of hloc's confs.

    Args:
        confs: of one of hloc's modules, for example ``extract_features.confs``.
        name: of the conf.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name not in confs:
        raise ValueError(f"hloc has no conf {name!r}; it has {', '.join(sorted(confs))}")
    return confs[name]


def hloc_is_importable() -> bool:
    """Return whether ``import hloc`` would find a package; imports nothing."""
    try:
        return importlib.util.find_spec("hloc") is not None
    except ValueError:  # a module put into sys.modules by hand, without a spec
        return True


install()
