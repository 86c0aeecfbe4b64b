"""The command that finds new images in a model: localize."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rekd_hloc.cli.options import (
    EXIT_FAILED,
    Conf,
    Config,
    Device,
    Filter,
    Json,
    MaxKeypoints,
    Quiet,
    Ratio,
    Replace,
    Seed,
    Settings,
    print_result,
    read_match_config,
    resolve_conf,
)
from rekd_hloc.config import reconstruction_preset

REPORT, POSES = "localization.json", "poses.txt"


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
    filter_name: Filter = "density",
    ratio: Ratio = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Replace = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find where new photos were taken in a model.

    The conf must be the one that the model's features were made with. hloc's models will do.
    """
    from rekd_hloc.exports.model_folder import find_model
    from rekd_hloc.features.extractor import Extractor
    from rekd_hloc.locks import hold_folder
    from rekd_hloc.ownership import TEXT, MadeFiles
    from rekd_hloc.sfm.localize_images import QUERIES, localize_images
    from rekd_hloc.sfm.output_folder import FEATURES

    source, home = find_model(model)
    path = features or home / FEATURES
    if not path.is_file():
        raise FileNotFoundError(f"no features {path}; name those of the model with --features")
    name, resolved = resolve_conf(
        conf, config, settings, max_keypoints, device, preset=reconstruction_preset
    )
    extractor = Extractor.from_pretrained(name, device=device, config=resolved)
    _refuse_other_weights(path, extractor.provenance)
    made = MadeFiles(output)
    for file in (POSES, REPORT):
        made.refuse_foreign(file, TEXT, overwrite=overwrite)
    with hold_folder(output):
        made = MadeFiles(output)
        found = localize_images(
            extractor,
            queries,
            source,
            path,
            output / QUERIES,
            matching=read_match_config(filter_name, ratio),
            seed=seed,
            overwrite=overwrite,
            progress=not quiet,
        )
        _write_poses(found.poses, made)
    for skipped, reason in found.skipped.items():
        typer.echo(f"skipped {skipped}: {reason}", err=True)
    record = {query: pose.to_json() if pose else None for query, pose in found.poses.items()}
    lines = [_describe(query, pose) for query, pose in found.poses.items()]
    print_result(json_output, record, "\n".join([*lines, f"poses         {output / POSES}"]))
    if not any(found.poses.values()):
        raise typer.Exit(EXIT_FAILED)


def _refuse_other_weights(path: Path, made_with: dict[str, str]) -> None:
    """Refuse a map of other descriptors; files of hloc do not say, and are taken."""
    from rekd_hloc.storage.features import FeatureStore

    with FeatureStore(path) as store:
        stored = store.provenance
    for part in ("detector_weights", "descriptor_weights"):
        if stored.get(part, made_with[part]) != made_with[part]:
            raise ValueError(
                f"{path} was made with {stored.get('preset', 'another conf')}, not with "
                f"{made_with.get('preset')}: {part} {stored[part]}, here {made_with[part]}; "
                "choose its conf with --conf"
            )


def _write_poses(poses: Any, made: Any) -> None:
    """Write those that were found as hloc does, and all with what they rest on."""
    from rekd_hloc.files import encode_json

    lines = []
    for name, found in poses.items():
        if found is not None:
            record = found.to_json()
            lines.append(" ".join([name, *map(repr, record["qvec_wxyz"] + record["tvec"])]))
    made.write(POSES, "".join(f"{line}\n" for line in lines).encode())
    record = {name: found.to_json() if found else None for name, found in poses.items()}
    made.write(REPORT, encode_json(record).encode())


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
