"""``rekd-hloc``: from a folder of photos to a COLMAP model, and each step on its own.

This module lists the commands and turns their errors into exit codes.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc import __version__
from rekd_hloc.cli import files, localizing, matching, networks, reconstruction, video
from rekd_hloc.cli.command_words import split_words
from rekd_hloc.cli.failures import MISTAKES, SHOW_TRACEBACK, describe_failure
from rekd_hloc.cli.interrupts import how_to_go_on, run_interruptibly
from rekd_hloc.cli.logs import append_log, log_messages, show_details
from rekd_hloc.cli.options import EXIT_FAILED, EXIT_MISTAKE, EXIT_STATUSES
from rekd_hloc.names import one_line

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "frames": (video.frames, "walk.mp4 photos/ --fps 2"),
    "extract": (reconstruction.extract, "photos/ features.h5 --conf rekd-fast"),
    "pairs": (matching.pairs, "photos/ pairs.txt --pairs retrieval:20 --features features.h5"),
    "codebook": (matching.codebook, "features.h5 codebook.safetensors"),
    "match": (matching.match, "features.h5 matches.h5 --pairs pairs.txt"),
    "refine": (matching.refine, "features.h5 matches.h5 photos/ refined.h5"),
    "reconstruct": (reconstruction.reconstruct, "photos/ out/ --conf rekd-fast --seed 1"),
    "localize": (localizing.localize, "new/ out/ found/ --conf rekd-fast"),
    "demo": (reconstruction.demo, "demo/"),
    "export": (files.export, "features.h5 database.db --matches matches.h5"),
    "export-model": (files.export_model, "out/ --to undistorted"),
    "merge": (files.merge, "features.h5 part1.h5 part2.h5"),
    "plot": (files.plot, "features.h5 photos/ plots/ --image a.jpg"),
    "check": (files.check, "features.h5 matches.h5 pairs.txt"),
    "info": (files.info, "--json"),
    "export-weights": (networks.export_weights, "runs/detector/best.pt rekd.safetensors"),
    "export-onnx": (networks.export_onnx, "graphs/ --conf rekd-fast"),
}
"""The function of each command, and the arguments of an example that its help shows."""


def make_app() -> typer.Typer:
    """Return the program with all its commands."""
    app = typer.Typer(
        name="rekd-hloc",
        help="Oriented keypoints for structure from motion: photos in, COLMAP model out.",
        epilog=EXIT_STATUSES,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_offer_globals)
    for name, (command, arguments) in COMMANDS.items():
        app.command(name, epilog=f"Example: rekd-hloc {name} {arguments}")(command)
    app.add_typer(files.hloc_app, name="hloc")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if all went well, 1 if the command ran but gave nothing, 2 for a mistake that the message
        on stderr names, 3 with ``--strict`` if photos were left out, 130 or 143 if Ctrl-C or
        SIGTERM ended it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_interruptibly(lambda: _run(arguments), how_to_go_on(arguments))


def _run(arguments: list[str]) -> int:
    with log_messages(arguments):
        try:
            try:
                before, after = split_words(arguments)
                app(args=[*before, *after], prog_name="rekd-hloc")
            finally:
                sys.stdout.flush()  # here, where a pipe that was closed can be met
        except SystemExit as end:
            return int(end.code or 0)
        except BrokenPipeError:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (takes what is yet to be flushed)
            return EXIT_FAILED
        except Exception as error:
            failure = describe_failure(error)
            if failure is None:
                raise
            if os.environ.get(SHOW_TRACEBACK):
                traceback.print_exc()
            typer.echo(f"rekd-hloc: error: {one_line(failure)}", err=True)
            return EXIT_MISTAKE if isinstance(error, MISTAKES) else EXIT_FAILED
    return 0


def _show_version(is_asked: bool) -> bool:
    if is_asked:
        typer.echo(f"rekd-hloc {__version__}")
        raise typer.Exit
    return is_asked


def _offer_globals(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Say what is done; before or after the command."),
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(help="Append what is done to this file. reconstruct has one in OUTPUT."),
    ] = None,
) -> None:
    """Give the program options beside its commands."""
    if verbose:
        show_details()
    if log_file is not None:
        append_log(log_file, needs_folder=False)


app = make_app()

if __name__ == "__main__":
    sys.exit(main())
