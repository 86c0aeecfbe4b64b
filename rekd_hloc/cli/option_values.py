"""Values of options: those that a shell offers, and numbers in a text."""

from collections.abc import Callable
from typing import get_args, get_type_hints

from rekd_hloc.config import MatchConfig

FILTERS: tuple[str, ...] = get_args(get_type_hints(MatchConfig)["filter"])
"""Names of the filters of matches."""


def completes(*words: str) -> Callable[[str], list[str]]:
    """Return what a shell asks for the values of an option that begin as what is typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def read_numbers(name: str, text: str | None) -> list[float] | None:
    """Return the numbers of a text with commas between them; None for no text.

    Raises:
        ValueError: a part is not a number.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"{name} must be numbers with commas between, like 1000,320,240, got {text!r}"
        ) from error


def require_filter(name: str) -> None:
    """Refuse a filter of matches that there is not.

    Raises:
        ValueError: it is one.
    """
    if name not in FILTERS:
        raise ValueError(f"no filter {name!r}; --filter takes {', '.join(FILTERS)}")
