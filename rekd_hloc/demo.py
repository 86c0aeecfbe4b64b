"""The demonstration: render a scene, reconstruct it, compare with the truth, make a page of it."""

from pathlib import Path
from typing import Any

from rekd_hloc.extractor import choose_device
from rekd_hloc.files import write_json
from rekd_hloc.reconstruction import reconstruct
from rekd_hloc.report import Stopwatch
from rekd_hloc.report_page import write_html_report
from rekd_hloc.scene import DESCRIPTION, render_scene

FAST, FULL = "rekd-fast", "rekd"


def run_demo(
    out: Path,
    *,
    conf: str | None = None,
    device: str = "auto",
    seed: int = 0,
    num_views: int = 12,
    size: tuple[int, int] = (640, 480),
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Render the demo scene into ``out/scene``, reconstruct it in ``out``, and write a page.

    The intrinsics are unknown to the reconstruction: one camera, refined by COLMAP.

    Args:
        out: folder to write: ``scene/`` and all that :func:`rekd_hloc.reconstruction.reconstruct`
            writes, and ``report.html``.
        conf: preset; None takes ``rekd`` on a GPU and ``rekd-fast`` on a CPU.
        device: of extraction and matching.
        seed: of the scene, the verification and the mapping, not negative.
        num_views: pictures to render.
        size: (width, height) of the pictures.
        overwrite: start anew instead of going on with what is in ``out``, as another scene always
            does.
        progress: show bars on stderr.

    Returns:
        What is in ``report.json``; among ``seconds`` are ``render`` and ``page``.

    Raises:
        ValueError, OSError: as ``reconstruct`` and ``render_scene``.
    """
    name = conf or (FULL if choose_device(device).type == "cuda" else FAST)
    watch = Stopwatch()
    before = _read_description(out / "scene")
    with watch.stage("render"):
        scene = render_scene(
            out / "scene", num_views=num_views, size=size, seed=seed, progress=progress
        )
    report = reconstruct(
        scene / "images",
        out,
        conf=name,
        camera_mode="single",
        reference=scene / "reference",
        device=device,
        seed=seed,
        overwrite=overwrite or before not in (None, _read_description(scene)),
        progress=progress,
    )
    _write_report(out, report, {**watch.seconds, **report["seconds"]})
    title = f"Demo scene, {name}, seed {seed}"
    with watch.stage("page"):
        write_html_report(out, scene / "images", title=title, reference=scene / "reference")
    _write_report(out, report, {**report["seconds"], "page": watch.seconds["page"]})
    return report


def _write_report(out: Path, report: dict[str, Any], seconds: dict[str, float]) -> None:
    """Write the report with these stages and their sum."""
    stages = {name: value for name, value in seconds.items() if name != "total"}
    report["seconds"] = {**stages, "total": sum(stages.values())}
    write_json(out / "report.json", report, kept_in=out)


def _read_description(scene: Path) -> str | None:
    path = scene / DESCRIPTION
    return path.read_text(encoding="utf-8") if path.is_file() else None
