"""The command line that the training programs share: a YAML file and ``key=value``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from evaluation.command_line import exit_status, make_parser
from rekd_hloc.config import load_config
from training.common.checkpoint import RENAMED_OPTIONS

Config = TypeVar("Config", contravariant=True)


class Work(Protocol[Config]):
    """The work of a program, given its configuration."""

    def __call__(self, config: Config, *, quiet: bool) -> object:
        """Do the work, without a progress bar if ``quiet``."""


def run_cli(
    name: str,
    description: str | None,
    defaults: Config,
    work: Work[Config],
    argv: Sequence[str] | None,
) -> int:
    """Read the configuration and do the work.

    Args:
        name: of the module, as after ``python -m``.
        description: shown by ``--help``.
        defaults: the configuration's dataclass.
        work: what to do.
        argv: arguments; those of the process when None.

    Returns:
        Exit status: 0, 2 for a mistake that the log names, 130 if interrupted.
    """
    parser = make_parser(name, description)
    parser.add_argument("--config", type=Path, help="YAML with what differs from the defaults")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("overrides", nargs="*", help="key=value, for example seed=1")
    arguments = parser.parse_args(argv)

    def run() -> None:
        config = load_config(
            defaults, arguments.config, arguments.overrides, renamed=RENAMED_OPTIONS
        )
        work(config, quiet=arguments.quiet)

    return exit_status(run, also=(FloatingPointError,))
