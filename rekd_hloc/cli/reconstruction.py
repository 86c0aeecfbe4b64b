"""Commands from images to a model: extract, reconstruct, demo."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc.cli.logs import LOG_NAME, append_log
from rekd_hloc.cli.option_values import completes, read_numbers
from rekd_hloc.cli.options import (
    EXIT_FAILED,
    CameraMode,
    CameraModel,
    ClusterName,
    Codebook,
    Conf,
    Config,
    Device,
    Filter,
    FocalGuess,
    Fps,
    Guided,
    IgnoreExif,
    Images,
    Intrinsics,
    Json,
    MaskFrame,
    Masks,
    MaxKeypoints,
    Overlap,
    Overwrite,
    PairsSource,
    Quiet,
    Ratio,
    Redo,
    Runtime,
    Seed,
    Settings,
    Shard,
    Strict,
    Threads,
    Video,
    Workers,
    open_maps,
    print_result,
    read_match_config,
    require_all_photos,
    resolve_conf,
)
from rekd_hloc.cli.video import take_video
from rekd_hloc.config import MAX_ERROR_PX as MAX_PX
from rekd_hloc.config import OVERLAP, PAIRS, RECONSTRUCTION_MATCHING
from rekd_hloc.config import REFINED_MAX_ERROR_PX as REFINED_MAX_PX
from rekd_hloc.names import counted


def extract(
    images: Images,
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    video: Video = None,
    fps: Fps = 2.0,
    conf: Conf = None,
    config: Config = None,
    settings: Settings = None,
    max_keypoints: MaxKeypoints = None,
    mask_dir: Masks = None,
    mask_frame: MaskFrame = "auto",
    device: Device = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    shard: Shard = None,
    cluster: ClusterName = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    strict: Strict = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Extract keypoints and descriptors into an HDF5 file.

    The file has the form that hloc writes. A run that was stopped goes on with what is there.
    """
    from rekd_hloc.features.extractor import Extractor
    from rekd_hloc.image_listing import list_images
    from rekd_hloc.sfm.changed_images import describe_changes
    from rekd_hloc.sfm.extraction import extract_images
    from rekd_hloc.sfm.image_notes import describe_upright_masks
    from rekd_hloc.shards import take_shard

    name, resolved = resolve_conf(conf, config, settings, max_keypoints, device, runtime)
    take_video(video, images, fps)
    names = None if shard is None else take_shard(list_images(images), shard)
    is_empty_shard = names == []  # of more shards than photos
    extractor = Extractor.from_pretrained(name, device=device, config=resolved)
    with open_maps(cluster, workers, device) as (map_images, _):
        summary = extract_images(
            extractor,
            images,
            output,
            names=names,
            mask_dir=mask_dir,
            mask_frame=mask_frame,
            overwrite=overwrite,
            progress=not quiet,
            map_images=map_images,
        )
    counts = sorted(summary.num_keypoints.values())
    median = counts[len(counts) // 2] if counts else 0
    _print_skipped(summary.skipped)
    rotated = describe_upright_masks(summary.mask_frames)
    if rotated:
        typer.echo(rotated, err=True)
    for line in describe_changes(summary.changed, summary.removed, 0, summary.added):
        typer.echo(line, err=True)
    changed = f", {summary.num_changed} changed since and were extracted again"
    print_result(
        json_output,
        {**asdict(summary), "num_changed": summary.num_changed, "output": str(output)},
        f"{counted(len(summary.names), 'image')} in {output} "
        f"({summary.num_resumed} were there already"
        f"{changed if summary.changed else ''}), "
        f"{median} keypoints in the median image, "
        f"{counted(len(summary.skipped), 'file')} skipped, "
        f"{summary.seconds:.1f} s",
    )
    if not summary.names and not is_empty_shard:
        raise typer.Exit(EXIT_FAILED)
    if strict:
        require_all_photos(summary.skipped, "see above; --json lists all under skipped")


def reconstruct(
    images: Images,
    output: Annotated[Path, typer.Argument(help="Folder for features, matches and model.")],
    video: Video = None,
    fps: Fps = 2.0,
    conf: Conf = None,
    config: Config = None,
    settings: Settings = None,
    max_keypoints: MaxKeypoints = None,
    mask_dir: Masks = None,
    mask_frame: MaskFrame = "auto",
    source: PairsSource = PAIRS,
    overlap: Overlap = OVERLAP,
    codebook: Codebook = "default",
    filter_name: Filter = RECONSTRUCTION_MATCHING.filter,
    ratio: Ratio = None,
    guided: Guided = RECONSTRUCTION_MATCHING.guided,
    mapper: Annotated[
        str,
        typer.Option(
            help="incremental or global.", autocompletion=completes("incremental", "global")
        ),
    ] = "incremental",
    camera_model: CameraModel = "SIMPLE_RADIAL",
    camera_mode: CameraMode = "auto",
    intrinsics: Intrinsics = None,
    focal_guess: FocalGuess = None,
    ignore_exif: IgnoreExif = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="True poses: a COLMAP model, or IMC's calibration_*.h5 files."),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine/--no-refine",
            help="Align the keypoints of verified tracks to one another before mapping.",
        ),
    ] = True,
    max_error_px: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="PX",
            help="Largest epipolar error of a verified match. "
            f"Default: {MAX_PX:g}, or {REFINED_MAX_PX:g} where keypoints are refined.",
        ),
    ] = None,
    sift_descriptors: Annotated[
        bool, typer.Option(help="Store descriptors as bytes for COLMAP's own matchers too.")
    ] = False,
    page: Annotated[bool, typer.Option("--page", help="Write an HTML page as well.")] = False,
    device: Device = "auto",
    runtime: Runtime = None,
    seed: Seed = 0,
    num_threads: Annotated[
        int, typer.Option(help="Of the mapper; 1 is repeatable to the bit, -1 takes all cores.")
    ] = 1,
    threads: Threads = None,
    cluster: ClusterName = None,
    workers: Workers = None,
    overwrite: Redo = False,
    strict: Strict = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct a scene: extract, match, verify, map. Writes OUTPUT/report.json."""
    from rekd_hloc.cli.places import describe_places, name_places
    from rekd_hloc.sfm.reconstruct import ReconstructOptions
    from rekd_hloc.sfm.reconstruct import reconstruct as run
    from rekd_hloc.sfm.report import format_report

    name, resolved = resolve_conf(conf, config, settings, max_keypoints, device, runtime)
    options = ReconstructOptions(
        conf=name,
        config=resolved,
        matching=read_match_config(filter_name, ratio, guided=guided),
        pairs=source,
        overlap=overlap,
        codebook=codebook,
        mask_dir=mask_dir,
        mask_frame=mask_frame,
        mapper=mapper,
        camera_model=camera_model,
        camera_mode=camera_mode,
        intrinsics=read_numbers("intrinsics", intrinsics),
        focal_guess=focal_guess,
        ignore_exif=ignore_exif,
        reference=reference,
        device=device,
        seed=seed,
        num_threads=num_threads,
        quantise_descriptors=sift_descriptors,
        refine=refine,
        max_error_px=max_error_px,
    )
    if page:
        from rekd_hloc.viz.page import check_page

        check_page(output, overwrite=overwrite)
    append_log(output / LOG_NAME)
    take_video(video, images, fps)
    with open_maps(cluster, workers, device) as (map_images, map_pairs):
        report = run(
            images, output, options, overwrite=overwrite, progress=not quiet,
            map_images=map_images, map_pairs=map_pairs,
        )  # fmt: skip
    written = None
    if page:
        from rekd_hloc.viz.page import write_html_report

        written = write_html_report(
            output,
            images,
            title=f"{images.name}: {name}",
            reference=reference,
            overwrite=overwrite,
            progress=not quiet,
        )
    places = describe_places(report, written)
    named = {**report, **name_places(report, written)}
    print_result(json_output, named, f"{format_report(report)}\n{places}")
    if report["num_registered"] == 0:
        raise typer.Exit(EXIT_FAILED)
    if strict:
        require_all_photos(report["skipped"], f"skipped in {output / 'report.json'} lists them")


def demo(
    output: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("demo"),
    conf: Conf = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Redo = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct twelve packaged images of known poses.

    The images come from rolled cameras; the report compares the model with the true poses.
    """
    from rekd_hloc.cli.places import describe_places, name_places
    from rekd_hloc.demo import run_demo
    from rekd_hloc.sfm.output_folder import PAGE
    from rekd_hloc.sfm.report import format_report

    name, _ = resolve_conf(conf, None, None, None, device)
    append_log(output / LOG_NAME)
    report = run_demo(
        output, conf=name, device=device, seed=seed, overwrite=overwrite, progress=not quiet
    )
    places = describe_places(report, output / PAGE)
    named = {**report, **name_places(report, output / PAGE)}
    print_result(json_output, named, f"{format_report(report)}\n{places}")
    if report["num_registered"] < report["num_images"]:
        raise typer.Exit(EXIT_FAILED)


def _print_skipped(skipped: dict[str, str]) -> None:
    from rekd_hloc.sfm.skipped import shorten_skipped

    for name, reason in shorten_skipped(skipped, "--json lists all"):
        typer.echo(f"skipped {name}: {reason}", err=True)
