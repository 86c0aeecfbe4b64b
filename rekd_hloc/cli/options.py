"""Options that several commands share, what they stand for, and how a command ends."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekd_hloc.cli.option_values import FILTERS, completes, require_filter
from rekd_hloc.config import (
    PRESETS,
    RECONSTRUCTION_KEYPOINTS,
    RECONSTRUCTION_MATCHING,
    ExtractConfig,
    MatchConfig,
    load_config,
    with_max_keypoints,
)

if TYPE_CHECKING:
    from rekd_hloc.matching.match_images import MapPairs
    from rekd_hloc.sfm.extraction import MapImages

EXIT_FAILED = 1
"""The command ran, but gave nothing: no image was readable, no model came out."""
EXIT_MISTAKE = 2
"""The command could not run as it was asked to."""
EXIT_LEFT_OUT = 3
"""The command was asked to be strict, and finished without some of the photos."""
EXIT_STATUSES = (
    "Exit status: 0 if done, 1 if nothing came out, 2 for a mistake that the message names, "
    "3 with --strict if photos were left out, 130 or 143 if interrupted."
)

Conf = Annotated[
    str | None,
    typer.Option(
        "--conf",
        help="Preset: rekd, rekd-upright, rekd-fast, rekd-lite, rekd-c36 or rekd-paper; or a "
        "folder of Extractor.save_pretrained. Without it, rekd on a GPU and rekd-fast on a CPU.",
        autocompletion=completes(*PRESETS),
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML with what differs from the preset.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, for example detector.border_px=20; may be repeated."),
]
MaxKeypoints = Annotated[
    int | None,
    typer.Option(
        help="Best keypoints kept in an image; "
        f"{RECONSTRUCTION_KEYPOINTS} unless a file or --set says otherwise."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:0, mps or xpu.",
        autocompletion=completes("auto", "cpu", "cuda", "cuda:0", "mps", "xpu"),
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="What computes on a CPU: torch, or the extras onnx or openvino.",
        autocompletion=completes("torch", "onnx", "openvino"),
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Start anew instead of going on with what is there.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="End with status 3 if photos were left out.")
]
Replace = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there, though it is not of rekd-hloc.")
]
Redo = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace results of other options, from the first stage that differs, "
        "and files in OUTPUT that are not of rekd-hloc.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Images = Annotated[Path, typer.Argument(help="Folder of photos, searched with its subfolders.")]
Masks = Annotated[
    Path | None,
    typer.Option("--mask-dir", help="Masks as COLMAP's: NAME.png, zero where to ignore."),
]
MaskFrame = Annotated[
    str,
    typer.Option(
        help="Grid of masks whose photos EXIF rotates: file as for COLMAP, upright as viewers show "
        "the photo, or auto to decide by size and EXIF.",
        autocompletion=completes("auto", "file", "upright"),
    ),
]
Filter = Annotated[
    str,
    typer.Option(
        "--filter",
        help="Filter of matches: density or paper of rotations, consensus of neighbours, network "
        "(learned), none; or adalam, a matcher with its own.",
        autocompletion=completes(*FILTERS),
    ),
]
Ratio = Annotated[
    float | None,
    typer.Option(
        help="Largest ratio of best to second distance; 1 is off. "
        f"Default: {RECONSTRUCTION_MATCHING.ratio}; with adalam and consensus 1."
    ),
]
Guided = Annotated[
    bool,
    typer.Option(
        "--guided/--no-guided",
        help="Add matches that lie where those that passed the filter lead.",
    ),
]
CameraModel = Annotated[str, typer.Option(help="A camera model of COLMAP.")]
CameraMode = Annotated[
    str,
    typer.Option(
        help="Who shares a camera: auto, single, per_folder or per_image.",
        autocompletion=completes("auto", "single", "per_folder", "per_image"),
    ),
]
Intrinsics = Annotated[
    str | None,
    typer.Option(
        help="Parameters of the camera model, with commas between, for one size of images; "
        "they are rotated and scaled to the others."
    ),
]
FocalGuess = Annotated[
    float | None,
    typer.Option(
        metavar="PX|FACTOR",
        help="Focal length to start from, before EXIF's: pixels if above 10, else a factor of the "
        "longer side.",
    ),
]
IgnoreExif = Annotated[
    bool,
    typer.Option("--ignore-exif", help="Start from the default focal length instead of EXIF's."),
]


def _use_threads(count: int | None) -> int | None:
    """Compute on so many cores; called before the command runs, with or without the option."""
    from rekd_hloc.devices import use_threads

    try:
        use_threads(count)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return count


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        callback=_use_threads,
        help="Cores to compute on. Default: those that affinity and a container's quota allow.",
    ),
]
PairsSource = Annotated[
    str,
    typer.Option(
        "--pairs",
        help="exhaustive, sequential:10, retrieval:30 (those that look alike), loops:30, gps:30, "
        "several with + between, auto (exhaustive up to 200 photos, retrieval above), or a file of "
        "image name pairs.",
        autocompletion=completes("auto", "exhaustive", "sequential", "retrieval", "loops", "gps"),
    ),
]
Video = Annotated[
    Path | None,
    typer.Option(help="Take frames of this video into IMAGES first; needs the extra video."),
]
Fps = Annotated[
    float, typer.Option(help="Frames of a video for each second: the sharpest of each span.")
]
Shard = Annotated[
    str | None,
    typer.Option(help="Do one of several equal parts, such as 3/8, into an OUTPUT of its own."),
]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="local|ray[:ADDRESS]|dask:ADDRESS",
        help="Extract and match on many workers: processes of this machine, Ray, or Dask.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Of --cluster. Default: one for each GPU, or for each core with 2 GiB of memory."
    ),
]
Overlap = Annotated[
    int, typer.Option(help="Neighbours of an image in sequential pairs; loops are further apart.")
]
Codebook = Annotated[
    str, typer.Option(help="For retrieval: a file of the command codebook, or the shipped one.")
]
Index = Annotated[
    Path | None,
    typer.Option(help="For retrieval: HDF5 file that keeps the index, to go on with later."),
]


def resolve_conf(
    conf: str | None,
    config: Path | None,
    settings: list[str] | None,
    max_keypoints: int | None,
    device: str,
    runtime: str | None = None,
) -> tuple[str, ExtractConfig]:
    """Return the preset's name, and its options after file, settings and the others, in that order.

    Before them, a preset has the budget of a reconstruction, and a folder its own.

    Raises:
        ValueError, FileNotFoundError: no such preset, device, file or option.
    """
    from rekd_hloc.devices import choose_device
    from rekd_hloc.features.pretrained_folder import read_for_reconstruction

    chosen = choose_device(device)
    name = conf
    if name is None:
        name = "rekd-fast" if chosen.type == "cpu" else "rekd"
        typer.echo(f"conf {name} on {chosen} (choose with --conf)", err=True)
    resolved = load_config(read_for_reconstruction(name), config, settings or [])
    if max_keypoints is not None:
        resolved = with_max_keypoints(resolved, max_keypoints)
    if runtime is not None:
        resolved = load_config(resolved, None, [f"runtime={runtime}"])
    return name, resolved


def read_match_config(filter_name: str, ratio: float | None, *, guided: bool) -> MatchConfig:
    """Return matching options from the command line, by default those of a reconstruction.

    AdaLAM has a ratio test of its own, and consensus and network do better without one.

    Raises:
        ValueError: no such filter, or a ratio out of range.
    """
    require_filter(filter_name)
    has_own_test = filter_name in ("adalam", "consensus", "network")
    defaults = MatchConfig() if has_own_test else RECONSTRUCTION_MATCHING
    ratios = [] if ratio is None else [f"ratio={ratio}"]
    return load_config(defaults, None, [f"filter={filter_name}", f"guided={guided}", *ratios])


def require_all_photos(skipped: Mapping[str, str], full_list: str) -> None:
    """End the command with a status of its own, and one line, if photos were left out.

    Args:
        skipped: the photos, and why.
        full_list: words that say where they are listed.
    """
    if skipped:
        photos = "1 photo was" if len(skipped) == 1 else f"{len(skipped)} photos were"
        typer.echo(f"rekd-hloc: finished, but {photos} left out; {full_list}", err=True)
        raise typer.Exit(EXIT_LEFT_OUT)


def print_result(as_json: bool, record: Any, text: str) -> None:
    """Print a command's result on stdout: the record as JSON for a program, or the text."""
    typer.echo(json.dumps(record, indent=1, default=str) if as_json else text)


@contextmanager
def open_maps(
    cluster: str | None, workers: int | None, device: str
) -> Iterator[tuple["MapImages", "MapPairs"]]:
    """Open what extracts images and matches pairs: a cluster, or this process.

    Raises:
        ValueError: there is no such cluster; or workers are asked for, but none is named.
    """
    if cluster is None:
        if workers is not None:
            raise ValueError(f"--workers {workers} is of --cluster; give --cluster local as well")
        yield map, map
        return
    from rekd_hloc.cluster.cluster import open_cluster

    with open_cluster(cluster, num_workers=workers, device=device) as maps:
        typer.echo(f"{maps.description} of {cluster}", err=True)
        yield maps.map_images, maps.map_pairs
