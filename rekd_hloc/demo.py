"""The demonstration: reconstruct packaged images, compare with the truth, make a page of it.

The twelve images of ``demo_data`` show a rendered courtyard under changing light, each from a
camera rolled by its own angle. Their poses are exact. ``evaluation.rendering`` made them.
"""

from pathlib import Path

from rekd_hloc.devices import choose_device
from rekd_hloc.files import SCRATCH_SUFFIX, write_bytes
from rekd_hloc.ownership import NOT_MADE, stamp
from rekd_hloc.sfm.output_folder import NAMES, PAGE, REPORT, OutputFolder
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import Stopwatch
from rekd_hloc.sfm.result import ReconstructionResult
from rekd_hloc.sfm.work_seconds import WORK_SECONDS
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
) -> ReconstructionResult:
    """Copy the demo images into ``out/images``, reconstruct them in ``out``, and write a page.

    The intrinsics are unknown to the reconstruction: one camera, refined by COLMAP.

    Args:
        out: folder to write: ``images/``, all that
            :func:`rekd_hloc.sfm.reconstruct.reconstruct` writes, and ``report.html``.
        conf: preset; None takes ``rekd`` on a GPU and ``rekd-fast`` on a CPU.
        device: of extraction and matching.
        seed: of the verification and the mapping, not negative.
        overwrite: as for ``reconstruct``.
        progress: show bars on stderr.

    Returns:
        What is in ``report.json``; among ``seconds`` is ``page``.

    Raises:
        ValueError, OSError: as ``reconstruct``.
        FileExistsError: ``out/images`` holds other images, which the demo's must not join.
    """
    name = conf or (FAST if choose_device(device).type == "cpu" else FULL)
    _require_demo_images(out / "images")
    with OutputFolder.hold(out, names=(*NAMES, PAGE), overwrite=overwrite) as folder:
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
            write_html_report(
                out, images, title=title, reference=DEMO_REFERENCE,
                overwrite=overwrite, progress=progress,
            )  # fmt: skip
        stages = {name: seconds for name, seconds in report["seconds"].items() if name != "total"}
        stages |= watch.seconds
        report["seconds"] = {**stages, "total": sum(stages.values())}
        work = {**report[WORK_SECONDS], **watch.seconds, "total": 0.0}
        report[WORK_SECONDS] = {**work, "total": sum(work.values())}
        folder.write_json(REPORT, report)
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
            write_bytes(folder / source.name, source.read_bytes())
    return folder


def _require_demo_images(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        packaged = DEMO_IMAGES / path.relative_to(folder)
        if path.is_dir() or path.name in NOT_MADE or path.name.endswith(SCRATCH_SUFFIX):
            continue
        if not packaged.is_file() or stamp(path) != stamp(packaged):
            raise FileExistsError(f"{path} is no image of the demo; choose another output")
