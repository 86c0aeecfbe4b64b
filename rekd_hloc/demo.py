"""The demonstration: reconstruct packaged images, compare with the truth, make a page of it.

The twelve images of ``demo_data`` show a rendered courtyard under changing light, each from a
camera rolled by its own angle. Their poses are exact. ``evaluation.rendering`` made them.
"""

import shutil
from pathlib import Path
from typing import Any

from rekd_hloc.devices import choose_device
from rekd_hloc.files import write_json
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import Stopwatch
from rekd_hloc.viz.page import write_html_report

DEMO_DATA = Path(__file__).parent / "demo_data"
DEMO_IMAGES = DEMO_DATA / "images"
"""Folder of the packaged images."""
DEMO_REFERENCE = DEMO_DATA / "reference"
"""COLMAP model without points, with the true camera and poses of the packaged images."""
FAST, FULL = "rekd-fast", "rekd"


def run_demo(
    out: Path,
    *,
    conf: str | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Copy the demo images into ``out/images``, reconstruct them in ``out``, and write a page.

    The intrinsics are unknown to the reconstruction: one camera, refined by COLMAP.

    Args:
        out: folder to write: ``images/``, all that
            :func:`rekd_hloc.sfm.reconstruct.reconstruct` writes, and ``report.html``.
        conf: preset; None takes ``rekd`` on a GPU and ``rekd-fast`` on a CPU.
        device: of extraction and matching.
        seed: of the verification and the mapping, not negative.
        overwrite: start anew instead of going on with what is in ``out``.
        progress: show bars on stderr.

    Returns:
        What is in ``report.json``; among ``seconds`` is ``page``.

    Raises:
        ValueError, OSError: as ``reconstruct``.
    """
    name = conf or (FULL if choose_device(device).type == "cuda" else FAST)
    images = copy_images(out / "images")
    report = reconstruct(
        images,
        out,
        conf=name,
        camera_mode="single",
        reference=DEMO_REFERENCE,
        device=device,
        seed=seed,
        overwrite=overwrite,
        progress=progress,
    )
    watch = Stopwatch()
    title = f"Demo scene, {name}, seed {seed}"
    with watch.stage("page"):
        write_html_report(out, images, title=title, reference=DEMO_REFERENCE)
    stages = {name: seconds for name, seconds in report["seconds"].items() if name != "total"}
    stages |= watch.seconds
    report["seconds"] = {**stages, "total": sum(stages.values())}
    write_json(out / "report.json", report, kept_in=out)
    return report


def copy_images(folder: Path) -> Path:
    """Copy the packaged images into a folder, which is made; returns the folder.

    Images that are there already stay as they are.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(DEMO_IMAGES.iterdir()):
        if not (folder / source.name).exists():
            shutil.copyfile(source, folder / source.name)
    return folder
