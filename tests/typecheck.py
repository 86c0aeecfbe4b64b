"""The run-time type checker of the tests: beartype, for which a whole number is a float too.

Functions are decorated one by one, which leaves ``Self`` without a meaning for beartype: those
that mention it go unchecked.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(target: Callable[..., Any]) -> Callable[..., Any]:
    """The function or class with checks of its arguments and result."""
    try:
        return _check(target)
    except BeartypeDecorHintPep673Exception:
        return target
