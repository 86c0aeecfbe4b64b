"""Commands on files that exist: export, export-model, merge, plot, check, info; and of hloc."""

from os.path import commonpath
from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc.cli.option_values import completes, read_numbers
from rekd_hloc.cli.options import (
    EXIT_FAILED,
    CameraMode,
    CameraModel,
    FocalGuess,
    IgnoreExif,
    Intrinsics,
    Json,
    Overwrite,
    Quiet,
    Replace,
    print_result,
)
from rekd_hloc.exports.formats import ExportFormat
from rekd_hloc.names import counted

MAX_PAIRS = 50
"""Pairs of which a picture is drawn by default; n photos have n (n - 1) / 2."""

hloc_app = typer.Typer(
    help="Let stock `python -m hloc...` know the rekd confs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FeaturesFile = Annotated[Path, typer.Argument(help="Features of rekd-hloc or of hloc.")]


def export(
    features: FeaturesFile,
    database: Annotated[Path, typer.Argument(help="COLMAP database to write.")],
    matches: Annotated[Path | None, typer.Option(help="Matches of these features.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos, for cameras from EXIF.")
    ] = None,
    camera_model: CameraModel = "SIMPLE_RADIAL",
    camera_mode: CameraMode = "auto",
    intrinsics: Intrinsics = None,
    focal_guess: FocalGuess = None,
    ignore_exif: IgnoreExif = False,
    sift_descriptors: Annotated[
        bool, typer.Option(help="Store descriptors as bytes for COLMAP's own matchers.")
    ] = False,
    overwrite: Replace = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write features and matches into a new COLMAP database."""
    from contextlib import ExitStack

    from rekd_hloc.sfm.cameras import CameraOptions
    from rekd_hloc.sfm.database import export_database, stored_patch_size_px
    from rekd_hloc.storage.features import FeatureStore, MatchStore

    cameras = CameraOptions(
        camera_model,
        camera_mode,
        read_numbers("intrinsics", intrinsics),
        focal_guess,
        ignore_exif,
    )
    with ExitStack() as stack:
        store = stack.enter_context(FeatureStore(features))
        match_store = stack.enter_context(MatchStore(matches)) if matches is not None else None
        pairs = match_store.pairs(store.names()) if match_store is not None else []
        ids = export_database(
            database,
            images,
            store,
            match_store,
            pairs,
            cameras=cameras,
            patch_size_px=stored_patch_size_px(store),
            quantise_descriptors=sift_descriptors,
            overwrite=overwrite,
            progress=not quiet,
        )
    record = {"num_images": len(ids), "num_pairs": len(pairs), "output": str(database)}
    print_result(
        json_output,
        record,
        f"{counted(len(ids), 'image')} and {counted(len(pairs), 'pair')} in {database}",
    )


def export_model(
    model: Annotated[
        Path, typer.Argument(help="Output of reconstruct, or folder of a COLMAP model.")
    ],
    output: Annotated[
        Path | None,
        typer.Argument(help="Folder to write; by default the format's name beside sparse."),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="|".join(ExportFormat),
            help="Form to write.",
            autocompletion=completes(*ExportFormat),
        ),
    ] = ExportFormat.TEXT.value,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the photos; by default the one that reconstruct took."),
    ] = None,
    overwrite: Replace = False,
    json_output: Json = False,
) -> None:
    """Write a model in the form of another program.

    undistorted is for COLMAP's dense reconstruction and for Gaussian splatting.
    """
    from rekd_hloc.exports.export_model import export_model as run

    written = run(model, to, output, images=images, overwrite=overwrite)
    record = {"files": [str(path) for path in written]}
    place = written[0].parent if len(written) == 1 else commonpath(map(str, written))
    print_result(json_output, record, f"{counted(len(written), 'file')} in {place}")


def merge(
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    parts: Annotated[list[Path], typer.Argument(help="Features, or matches, of all shards.")],
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Join features, or matches, that were made in shards."""
    from dataclasses import asdict

    from rekd_hloc.storage.merging import merge_files

    summary = merge_files(parts, output, overwrite=overwrite)
    held = counted(summary.num_all, "image" if summary.kind == "features" else "pair")
    replaced = f", {summary.num_replaced} made anew since" if summary.num_replaced else ""
    text = f"{summary.kind} of {held} in {output}, {summary.num_new} new{replaced}"
    print_result(json_output, {**asdict(summary), "output": str(output)}, text)


def plot(
    features: FeaturesFile,
    images: Annotated[Path, typer.Argument(help="Folder of the photos.")],
    output: Annotated[Path, typer.Argument(help="Folder for PNG files.")],
    image: Annotated[
        list[str] | None, typer.Option(help="Names to draw; default is all. May be repeated.")
    ] = None,
    matches: Annotated[Path | None, typer.Option(help="Draw the matches of these images.")] = None,
    max_pairs: Annotated[
        int,
        typer.Option(min=0, help="Pairs drawn at most, those with the most matches; 0 draws all."),
    ] = MAX_PAIRS,
    overwrite: Replace = False,
    json_output: Json = False,
) -> None:
    """Draw keypoints and matches as PNG files.

    A keypoint is a circle as large as its scale, with a tick along its angle.
    """
    from rekd_hloc.viz.draw import plot_files

    written = plot_files(
        features,
        images,
        output,
        names=image,
        matches_path=matches,
        max_pairs=max_pairs or None,
        overwrite=overwrite,
    )
    record = {"files": [str(path) for path in written]}
    print_result(json_output, record, f"{counted(len(written), 'picture')} in {output}")


def check(
    features: FeaturesFile,
    matches: Annotated[Path | None, typer.Argument(help="Matches of these features.")] = None,
    pairs: Annotated[Path | None, typer.Argument(help="Pairs file.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte; name each damaged image and pair.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Validate files of features, matches and pairs.

    They may come from hloc or from rekd-hloc. The exit status is 1 if there is an error in them.
    """
    from dataclasses import asdict

    from rekd_hloc.storage.validate import check_files, format_issues

    issues = check_files(features, matches, pairs, deep=deep)
    print_result(json_output, [asdict(issue) for issue in issues], format_issues(issues))
    if any(issue.level == "error" for issue in issues):
        raise typer.Exit(EXIT_FAILED)


def info(json_output: Json = False) -> None:
    """Show versions, device, presets and shipped weights."""
    from rekd_hloc.cli.environment import describe_environment, format_environment

    record = describe_environment()
    print_result(json_output, record, format_environment(record))


@hloc_app.command()
def enable(json_output: Json = False) -> None:
    """Install a hook into this environment.

    Shows which files were written.
    """
    from rekd_hloc.plugin.enable import enable as run

    text = run()
    print_result(json_output, {"message": text}, text)


@hloc_app.command()
def disable(json_output: Json = False) -> None:
    """Remove the hook that `enable` installed."""
    from rekd_hloc.plugin.enable import disable as run

    text = run()
    print_result(json_output, {"message": text}, text)


@hloc_app.command()
def status(json_output: Json = False) -> None:
    """Show whether hloc and the hook are installed."""
    from dataclasses import asdict

    from rekd_hloc.plugin.enable import status as run

    found = run()
    print_result(json_output, asdict(found), str(found))
