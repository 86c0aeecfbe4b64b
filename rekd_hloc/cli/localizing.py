"""The command that finds new images in a model: localize."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rekd_hloc.cli.options import (
    EXIT_FAILED,
    Conf,
    Config,
    Device,
    Filter,
    Guided,
    Json,
    MaxKeypoints,
    Quiet,
    Ratio,
    Replace,
    Runtime,
    Seed,
    Settings,
    Threads,
    print_result,
    read_match_config,
    resolve_conf,
)
from rekd_hloc.config import RECONSTRUCTION_MATCHING

REPORT, POSES = "localization.json", "poses.txt"
WEIGHTS = {"detector_weights": "weights", "descriptor_weights": "descriptor.weights"}
"""What features record of their weights, and the options that name them."""


def localize(
    queries: Annotated[Path, typer.Argument(help="Folder of new photos.")],
    model: Annotated[Path, typer.Argument(help="Output of reconstruct, or a COLMAP model.")],
    output: Annotated[Path, typer.Argument(help="Folder for poses.txt and localization.json.")],
    features: Annotated[
        Path | None,
        typer.Option(help="Features of the model's photos; by default features.h5 beside sparse."),
    ] = None,
    conf: Conf = None,
    config: Config = None,
    settings: Settings = None,
    max_keypoints: MaxKeypoints = None,
    filter_name: Filter = RECONSTRUCTION_MATCHING.filter,
    ratio: Ratio = None,
    guided: Guided = RECONSTRUCTION_MATCHING.guided,
    device: Device = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Replace = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find where new photos were taken in a model.

    Without --conf, it is the one that the model's features were made with. hloc's models will do.
    """
    from rekd_hloc.exports.model_folder import find_model
    from rekd_hloc.features.extractor import Extractor
    from rekd_hloc.features.pretrained_folder import is_preset
    from rekd_hloc.files import encode_json
    from rekd_hloc.locks import hold_folder
    from rekd_hloc.ownership import TEXT, MadeFiles
    from rekd_hloc.sfm.localize_images import QUERIES, localize_images
    from rekd_hloc.sfm.output_folder import FEATURES
    from rekd_hloc.storage.features import FeatureStore

    source, home = find_model(model)
    path = features or home / FEATURES
    if not path.is_file():
        raise FileNotFoundError(f"no features {path}; name those of the model with --features")
    with FeatureStore(path) as store:
        stored = store.provenance
    if conf is None and is_preset(stored.get("preset", "")):
        conf = stored["preset"]
    name, resolved = resolve_conf(conf, config, settings, max_keypoints, device, runtime)
    extractor = Extractor.from_pretrained(name, device=device, config=resolved)
    _refuse_other_weights(path, stored, extractor.provenance)
    for file in (POSES, REPORT):
        MadeFiles(output).refuse_foreign(file, TEXT, overwrite=overwrite)
    with hold_folder(output):
        found = localize_images(
            extractor,
            queries,
            source,
            path,
            output / QUERIES,
            matching=read_match_config(filter_name, ratio, guided=guided),
            seed=seed,
            overwrite=overwrite,
            progress=not quiet,
        )
        record = {name: pose.to_json() if pose else None for name, pose in found.poses.items()}
        made = MadeFiles(output)
        made.write(POSES, found.format_poses().encode())
        made.write(REPORT, encode_json(record).encode())
    for skipped, reason in found.skipped.items():
        typer.echo(f"skipped {skipped}: {reason}", err=True)
    lines = [_describe(query, pose) for query, pose in found.poses.items()]
    print_result(json_output, record, "\n".join([*lines, f"poses         {output / POSES}"]))
    if not any(found.poses.values()):
        raise typer.Exit(EXIT_FAILED)


def _refuse_other_weights(
    path: Path, stored: Mapping[str, str], made_with: Mapping[str, str]
) -> None:
    """Refuse a map of other weights; files of hloc do not say, and are taken."""
    for part, option in WEIGHTS.items():
        if (there := stored.get(part, made_with[part])) != made_with[part]:
            raise ValueError(
                f"{path} was made with {part} {there}, conf {made_with.get('preset')} has "
                f"{made_with[part]}; {_remedy(option, there)}, choose the conf it was made with "
                "(--conf), or make it anew"
            )


def _remedy(option: str, digest: str) -> str:
    """Return what names weights of that hash, where they ship."""
    from rekd_hloc.weight_files import shipped_with_hash

    name = shipped_with_hash(digest)
    return f"take --set {option}={name or 'FILE'}"


def _describe(name: str, found: Any) -> str:
    if found is None:
        return f"{name}: not found"
    line = (
        f"{name}: {found.num_inliers} inliers of {found.num_matches}, focal length "
        f"{found.camera.mean_focal_length():.0f} px ({found.source}), position +- "
        f"{found.position_std_rel:.2%} of the extent, orientation +- "
        f"{found.rotation_std_deg:.2f} degrees"
    )
    return f"{line}; UNRELIABLE: {'; '.join(found.warnings)}" if found.warnings else line
