"""Commands on image pairs and their matches: pairs, match, refine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rekd_hloc.cli.options import (
    EXIT_FAILED,
    ClusterName,
    Codebook,
    Device,
    Filter,
    Guided,
    Images,
    Index,
    Json,
    Overlap,
    Overwrite,
    PairsSource,
    Quiet,
    Ratio,
    Replace,
    Seed,
    Shard,
    Threads,
    Workers,
    open_maps,
    print_result,
    read_match_config,
)
from rekd_hloc.config import OVERLAP, PAIRS, RECONSTRUCTION_MATCHING
from rekd_hloc.names import counted


def pairs(
    images: Images,
    output: Annotated[Path, typer.Argument(help="Text file to write, two names a line.")],
    source: PairsSource = PAIRS,
    overlap: Overlap = OVERLAP,
    features: Annotated[
        Path | None, typer.Option(help="Features of the photos, which retrieval compares.")
    ] = None,
    codebook: Codebook = "default",
    index: Index = None,
    overwrite: Replace = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the image pairs to match.

    With --features, photos without features are left out.
    """
    from rekd_hloc.image_listing import list_images
    from rekd_hloc.matching.pairs import make_pairs, write_pairs

    names = list_images(images)
    if features is not None:
        names = _with_features(names, features)
    chosen = make_pairs(
        names,
        source,
        overlap=overlap,
        image_dir=images,
        features=features,
        codebook=codebook,
        index=index,
        progress=not quiet,
    )
    write_pairs(output, chosen, overwrite=overwrite)
    record = {"num_pairs": len(chosen), "output": str(output)}
    print_result(json_output, record, f"{counted(len(chosen), 'pair')} in {output}")


def match(
    features: Annotated[Path, typer.Argument(help="Features of rekd-hloc or of hloc.")],
    output: Annotated[Path, typer.Argument(help="HDF5 file to write or to go on with.")],
    source: PairsSource = PAIRS,
    overlap: Overlap = OVERLAP,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos, for pairs by gps.")
    ] = None,
    codebook: Codebook = "default",
    index: Index = None,
    filter_name: Filter = RECONSTRUCTION_MATCHING.filter,
    ratio: Ratio = None,
    guided: Guided = RECONSTRUCTION_MATCHING.guided,
    device: Device = "auto",
    threads: Threads = None,
    shard: Shard = None,
    cluster: ClusterName = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Match features, and keep what agrees on one rotation."""
    from rekd_hloc.matching.match import describe_fallback
    from rekd_hloc.matching.match_images import match_images
    from rekd_hloc.matching.pairs import make_pairs, needs_features, settle_source
    from rekd_hloc.shards import take_shard
    from rekd_hloc.storage.features import FeatureStore

    with FeatureStore(features) as store:
        names = store.names()
    source = str(settle_source(source, len(names)))
    if shard is not None and needs_features(source):
        raise ValueError(
            f"each shard would do all of --pairs {source} again; write the pairs once by rekd-hloc "
            "pairs, and give that file as --pairs"
        )
    image_pairs = make_pairs(
        names,
        source,
        overlap=overlap,
        image_dir=images,
        features=features,
        codebook=codebook,
        index=index,
        progress=not quiet,
    )
    with open_maps(cluster, workers, device) as (_, map_pairs):
        summary = match_images(
            features,
            output,
            take_shard(image_pairs, shard),
            read_match_config(filter_name, ratio, guided=guided),
            overwrite=overwrite,
            device=device if cluster is None else "cpu",
            progress=not quiet,
            map_pairs=map_pairs,
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
    for pair, reason in summary.failed.items():
        typer.echo(f"not matched {pair[0]} and {pair[1]}: {reason}", err=True)
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


def codebook(
    features: Annotated[Path, typer.Argument(help="Features of photos to learn from.")],
    output: Annotated[Path, typer.Argument(help="Codebook to write, a safetensors file.")],
    cells: Annotated[int, typer.Option(help="Cells of the coarse level.")] = 128,
    words: Annotated[int, typer.Option(help="Words of each cell.")] = 64,
    seed: Seed = 0,
    overwrite: Replace = False,
    json_output: Json = False,
) -> None:
    """Train the words by which retrieval compares photos.

    Another descriptor needs words of its own; the shipped ones are of the shipped descriptor.
    """
    from rekd_hloc.ownership import SAFETENSORS, refuse_foreign
    from rekd_hloc.retrieval.codebook import save_codebook, train_codebook
    from rekd_hloc.retrieval.sampling import sample_descriptors

    refuse_foreign(output, SAFETENSORS, overwrite=overwrite)
    sample = sample_descriptors([features], seed=seed)
    made = train_codebook(
        sample.descriptors,
        num_cells=cells,
        words_per_cell=words,
        seed=seed,
        descriptor=sample.descriptor,
    )
    save_codebook(output, made, {"num_images": sample.num_images, "seed": seed})
    record = {"num_words": len(made), "num_images": sample.num_images, "output": str(output)}
    text = f"{len(made)} words of {len(sample.descriptors)} descriptors of "
    print_result(json_output, record, f"{text}{sample.num_images} images in {output}")


def _with_features(names: list[str], features: Path) -> list[str]:
    from rekd_hloc.names import list_names
    from rekd_hloc.storage.features import FeatureStore

    with FeatureStore(features) as store:
        described = set(store.names())
    lacking = [name for name in names if name not in described]
    if lacking:
        typer.echo(f"not in {features}, so without pairs: {list_names(lacking)}", err=True)
    return [name for name in names if name in described]


def _count_matches(num_matches: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "num_pairs": len(num_matches),
        "num_matches": sum(num_matches.values()),
        "pairs": [[a, b, count] for (a, b), count in num_matches.items()],
    }
