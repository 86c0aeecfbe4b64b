"""One HTML page about a reconstruction: figures, keypoints, matches, pairs, cameras."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekd_hloc.files import write_text
from rekd_hloc.sfm.alignment import read_reference
from rekd_hloc.viz import page_sections as figures
from rekd_hloc.viz.page_html import (
    make_details,
    make_page,
    make_paragraph,
    make_section,
    make_table,
    make_tiles,
)
from rekd_hloc.viz.run_files import RunFiles, read_model


def write_html_report(
    output: Path, image_dir: Path, *, title: str, reference: Path | None = None
) -> Path:
    """Write ``report.html`` about the reconstruction in a folder; it needs no other file.

    Whatever is missing of database, features, images or model is left out of the page.

    Args:
        output: folder that ``reconstruct`` wrote.
        image_dir: its photos.
        title: of the page.
        reference: true poses, as for ``reconstruct``; they are drawn beside the estimated ones.

    Returns:
        The page.

    Raises:
        FileNotFoundError: no ``report.json`` in ``output``, or no such reference.
        ValueError: a file in ``output`` is damaged.
        OSError: the page cannot be written.
    """
    run = RunFiles.read(output, image_dir)
    report = run.report
    poses = read_reference(reference) if reference is not None else None
    model = read_model(output, poses)
    diagnosis = str(report.get("diagnosis") or "")
    page = make_page(
        title,
        _describe_configuration(report),
        [
            make_tiles(_headline(report)),
            make_section("What went wrong", make_paragraph(diagnosis), is_note=True),
            make_section("Summary", make_table(("", ""), _summary(report))),
            make_section("Time", figures.draw_stages(report)),
            make_section("Keypoints", figures.draw_keypoints(run)),
            make_section("Matches", figures.draw_pairs(run)),
            make_section("Pairs", figures.draw_matrix(run)),
            make_section("Cameras", figures.draw_cameras(model, poses)),
            make_section("Skipped files", _list_skipped(report)),
            make_section("Configuration", _list_configuration(report)),
        ],
    )
    path = output / "report.html"
    write_text(path, page)
    return path


def _headline(report: Mapping[str, Any]) -> dict[str, str]:
    rotation = report.get("rotation_error_deg") or {}
    tiles = {
        "images registered": f"{report.get('num_registered', 0)} of {report.get('num_images', 0)}",
        "3-D points": f"{report.get('num_points3D', 0):,}",
        "px mean reprojection error": _number(report.get("mean_reprojection_error_px"), 3),
        "degrees median rotation error": _number(rotation.get("median"), 3),
        "seconds in all": _number(report.get("seconds", {}).get("total"), 1),
    }
    return {name: value for name, value in tiles.items() if value is not None}


def _summary(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = report.get("pairs", {})
    rows = [
        ("Models", report.get("num_models")),
        ("Keypoints", report.get("num_keypoints")),
        ("Pairs verified", _of(pairs.get("num_verified"), pairs.get("num_pairs"))),
        ("Inliers of matches", _of(pairs.get("num_inliers"), pairs.get("num_matches"))),
        ("Observations", report.get("num_observations")),
        ("Mean track length", _number(report.get("mean_track_length"), 2)),
        ("Rotation error, degrees", _median_and_max(report.get("rotation_error_deg"), 3, 1.0)),
        ("Centre error, % of extent", _median_and_max(report.get("center_error_rel"), 3, 100.0)),
        ("Not compared with true poses", report.get("alignment_failure")),
        ("Images not registered", ", ".join(report.get("unregistered") or ()) or None),
        ("Peak memory, MiB", _number(report.get("peak_memory_mib"), 0)),
        ("Seed", report.get("seed")),
    ]
    return [
        (name, f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in rows
        if value not in (None, "")
    ]


def _list_skipped(report: Mapping[str, Any]) -> str:
    skipped = report.get("skipped") or {}
    return make_table(("file", "reason"), [(name, str(why)) for name, why in skipped.items()])


def _list_configuration(report: Mapping[str, Any]) -> str:
    rows = [(f"{kind} weights", str(code)) for kind, code in report.get("weights", {}).items()]
    rows += [(name, str(version)) for name, version in report.get("versions", {}).items()]
    configuration = report.get("configuration")
    text = json.dumps(configuration, indent=1) if configuration else ""
    return make_table(("", ""), rows) + (make_details("All options", text) if text else "")


def _describe_configuration(report: Mapping[str, Any]) -> str:
    configuration = report.get("configuration", {})
    preset = configuration.get("preset")
    words = [
        f"preset {preset}" if preset else "",
        f"{report.get('num_images', 0)} images",
        f"{configuration['pairs']} pairs" if configuration.get("pairs") else "",
        f"seed {report.get('seed')}",
    ]
    return ", ".join(word for word in words if word)


def _number(value: Any, digits: int) -> str | None:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else None


def _of(part: Any, whole: Any) -> str | None:
    return f"{part:,} of {whole:,}" if isinstance(part, int) and isinstance(whole, int) else None


def _median_and_max(errors: Any, digits: int, factor: float) -> str | None:
    if not isinstance(errors, Mapping):
        return None
    low, high = (factor * errors.get(kind, float("nan")) for kind in ("median", "max"))
    return f"median {low:.{digits}f}, largest {high:.{digits}f}"
