"""``rekd-hloc``: from a folder of photos to a COLMAP model, and each step on its own."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc.cli.files import add_file_commands
from rekd_hloc.cli.options import (
    Conf,
    Config,
    Device,
    Force,
    Json,
    MaxKeypoints,
    Quiet,
    Seed,
    Settings,
    read_match_config,
    read_numbers,
    resolve_conf,
    say,
)
from rekd_hloc.config import (
    RECONSTRUCTION_KEYPOINTS,
    RECONSTRUCTION_MATCHING,
    reconstruction_preset,
)

app = typer.Typer(
    name="rekd-hloc",
    help="Oriented keypoints for structure from motion: photos in, COLMAP model out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_FAILED = 1
"""The command ran, but gave nothing: no image was readable, no model came out."""
EXIT_MISTAKE = 2
"""The command could not run as it was asked to."""
EXIT_INTERRUPTED = 130

Images = Annotated[Path, typer.Argument(help="Folder of photos, searched with its subfolders.")]
Masks = Annotated[
    Path | None,
    typer.Option("--mask-dir", help="Masks as COLMAP's: NAME.png, zero where to ignore."),
]
Filter = Annotated[
    str,
    typer.Option(
        "--filter",
        help="Orientation filter: density, paper or none; or adalam, a matcher with its own.",
    ),
]
Ratio = Annotated[
    float | None,
    typer.Option(
        help="Largest ratio of best to second distance; 1 is off. "
        f"Default: 1, and {RECONSTRUCTION_MATCHING.ratio} in a reconstruction."
    ),
]
PairsSource = Annotated[
    str, typer.Option("--pairs", help="exhaustive, sequential, or a file of image name pairs.")
]
Overlap = Annotated[int, typer.Option(help="Neighbours of an image in sequential pairs.")]


@app.command(epilog="Example: rekd-hloc extract photos/ features.h5 --conf rekd-fast")
def extract(
    images: Images,
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    conf: Conf = None,
    config: Config = None,
    settings: Settings = None,
    max_keypoints: MaxKeypoints = None,
    mask_dir: Masks = None,
    device: Device = "auto",
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Extract oriented keypoints with descriptors into hloc's HDF5 form."""
    from rekd_hloc.features.extractor import Extractor
    from rekd_hloc.sfm.extraction import extract_images

    name, resolved = resolve_conf(conf, config, settings, max_keypoints, device)
    extractor = Extractor.from_pretrained(name, device=device, config=resolved)
    summary = extract_images(
        extractor, images, output, mask_dir=mask_dir, overwrite=force, progress=not quiet
    )
    counts = sorted(summary.num_keypoints.values())
    middle = counts[len(counts) // 2] if counts else 0
    _report_skipped(summary.skipped)
    say(
        json_output,
        {**asdict(summary), "output": str(output)},
        f"{len(summary.names)} images in {output} ({summary.num_resumed} were there already), "
        f"{middle} keypoints in the median image, {len(summary.skipped)} files skipped, "
        f"{summary.seconds:.1f} s",
    )
    if not summary.names:
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: rekd-hloc pairs photos/ pairs.txt --pairs sequential --overlap 5")
def pairs(
    images: Images,
    output: Annotated[Path, typer.Argument(help="Text file to write, two names a line.")],
    source: PairsSource = "exhaustive",
    overlap: Overlap = 10,
    json_output: Json = False,
) -> None:
    """List the image pairs to match."""
    from rekd_hloc.images import list_images
    from rekd_hloc.matching.pairs import make_pairs, write_pairs

    found = make_pairs(list_images(images), source, overlap=overlap)
    write_pairs(output, found)
    say(
        json_output,
        {"num_pairs": len(found), "output": str(output)},
        f"{len(found)} pairs in {output}",
    )


@app.command(epilog="Example: rekd-hloc match features.h5 matches.h5 --pairs pairs.txt")
def match(
    features: Annotated[Path, typer.Argument(help="Features of rekd-hloc or of hloc.")],
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    source: PairsSource = "exhaustive",
    overlap: Overlap = 10,
    filter_name: Filter = "density",
    ratio: Ratio = None,
    device: Device = "auto",
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Match by mutual nearest neighbours and keep what agrees on one rotation."""
    from rekd_hloc.features.extractor import choose_device
    from rekd_hloc.matching.match_images import match_images
    from rekd_hloc.matching.pairs import make_pairs
    from rekd_hloc.storage.features import FeatureStore

    matching = read_match_config(filter_name, ratio)
    with FeatureStore(features) as store:
        names = store.names()
    found = make_pairs(names, source, overlap=overlap)
    place = str(choose_device(device))
    summary = match_images(
        features, output, found, matching, overwrite=force, device=place, progress=not quiet
    )
    total = sum(summary.num_matches.values())
    per_pair = [[a, b, count] for (a, b), count in summary.num_matches.items()]
    say(
        json_output,
        {
            "num_pairs": len(per_pair),
            "num_matches": total,
            "num_resumed": summary.num_resumed,
            "seconds": summary.seconds,
            "pairs": per_pair,
            "output": str(output),
        },
        f"{total} matches of {len(per_pair)} pairs in {output} "
        f"({summary.num_resumed} were there already), {summary.seconds:.1f} s",
    )


@app.command(epilog="Example: rekd-hloc reconstruct photos/ out/ --conf rekd-fast --seed 1")
def reconstruct(
    images: Images,
    output: Annotated[Path, typer.Argument(help="Folder for features, matches and model.")],
    conf: Conf = None,
    config: Config = None,
    settings: Settings = None,
    max_keypoints: Annotated[
        int | None,
        typer.Option(
            help="Best keypoints kept in an image; "
            f"{RECONSTRUCTION_KEYPOINTS} unless a file or --set says otherwise."
        ),
    ] = None,
    mask_dir: Masks = None,
    source: PairsSource = "exhaustive",
    overlap: Overlap = 10,
    filter_name: Filter = "density",
    ratio: Ratio = None,
    mapper: Annotated[str, typer.Option(help="incremental or global.")] = "incremental",
    camera_model: Annotated[str, typer.Option(help="A camera model of COLMAP.")] = "SIMPLE_RADIAL",
    camera_mode: Annotated[
        str, typer.Option(help="auto, single, per_folder or per_image.")
    ] = "auto",
    intrinsics: Annotated[
        str | None, typer.Option(help="Parameters of the camera model, with commas between.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="True poses: a COLMAP model, or IMC's calibration_*.h5 files."),
    ] = None,
    sift_descriptors: Annotated[
        bool, typer.Option(help="Store descriptors as bytes for COLMAP's own matchers too.")
    ] = False,
    page: Annotated[bool, typer.Option("--page", help="Write an HTML page as well.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    num_threads: Annotated[
        int, typer.Option(help="Of the mapper; 1 is repeatable to the bit, -1 takes all cores.")
    ] = 1,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct a scene: extract, match, verify, map. Writes OUTPUT/report.json."""
    from rekd_hloc.sfm.reconstruct import reconstruct as run
    from rekd_hloc.sfm.report import format_report

    name, resolved = resolve_conf(
        conf, config, settings, max_keypoints, device, preset=reconstruction_preset
    )
    report = run(
        images,
        output,
        conf=name,
        config=resolved,
        matching=read_match_config(filter_name, ratio, RECONSTRUCTION_MATCHING),
        pairs=source,
        overlap=overlap,
        mask_dir=mask_dir,
        mapper=mapper,
        camera_model=camera_model,
        camera_mode=camera_mode,
        intrinsics=read_numbers("intrinsics", intrinsics),
        reference=reference,
        device=device,
        seed=seed,
        num_threads=num_threads,
        quantise_descriptors=sift_descriptors,
        overwrite=force,
        progress=not quiet,
    )
    if page:
        from rekd_hloc.viz.page import write_html_report

        write_html_report(output, images, title=f"{images.name}: {name}", reference=reference)
    typer.echo(format_report(report))
    if report["num_registered"] == 0:
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: rekd-hloc demo demo/")
def demo(
    output: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("demo"),
    conf: Conf = None,
    device: Device = "auto",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Reconstruct twelve packaged images from rolled cameras; compare with the true poses."""
    from rekd_hloc.demo import run_demo
    from rekd_hloc.sfm.report import format_report

    name, _ = resolve_conf(conf, None, None, None, device)
    report = run_demo(output, conf=name, device=device, seed=seed, progress=not quiet)
    typer.echo(format_report(report))
    typer.echo(f"Open {output / 'report.html'} for keypoints and matches.")
    if report["num_registered"] < report["num_images"]:
        raise typer.Exit(EXIT_FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if all went well, 1 if the command ran but gave nothing, 2 for a mistake that the message
        on stderr names, 130 if interrupted.
    """
    with _logging():
        try:
            app(args=list(sys.argv[1:] if argv is None else argv), prog_name="rekd-hloc")
        except SystemExit as end:
            return int(end.code or 0)
        except KeyboardInterrupt:
            typer.echo("rekd-hloc: interrupted; the same command goes on from here", err=True)
            return EXIT_INTERRUPTED
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"rekd-hloc: error: {error}", err=True)
            return EXIT_MISTAKE
    return 0


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Warnings of this package on stderr for the time of one command."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root = logging.getLogger("rekd_hloc")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _report_skipped(skipped: dict[str, str]) -> None:
    for name, reason in skipped.items():
        typer.echo(f"skipped {name}: {reason}", err=True)


add_file_commands(app)

if __name__ == "__main__":
    sys.exit(main())
