"""Commands on files that exist: export, plot, check, info, export-weights, hloc."""

from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc.cli.options import Json, say

hloc_app = typer.Typer(
    help="Make stock `python -m hloc...` know the rekd confs in this environment.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FeaturesFile = Annotated[Path, typer.Argument(help="Features of rekd-hloc or of hloc.")]


def add_file_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command(epilog="Example: rekd-hloc export features.h5 database.db --matches matches.h5")(
        export
    )
    app.command(epilog="Example: rekd-hloc plot features.h5 photos/ plots/ --image a.jpg")(plot)
    app.command(epilog="Example: rekd-hloc check features.h5 matches.h5 pairs.txt")(check)
    app.command(epilog="Example: rekd-hloc info --json")(info)
    app.command(
        name="export-weights",
        epilog="Example: rekd-hloc export-weights runs/detector/best.pt rekd.safetensors",
    )(export_weights)
    app.add_typer(hloc_app, name="hloc")


def export(
    features: FeaturesFile,
    database: Annotated[Path, typer.Argument(help="COLMAP database to write.")],
    matches: Annotated[Path | None, typer.Option(help="Matches of these features.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos, for cameras from EXIF.")
    ] = None,
    camera_model: Annotated[str, typer.Option(help="A camera model of COLMAP.")] = "SIMPLE_RADIAL",
    camera_mode: Annotated[
        str, typer.Option(help="auto, single, per_folder or per_image.")
    ] = "auto",
    sift_descriptors: Annotated[
        bool, typer.Option(help="Store descriptors as bytes for COLMAP's own matchers.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Write features, and matches if given, into a new COLMAP database."""
    from contextlib import ExitStack

    from rekd_hloc.sfm.database import export_database, stored_support
    from rekd_hloc.storage.features import FeatureStore, MatchStore

    with ExitStack() as stack:
        store = stack.enter_context(FeatureStore(features))
        found = stack.enter_context(MatchStore(matches)) if matches is not None else None
        pairs = found.pairs(store.names()) if found is not None else []
        ids = export_database(
            database,
            images,
            store,
            found,
            pairs,
            camera_model=camera_model,
            camera_mode=camera_mode,
            support=stored_support(store),
            quantise_descriptors=sift_descriptors,
            progress=True,
        )
    record = {"num_images": len(ids), "num_pairs": len(pairs), "output": str(database)}
    say(json_output, record, f"{len(ids)} images and {len(pairs)} pairs in {database}")


def plot(
    features: FeaturesFile,
    images: Annotated[Path, typer.Argument(help="Folder of the photos.")],
    output: Annotated[Path, typer.Argument(help="Folder for PNG files.")],
    image: Annotated[
        list[str] | None, typer.Option(help="Names to draw; default is all. May be repeated.")
    ] = None,
    matches: Annotated[Path | None, typer.Option(help="Draw the matches of these images.")] = None,
    json_output: Json = False,
) -> None:
    """Draw keypoints with scale and angle, and matches, as PNG files."""
    from rekd_hloc.viz.draw import plot_files

    written = plot_files(features, images, output, names=image, matches_path=matches)
    record = {"files": [str(path) for path in written]}
    say(json_output, record, f"{len(written)} pictures in {output}")


def check(
    features: FeaturesFile,
    matches: Annotated[Path | None, typer.Argument(help="Matches of these features.")] = None,
    pairs: Annotated[Path | None, typer.Argument(help="Pairs file.")] = None,
    json_output: Json = False,
) -> None:
    """Validate feature, match and pair files of hloc or rekd-hloc before a long run."""
    from dataclasses import asdict

    from rekd_hloc.storage.validate import check_files, format_issues

    findings = check_files(features, matches, pairs)
    say(json_output, [asdict(finding) for finding in findings], format_issues(findings))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def info(json_output: Json = False) -> None:
    """Versions, device, presets and the weights that ship with this package."""
    from rekd_hloc.cli.environment import describe_environment, format_environment

    record = describe_environment()
    say(json_output, record, format_environment(record))


def export_weights(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint, or REKD's release.")],
    output: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    group_order: Annotated[
        int | None, typer.Option(help="Of REKD's release; default is what the shapes say.")
    ] = None,
    pixel_range: Annotated[
        float, typer.Option(help="White as the release's network sees it.")
    ] = 1.0,
) -> None:
    """Bake a training checkpoint, or the REKD release's best_model.pt, into weights to run."""
    from rekd_hloc.features.convert import convert_checkpoint

    convert_checkpoint(checkpoint, output, group_order=group_order, pixel_range=pixel_range)
    typer.echo(f"wrote {output}")


@hloc_app.command()
def enable() -> None:
    """Install a hook into this environment, and say what was written."""
    from rekd_hloc.plugin.enable import enable as run

    typer.echo(run())


@hloc_app.command()
def disable() -> None:
    """Remove what `enable` installed."""
    from rekd_hloc.plugin.enable import disable as run

    typer.echo(run())


@hloc_app.command()
def status() -> None:
    """Say whether hloc is installed and the hook is in place."""
    from rekd_hloc.plugin.enable import status as run

    typer.echo(run())
