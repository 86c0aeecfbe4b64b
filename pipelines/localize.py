"""Recipe: find the cameras of new images in a model, with hloc's features and matches.

``python -m pipelines.localize QUERIES MAP OUT --conf rekd``, where MAP is a folder that
``pipelines.sfm`` or ``rekd-hloc reconstruct`` has written: its features.h5 and sparse/0 are used.
Copy it and change what you need; ``run`` reads from top to bottom.
"""

import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.command_line import exit_status, make_parser
from rekd_hloc import plugin
from rekd_hloc.files import write_json, write_text
from rekd_hloc.image_listing import list_images
from rekd_hloc.ownership import HDF5, TEXT, MadeFiles, refuse_foreign
from rekd_hloc.sfm.localization import Localization, collect_points, localize
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction
from rekd_hloc.sfm.query_camera import choose_camera, read_exif_camera
from rekd_hloc.storage.features import FeatureStore, MatchStore

logger = logging.getLogger(__name__)

Poses = dict[str, Localization | None]

REPORT = "localization.json"
OUTPUTS = {
    "queries.h5": HDF5,
    "matches.h5": HDF5,
    "pairs.txt": TEXT,
    "poses.txt": TEXT,
    REPORT: TEXT,
}
"""What is written into OUT, and of which kind."""


