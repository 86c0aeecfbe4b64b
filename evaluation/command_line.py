"""What the programs of this project have in common: their help, their log, and how they end."""

import argparse
import logging
from collections.abc import Callable

from rekd_hloc.config import MatchConfig
from rekd_hloc.matching.match import MATCHERS

logger = logging.getLogger(__name__)

MISTAKES = (ValueError, OSError, ImportError)
"""What a program raises where the user has to change something; the message says what."""


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of ``python -m NAME``, whose help shows the description line by line."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


PAPER_FILTER = MatchConfig(filter="paper")
FILTERS = tuple(name for name in MATCHERS if name != "none")
"""Filters that matches between images with a known homography are measured with."""


def add_filter_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--filter``, which says what the columns ``filter: ...`` are measured with."""
    parser.add_argument(
        "--filter", choices=FILTERS, default=PAPER_FILTER.filter,
        help="of the columns `filter: ...`; default paper",
    )  # fmt: skip


def filter_remark(name: str) -> str:
    """Return what a table's description adds for a filter that is not the paper's."""
    return "" if name == PAPER_FILTER.filter else f"; filter here: {name}"


def require_positive(arguments: argparse.Namespace, *options: str) -> None:
    """Refuse counts below 1 that were given.

    Raises:
        ValueError: it names the option.
    """
    for option in options:
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1, got {value}")


def exit_status(work: Callable[[], int | None], *, also: tuple[type[Exception], ...] = ()) -> int:
    """Do a program's work, with its log on standard error.

    Args:
        work: returns the exit status, None for 0.
        also: what else is a mistake of the user's, besides ``MISTAKES``.

    Returns:
        The work's status; 2 for a mistake, which is one line of the log; 130 if interrupted.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    mistakes: tuple[type[Exception], ...] = (*MISTAKES, *also)
    try:
        return work() or 0
    except mistakes as error:
        logger.error("%s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted; run the same command again to go on from here")
        return 130
