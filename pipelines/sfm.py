"""Recipe: images in, COLMAP model out, with hloc where it is installed.

``python -m pipelines.sfm IMAGES OUT --conf rekd-n4096 --matcher NN-rekd-ratio.95``. Copy it and
change what you need; ``run`` reads from top to bottom. Without hloc the same files and model come
from this package alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.command_line import exit_status, make_parser
from rekd_hloc import plugin
from rekd_hloc.image_listing import list_images
from rekd_hloc.sfm.mapping_options import MappingOptions
from rekd_hloc.sfm.output_folder import REFINED_FEATURES, OutputFolder
from rekd_hloc.sfm.reconstruct import reconstruct, reconstruct_from_files
from rekd_hloc.sfm.refined_features import RefineOptions, refine_features
from rekd_hloc.sfm.report import format_report


def run(
    images: Path,
    out: Path,
    *,
    conf: str = "rekd-n4096",
    matcher: str = "NN-rekd-ratio.95",
    refine: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Reconstruct a folder of images by hloc.

    Args:
        images: folder, also with subfolders; names without spaces.
        out: folder for features.h5, pairs.txt, matches.h5, database.db, sparse/ and report.json.
        conf: hloc's name of the features.
        matcher: hloc's name of the matcher.
        refine: align the keypoints of verified matches to one another, for any extractor; then
            database and model are made of features-refined.h5.
        seed: of verification and mapping.
        overwrite: extract and match anew, and replace what others made in ``out``. hloc goes on
            with files it finds there, even if they were made with another conf.

    Returns:
        What is in report.json.

    Raises:
        FileNotFoundError: there is no such folder of images.
        ValueError: it holds no image, or hloc has no such conf.
        FileExistsError: ``out`` holds files that others made.
        ImportError: hloc is not installed.
    """
    plugin.register()
    from hloc import extract_features, match_features, pairs_from_exhaustive
    from hloc.utils.io import list_h5_names

    names = list_images(images)
    folder = OutputFolder(out, overwrite=overwrite)
    folder.refuse_foreign()  # a project of someone else stays as it is

    # The list of names is given: by itself hloc finds .jpg, .jpeg and .png only.
    extraction = plugin.pick(extract_features.confs, conf)
    features = extract_features.main(
        extraction,
        images,
        image_list=names,
        feature_path=out / "features.h5",
        overwrite=overwrite,
    )

    # Every image with every other: right for two hundred. For more, by retrieval without hloc:
    # write_pairs(pairs, make_pairs(names, "retrieval:20", features=features)) of matching.pairs.
    pairs = out / "pairs.txt"
    pairs_from_exhaustive.main(pairs, image_list=sorted(list_h5_names(features)))
    folder.made.add(pairs.name, pairs)

    matches = match_features.main(
        plugin.pick(match_features.confs, matcher),
        pairs,
        features,
        matches=out / "matches.h5",
        overwrite=overwrite,
    )

    if refine:
        # hloc's files do not say whose scales they hold.
        scales = "rekd" if extraction["model"]["name"] == "rekd" else "auto"
        refined = out / REFINED_FEATURES
        refine_features(
            features,
            matches,
            images,
            refined,
            pairs=pairs,
            options=RefineOptions(seed=seed, scales=scales),
            redo=True,
            overwrite=overwrite,
            device="auto",
            progress=True,
        )
        features = refined

    # hloc.reconstruction.main(out, images, pairs, features, matches) does the same, but draws
    # other random numbers each time, and keeps neither scale nor angle of the keypoints.
    return reconstruct_from_files(
        features,
        matches,
        pairs,
        images,
        out,
        options=MappingOptions(seed=seed),
        overwrite=overwrite,
    )


def run_without_hloc(
    images: Path,
    out: Path,
    *,
    conf: str = "rekd",
    refine: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The same with this package alone; ``conf`` is one of its presets, with 4,096 keypoints."""
    return reconstruct(
        images, out, conf=conf, refine=refine, seed=seed, overwrite=overwrite, progress=True
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 if no model came out, 2 for a mistake that the log names."""
    parser = make_parser("pipelines.sfm", __doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--conf", help="hloc's name of the features (default rekd-n4096); without hloc a preset"
    )
    parser.add_argument("--matcher", default="NN-rekd-ratio.95", help="hloc's name of the matcher")
    parser.add_argument(
        "--refine", action="store_true", help="align verified keypoints to one another"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="extract and match anew")
    options = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}

    def work() -> int:
        if plugin.hloc_is_importable():
            report = run(**options)
        else:
            options.pop("matcher")
            report = run_without_hloc(**options)
        sys.stdout.write(format_report(report) + "\n")
        return 0 if report["num_registered"] else 1

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