def run(
    queries: Path,
    map_dir: Path,
    out: Path,
    *,
    conf: str = "rekd",
    matcher: str = "NN-rekd",
    retrieval: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Poses:
    """Localise images; writes their poses to OUT/poses.txt (name, qw qx qy qz, tx ty tz).

    ``OUT/localization.json`` has more of each: the camera and where it comes from, inliers and
    their spread, standard deviations of the pose, and warnings.

    Args:
        queries: folder of new images, whose names are not those of the map's.
        map_dir: with the features and the model of the map.
        out: folder to write; what an earlier run left there is made anew.
        conf: hloc's name of the features; the same that the map was made with.
        matcher: hloc's name of the matcher.
        retrieval: pairs file, a query and a map image on each line; all with all when None.
        seed: of RANSAC.
        overwrite: replace files in ``out`` that others made.

    Returns:
        The pose of each query, None where none was found.

    Raises:
        ImportError: hloc is not installed.
        FileNotFoundError: there is no such folder, or no model in the map's.
        ValueError: a query has the name of an image of the map, or hloc has no such conf.
        FileExistsError: ``out`` holds files of these names that others made.
    """
    plugin.register()
    from hloc import extract_features, match_features

    model = read_reconstruction(map_dir / "sparse" / "0")
    mapped = sorted(model.images[i].name for i in model.reg_image_ids())
    names = list_readable(queries)
    if shared := sorted(set(names) & set(mapped)):
        raise ValueError(f"{shared[0]!r} is a query and an image of the map; rename the query")
    pairs = read_retrieval(retrieval, names, mapped) if retrieval else dict.fromkeys(names, mapped)

    claim_folder(out, overwrite=overwrite)
    # The list of names is given: by itself hloc finds .jpg, .jpeg and .png only.
    features = extract_features.main(
        plugin.pick(extract_features.confs, conf),
        queries,
        image_list=names,
        feature_path=out / "queries.h5",
        overwrite=True,
    )

    # hloc waits for ever if a matcher meets an image without features, so they are checked first.
    require_features(features, names)
    require_features(
        map_dir / "features.h5", sorted({name for to in pairs.values() for name in to})
    )
    write_text(
        out / "pairs.txt", "".join(f"{q} {name}\n" for q, to in pairs.items() for name in to)
    )
    matches = match_features.main(
        plugin.pick(match_features.confs, matcher),
        out / "pairs.txt",
        features,
        matches=out / "matches.h5",
        features_ref=map_dir / "features.h5",
        overwrite=True,
    )

    poses: Poses = {}
    with FeatureStore(features) as feature_store, MatchStore(matches) as match_store:
        for name, to in pairs.items():
            size = feature_store.read(name).image_size
            # The map's camera, EXIF's, or an estimated one. Use your own if you know better.
            camera = choose_camera(model, size, read_exif_camera(queries / name, size))
            xy, points = collect_points(model, name, to, feature_store, match_store)
            poses[name] = localize(model, camera, xy, points, seed=seed)
    write_poses(poses, out)
    return poses


def claim_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse to write among files of others, as the map's are; else note that it is ours."""
    made = MadeFiles(out)
    is_ours = REPORT in made.names()
    for name, kind in OUTPUTS.items():
        refuse_foreign(out / name, kind, overwrite=overwrite, is_ours=is_ours)
    made.add(REPORT, b"")


def list_readable(queries: Path) -> list[str]:
    """Names of the queries that hloc can read; each other one is warned of.

    Raises:
        ValueError: there is none, or a name has a space.
    """
    from hloc.utils.io import read_image

    names = []
    for name in list_images(queries):
        if any(letter.isspace() for letter in name):
            raise ValueError(f"{name!r} has a space, which hloc's files cannot hold; rename it")
        try:
            read_image(queries / name)
        except ValueError:
            logger.warning("%s is skipped: OpenCV cannot read it; save it as PNG or JPEG", name)
        else:
            names.append(name)
    if not names:
        raise ValueError(f"no image in {queries} can be read")
    return names


def read_retrieval(
    path: Path, names: Sequence[str], mapped: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Map images to match each query with, from a pairs file.

    Raises:
        ValueError: a line names something else than a query and an image of the map.
    """
    pairs: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2 or words[0] not in names or words[1] not in mapped:
            raise ValueError(
                f"{path}:{number} is no query and image of the map: {line!r}; the map's images are "
                "those that are registered in sparse/0"
            )
        pairs[words[0]].append(words[1])
    return dict(pairs)


def require_features(path: Path, names: Sequence[str]) -> None:
    """Refuse a file that lacks features of an image.

    Raises:
        ValueError: it does.
    """
    with FeatureStore(path) as store:
        missing = sorted(set(names) - set(store.names()))
    if missing:
        raise ValueError(f"{path} has no features of {missing[0]!r}; extract them first")


def write_poses(poses: Mapping[str, Localization | None], out: Path) -> None:
    """Write poses.txt with the images that were found, and localization.json with all."""
    lines = []
    for name, found in poses.items():
        if found is not None:
            record = found.to_json()
            lines.append(" ".join([name, *map(repr, record["qvec_wxyz"] + record["tvec"])]))
    write_text(out / "poses.txt", "".join(f"{line}\n" for line in lines))
    write_json(
        out / REPORT,
        {name: found.to_json() if found else None for name, found in poses.items()},
        kept_in=out,
    )


def describe(name: str, found: Localization | None) -> str:
    """One line about a query for a person."""
    if found is None:
        return f"{name}: not found"
    line = (
        f"{name}: {found.num_inliers} inliers of {found.num_matches}, "
        f"focal length {found.camera.mean_focal_length():.0f} px ({found.source}), "
        f"position +- {found.position_std_rel:.2%} of the extent, "
        f"orientation +- {found.rotation_std_deg:.2f} degrees"
    )
    return f"{line}; UNRELIABLE: {'; '.join(found.warnings)}" if found.warnings else line


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 if no image was localised, 2 for a mistake that the log names."""
    parser = make_parser("pipelines.localize", __doc__)
    parser.add_argument("queries", type=Path)
    parser.add_argument("map_dir", type=Path, metavar="map")
    parser.add_argument("out", type=Path)
    parser.add_argument("--conf", default="rekd", help="hloc's name of the features")
    parser.add_argument("--matcher", default="NN-rekd", help="hloc's name of the matcher")
    parser.add_argument("--retrieval", type=Path, help="pairs file: query and map image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace what others made in OUT")
    options = vars(parser.parse_args(argv))

    def work() -> int:
        poses = run(**options)
        sys.stdout.write("".join(f"{describe(*item)}\n" for item in poses.items()))
        return 0 if any(poses.values()) else 1

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
