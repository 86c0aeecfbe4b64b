"""Does a method survive rotation? ``python -m evaluation.rotation --data FOLDER --method rekd``.

Every image is turned by 0..350 degrees about its centre, on a canvas of the size of its inscribed
circle's square so that no border comes into view: the upright crop and the turned crop show the
same disc. For each angle: keypoints found again within 1.5 px, their angle's error, and matches.
"""

import argparse
import json
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluation.baselines import Method, load_method
from evaluation.metrics import match_errors, orientation_errors
from evaluation.photos import is_validation
from rekd_hloc.geometry import rotation_about, warp_points
from rekd_hloc.images import list_images, read_color
from rekd_hloc.matching.nearest import match_nearest
from rekd_hloc.types import Features

logger = logging.getLogger(__name__)

FOUND_PX = 1.5
ANGLE_TOLERANCE_DEG = 15.0
DISC_MARGIN_PX = 16


@dataclass(frozen=True)
class AngleResult:
    """Figures at one rotation, over all images."""

    angle_deg: float
    refound: float
    """Share of keypoints inside the common disc that are found again within 1.5 px."""
    angle_accuracy: float
    """Share of those found again whose angle is right within 15 degrees."""
    angle_median_deg: float
    mma_3px: float
    """Mean over images of the share of mutual nearest neighbours within 3 px."""
    num_matches: float


def turn_image(
    image: NDArray[np.uint8], angle: float, side: int
) -> tuple[NDArray[np.uint8], Float[Tensor, "3 3"]]:
    """The central square of an image turned by a house angle, and turned_from_upright.

    Both squares have the given side; the upright one is the turn by zero.
    """
    height, width = image.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    shift = np.eye(3)
    shift[:2, 2] = (side - 1) / 2 - np.array(centre)
    square_from_image = shift @ rotation_about(angle, centre).numpy()
    turned = cv2.warpAffine(
        image,
        square_from_image[:2],
        (side, side),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    turned_from_upright = square_from_image @ np.linalg.inv(shift)
    return np.asarray(turned, dtype=np.uint8), torch.from_numpy(turned_from_upright)


def evaluate_angle(
    pairs: Sequence[tuple[Features, Features, Float[Tensor, "3 3"]]], angle_deg: float
) -> AngleResult:
    """Figures over all images at one angle, from the features of upright and turned squares."""
    seen, errors, accuracy, counts = 0, [], [], []
    for upright, turned, turned_from_upright in pairs:
        side = upright.image_size[0]
        keypoints = upright.keypoints[_in_disc(upright.keypoints.xy, side)]
        warped = warp_points(turned_from_upright, keypoints.xy)
        seen += len(keypoints)
        if len(keypoints) and len(turned):
            distance, nearest = torch.cdist(warped, turned.keypoints.xy).min(dim=1)
            found = distance <= FOUND_PX
            error = orientation_errors(
                keypoints.xy[found],
                keypoints.angle[found],
                turned.keypoints.angle[nearest[found]],
                turned_from_upright,
            )
            errors.append(error.rad2deg())
        matches = match_nearest(upright.descriptors, turned.descriptors)
        inside = _in_disc(upright.keypoints.xy, side)[matches.index[:, 0]]
        wrong_by = match_errors(
            upright.keypoints.xy, turned.keypoints.xy, matches.index[inside], turned_from_upright
        )
        accuracy.append(float((wrong_by <= 3).float().mean()) if len(wrong_by) else 0.0)
        counts.append(len(wrong_by))
    error = torch.cat(errors) if errors else torch.zeros(0)
    return AngleResult(
        angle_deg=angle_deg,
        refound=len(error) / max(seen, 1),
        angle_accuracy=float((error <= ANGLE_TOLERANCE_DEG).float().mean()) if len(error) else 0.0,
        angle_median_deg=float(error.median()) if len(error) else 180.0,
        mma_3px=float(np.mean(accuracy)),
        num_matches=float(np.mean(counts)),
    )


def evaluate(method: Method, paths: Sequence[Path], step_deg: float) -> list[AngleResult]:
    """Run a method over all images and angles."""
    angles = np.arange(0, 360, step_deg)
    gathered: dict[float, list[tuple[Features, Features, Tensor]]] = {a: [] for a in angles}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "turned.png"
        for path in tqdm(paths, unit="image", disable=None):
            image = read_color(path)
            side = min(image.shape[:2])
            upright: Features | None = None
            for angle in angles:
                turned, matrix = turn_image(image, math.radians(angle), side)
                cv2.imwrite(str(file), turned[..., ::-1])
                features = method(file)
                upright = upright or features
                gathered[angle].append((upright, features, matrix))
    return [evaluate_angle(gathered[a], float(a)) for a in angles]


def _in_disc(xy: Float[Tensor, "keypoint 2"], side: int) -> Tensor:
    """Inside the disc that upright and turned squares share, a margin from its rim."""
    centre = (side - 1) / 2
    return (xy - centre).norm(dim=1) < centre - DISC_MARGIN_PX


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.rotation", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--held-out", action="store_true", help="only the validation tenth")
    parser.add_argument("--limit", type=int, default=0, help="at most so many images, 0 for all")
    parser.add_argument("--method", action="append", required=True, help="may be given again")
    parser.add_argument("--num-keypoints", type=int, default=500)
    parser.add_argument("--step", type=float, default=10.0, help="degrees between two turns")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        paths = [folder / name for folder in arguments.data for name in list_images(folder)]
        if arguments.held_out:
            paths = [path for path in paths if is_validation(path.name)]
        paths = paths[: arguments.limit or None]
        methods = {
            name: load_method(name, arguments.num_keypoints, device=arguments.device)
            for name in arguments.method
        }
    except (ValueError, FileNotFoundError) as error:
        logger.error("%s", error)
        return 2
    record = {}
    for name, method in methods.items():
        rows = evaluate(method, paths, arguments.step)
        record[name] = {
            "provenance": getattr(method, "provenance", {}),
            "angles": [asdict(row) for row in rows],
        }
        worst = min(rows, key=lambda r: r.angle_accuracy)
        sys.stdout.write(
            f"{name}: {len(paths)} images; found again {min(r.refound for r in rows):.3f} at worst, "
            f"angle within {ANGLE_TOLERANCE_DEG:.0f} degrees {worst.angle_accuracy:.3f} at worst "
            f"({worst.angle_deg:.0f} degrees), MMA@3 {min(r.mma_3px for r in rows):.3f} at worst, "
            f"{np.mean([r.mma_3px for r in rows]):.3f} on average\n"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
