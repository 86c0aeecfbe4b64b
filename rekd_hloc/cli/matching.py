"""Commands on image pairs and their matches: pairs, match, refine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rekd_hloc.cli.options import (
    EXIT_FAILED,
    Device,
    Filter,
    Images,
    Json,
    Overlap,
    Overwrite,
    PairsSource,
    Quiet,
    Ratio,
    Replace,
    Seed,
    Threads,
    print_result,
    read_match_config,
)
from rekd_hloc.names import counted


def pairs(
    images: Images,
    output: Annotated[Path, typer.Argument(help="Text file to write, two names a line.")],
    source: PairsSource = "exhaustive",
    overlap: Overlap = 10,
    overwrite: Replace = False,
    json_output: Json = False,
) -> None:
    """List the image pairs to match."""
    from rekd_hloc.image_listing import list_images
    from rekd_hloc.matching.pairs import make_pairs, write_pairs

    names = make_pairs(list_images(images), source, overlap=overlap)
    write_pairs(output, names, overwrite=overwrite)
    record = {"num_pairs": len(names), "output": str(output)}
    print_result(json_output, record, f"{counted(len(names), 'pair')} in {output}")


def match(
    features: Annotated[Path, typer.Argument(help="Features of rekd-hloc or of hloc.")],
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    source: PairsSource = "exhaustive",
    overlap: Overlap = 10,
    filter_name: Filter = "density",
    ratio: Ratio = None,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Match features, and keep what agrees on one rotation."""
    from rekd_hloc.matching.match import describe_fallback
    from rekd_hloc.matching.match_images import match_images
    from rekd_hloc.matching.pairs import make_pairs
    from rekd_hloc.storage.features import FeatureStore

    with FeatureStore(features) as store:
        image_pairs = make_pairs(store.names(), source, overlap=overlap)
    summary = match_images(
        features,
        output,
        image_pairs,
        read_match_config(filter_name, ratio),
        overwrite=overwrite,
        device=device,
        progress=not quiet,
    )
    record = {
        **_count_matches(summary.num_matches),
        "num_resumed": summary.num_resumed,
        **summary.notes,
        "seconds": summary.seconds,
        "output": str(output),
    }
    again = f", {summary.num_rematched} of images that changed since were matched again"
    text = (
        f"{counted(record['num_matches'], 'match', 'matches')} of "
        f"{counted(record['num_pairs'], 'pair')} in {output} "
        f"({summary.num_resumed} were there already{again if summary.num_rematched else ''}), "
        f"{summary.seconds:.1f} s"
    )
    fallback = describe_fallback(summary.num_fallback, len(summary.num_matches))
    print_result(json_output, record, "\n".join(filter(None, [text, fallback])))


def refine(
    features: Annotated[Path, typer.Argument(help="Features of rekd-hloc or of hloc.")],
    matches: Annotated[Path, typer.Argument(help="Matches of these features.")],
    images: Images,
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    source: Annotated[
        Path | None,
        typer.Option("--pairs", help="File of the pairs to use; default is all in MATCHES."),
    ] = None,
    scales: Annotated[
        str,
        typer.Option(
            help="What the features' scales are: rekd as of this program's confs, sigma as of "
            "SIFT, or auto: sigma unless this program wrote the file."
        ),
    ] = "auto",
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Align matched keypoints to hundredths of a pixel.

    OUTPUT is a copy of the features file with better positions; the same matches belong to it.
    """
    from dataclasses import asdict

    from rekd_hloc.sfm.refined_features import RefineOptions, refine_features
    from rekd_hloc.sfm.refinement_summary import describe_refinement
    from rekd_hloc.sfm.skipped import shorten_skipped

    summary = refine_features(
        features,
        matches,
        images,
        output,
        pairs=source,
        options=RefineOptions(seed=seed, scales=scales),
        overwrite=overwrite,
        device=device,
        progress=not quiet,
    )
    for name, reason in shorten_skipped(summary.skipped, "--json lists all"):
        typer.echo(f"not refined {name}: {reason}", err=True)
    print_result(
        json_output,
        {**asdict(summary), "output": str(output)},
        describe_refinement(summary, output),
    )
    if not summary.names:
        raise typer.Exit(EXIT_FAILED)


def _count_matches(num_matches: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "num_pairs": len(num_matches),
        "num_matches": sum(num_matches.values()),
        "pairs": [[a, b, count] for (a, b), count in num_matches.items()],
    }
