"""Recipe: find the cameras of new images in a model, with hloc.

``python -m pipelines.localize QUERIES MAP OUT --conf rekd``, where MAP is a folder that
``pipelines.sfm`` or ``rekd-hloc reconstruct`` has written: its features.h5 and sparse/0 are used.
Copy it and change what you need; ``run`` reads from top to bottom.
"""

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np  # noqa: F401  (before pycolmap, see rekd_hloc.sfm.pycolmap_compat)
import pycolmap

from evaluation.command_line import exit_status, make_parser
from rekd_hloc import plugin
from rekd_hloc.image_listing import list_images
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction


def run(
    queries: Path,
    map_dir: Path,
    out: Path,
    *,
    conf: str = "rekd",
    matcher: str = "NN-rekd",
    retrieval: Path | None = None,
) -> dict[str, int]:
    """Localise images; writes their poses to OUT/poses.txt (name, qw qx qy qz, tx ty tz).

    Args:
        queries: folder of new images, whose names are not those of the map's.
        map_dir: with the features and the model of the map.
        out: folder to write; what is there already is made anew.
        conf: hloc's name of the features; the same that the map was made with.
        matcher: hloc's name of the matcher.
        retrieval: pairs file, a query and a map image on each line; all with all when None.

    Returns:
        For each query, how many matches agree with its pose; 0 if none was found, and then the
        file has the pose of the first map image for it.

    Raises:
        ImportError: hloc is not installed.
        FileNotFoundError: there is no such folder, or no model in the map's.
        ValueError: a query has the name of an image of the map, or hloc has no such conf.
    """
    plugin.register()
    from hloc import extract_features, localize_sfm, match_features, pairs_from_exhaustive

    model = read_reconstruction(map_dir / "sparse" / "0")
    names, mapped = list_images(queries), sorted(i.name for i in model.images.values())
    if shared := sorted(set(names) & set(mapped)):
        raise ValueError(f"{shared[0]!r} is a query and an image of the map; rename the query")

    features = extract_features.main(
        plugin.pick(extract_features.confs, conf),
        queries,
        feature_path=out / "queries.h5",
        overwrite=True,
    )

    pairs = retrieval or out / "pairs.txt"
    if retrieval is None:
        pairs_from_exhaustive.main(pairs, image_list=names, ref_list=mapped)

    matches = match_features.main(
        plugin.pick(match_features.confs, matcher),
        pairs,
        features,
        matches=out / "matches.h5",
        features_ref=map_dir / "features.h5",
        overwrite=True,
    )

    # Focal length from EXIF, or 1.2 times the longer side. Write your own file if you know better.
    cameras = out / "queries.txt"
    cameras.write_text("".join(camera_line(queries, name) for name in names))

    localize_sfm.main(model, cameras, pairs, features, matches, out / "poses.txt")
    return count_inliers(out / "poses.txt_logs.pkl")


def camera_line(folder: Path, name: str) -> str:
    """A query and its camera as hloc reads them."""
    camera = pycolmap.infer_camera_from_image(str(folder / name))
    values = [camera.model.name, camera.width, camera.height, *camera.params]
    return " ".join(map(str, [name, *values])) + "\n"


def count_inliers(log: Path) -> dict[str, int]:
    """Matches that agree with the pose of each query, from the log that hloc has just written."""
    with log.open("rb") as file:
        queries = pickle.load(file)["loc"]
    poses = {name: entry["PnP_ret"] for name, entry in queries.items()}
    return {name: int(pose["num_inliers"]) if pose else 0 for name, pose in poses.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 if no image was localised, 2 for a mistake that the log names."""
    parser = make_parser("pipelines.localize", __doc__)
    parser.add_argument("queries", type=Path)
    parser.add_argument("map_dir", type=Path, metavar="map")
    parser.add_argument("out", type=Path)
    parser.add_argument("--conf", default="rekd", help="hloc's name of the features")
    parser.add_argument("--matcher", default="NN-rekd", help="hloc's name of the matcher")
    parser.add_argument("--retrieval", type=Path, help="pairs file: query and map image")
    options = vars(parser.parse_args(argv))

    def work() -> int:
        inliers = run(**options)
        for name, count in inliers.items():
            sys.stdout.write(f"{name}: {count} inliers\n" if count else f"{name}: not found\n")
        return 0 if any(inliers.values()) else 1

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
