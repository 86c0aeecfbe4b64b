"""One HTML page about a reconstruction: numbers, model, photos, tracks, pairs, matches.

This module turns a run's report into text, :mod:`rekd_hloc.viz.explorer` its files into a record
that the page's scripts show; ``template.html`` puts all on the page.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekd_hloc.sfm.alignment import Pose, read_reference
from rekd_hloc.sfm.output_folder import PAGE, OutputFolder
from rekd_hloc.sfm.skipped import shorten_skipped
from rekd_hloc.sfm.work_seconds import WORK_SECONDS
from rekd_hloc.viz.explorer.assets import read_script, read_style, script_files
from rekd_hloc.viz.explorer.packing import encode_record
from rekd_hloc.viz.explorer.scene import describe_scene
from rekd_hloc.viz.page_sources import digest_sources, is_made_of, note_sources
from rekd_hloc.viz.run_files import RunFiles
from rekd_hloc.viz.templates import render_template

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("template.html")

Rows = list[tuple[str, ...]]


def write_html_report(
    output: Path,
    image_dir: Path,
    *,
    title: str,
    reference: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write ``report.html`` about the reconstruction in a folder; it needs no other file.

    A page that shows the same already is left as it is. A section whose database, features, images
    or model are missing is left out of the page.

    Args:
        output: folder that ``reconstruct`` wrote.
        image_dir: folder of the images.
        title: of the page.
        reference: true poses, as for ``reconstruct``; the model is shown beside their centres.
        overwrite: replace a ``report.html`` that this function did not write.
        progress: show a bar on stderr.

    Returns:
        The page.

    Raises:
        FileExistsError: there is such a page.
        FileNotFoundError: no ``report.json`` in ``output``, or no such reference.
        ValueError: a file in ``output`` is damaged.
        OSError: the page cannot be written.
    """
    check_page(output, overwrite=overwrite)
    run = RunFiles.read(output, image_dir)
    sources = digest_sources(run, title, [TEMPLATE, *script_files()], reference)
    if is_made_of(OutputFolder(output), PAGE, sources):
        logger.info("%s is up to date", output / PAGE)
        return output / PAGE
    poses = read_reference(reference) if reference is not None else None
    lead = _describe_configuration(run.report)
    values = {"title": title, "lead": lead, **_read_text(run.report), **_draw(run, poses, progress)}
    text = render_template(TEMPLATE, **values)
    with OutputFolder.hold(output, names=(PAGE,), overwrite=overwrite) as folder:
        folder.write_text(PAGE, text)
        note_sources(folder, sources)
    logger.info("%s is written", output / PAGE)
    return output / PAGE


def check_page(output: Path, *, overwrite: bool = False) -> None:
    """Refuse to write a page where someone else's is.

    Raises:
        FileExistsError: there is one.
    """
    OutputFolder(output, overwrite=overwrite).refuse_foreign((PAGE,))


def _read_text(report: Mapping[str, Any]) -> dict[str, object]:
    """Return what the template shows of a report in words and numbers."""
    configuration = report.get("configuration")
    skipped = report.get("skipped") or {}
    return {
        "tiles": _headline(report),
        "diagnosis": str(report.get("diagnosis") or ""),
        "notes": _list_notes(report),
        "summary": _summary(report),
        "stages": _list_stages(report),
        "stages_note": _describe_time(report),
        "weakest_pairs": _list_weakest_pairs(report),
        "skipped": shorten_skipped(skipped, "report.json lists all"),
        "versions": _list_versions(report),
        "options": json.dumps(configuration, indent=1) if configuration else "",
    }


def _draw(run: RunFiles, reference: Mapping[str, Pose] | None, progress: bool) -> dict[str, object]:
    """Return what the page's scripts show, and these scripts."""
    scene = describe_scene(run, reference, progress=progress)
    return {
        "scene": scene,
        "scene_json": encode_record(scene or {}),  # holds no markup
        "style": read_style(),
        "script": read_script(),
    }


def _list_stages(report: Mapping[str, Any]) -> Rows:
    """Return name, seconds, and percent of the longest stage."""
    seconds = {name: value for name, value in _seconds(report).items() if name != "total"}
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        (name, f"{value:,.1f} s", f"{max(100 * value / longest, 0.0):.1f}")
        for name, value in seconds.items()
    ]


def _seconds(report: Mapping[str, Any]) -> dict[str, float]:
    """Return seconds of each stage in the run that did its work."""
    return {**report.get("seconds", {}), **report.get(WORK_SECONDS, {})}


def _describe_time(report: Mapping[str, Any]) -> str:
    """Return what to know of the seconds where earlier runs did a part of the work."""
    last = report.get("seconds", {}).get("total")
    if last is None or _seconds(report).get("total", last) - last < 0.05:
        return ""
    return (
        "A stage whose work an earlier run had done has the seconds of that run. "
        f"The last run took {last:,.1f} s."
    )


def _list_notes(report: Mapping[str, Any]) -> list[str]:
    """Return what to know about the scene's geometry."""
    geometry = report.get("geometry")
    notes = geometry.get("notes") if isinstance(geometry, Mapping) else None
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _headline(report: Mapping[str, Any]) -> dict[str, str]:
    rotation = report.get("rotation_error_deg") or {}
    tiles = {
        "images registered": f"{report.get('num_registered', 0)} of {report.get('num_images', 0)}",
        "3-D points": f"{report.get('num_points3D', 0):,}",
        "px mean reprojection error": _number(report.get("mean_reprojection_error_px"), 3),
        "degrees median rotation error": _number(rotation.get("median"), 3),
        "seconds in all": _number(_seconds(report).get("total"), 1),
    }
    return {name: value for name, value in tiles.items() if value is not None}


def _summary(report: Mapping[str, Any]) -> Rows:
    pairs = report.get("pairs", {})
    refined = report.get("refinement", {})
    rows = [
        ("Models", report.get("num_models")),
        ("Keypoints", report.get("num_keypoints")),
        ("Pairs verified", _of(pairs.get("num_verified"), pairs.get("num_pairs"))),
        ("Inliers of matches", _of(pairs.get("num_inliers"), pairs.get("num_matches"))),
        (
            "Keypoints refined of those in tracks",
            _of(refined.get("num_refined"), refined.get("num_in_tracks")),
        ),
        ("Observations", report.get("num_observations")),
        ("Mean track length", _number(report.get("mean_track_length"), 2)),
        ("Rotation error, degrees", _median_and_max(report.get("rotation_error_deg"), 3, 1.0)),
        ("Centre error, % of extent", _median_and_max(report.get("center_error_rel"), 3, 100.0)),
        ("Not compared with true poses", report.get("alignment_failure")),
        ("Images not registered", ", ".join(report.get("unregistered") or ()) or None),
        ("Photos left out", len(report.get("skipped") or ()) or None),
        ("Peak memory, MiB", _number(report.get("peak_memory_mib"), 0)),
        ("Seed", report.get("seed")),
    ]
    return [
        (name, f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in rows
        if value not in (None, "")
    ]


def _list_weakest_pairs(report: Mapping[str, Any]) -> Rows:
    weakest = report.get("pairs", {}).get("weakest") or []
    return [
        (
            *map(str, pair.get("images", ("", ""))),
            str(pair.get("matches")),
            str(pair.get("inliers")),
        )
        for pair in weakest
    ]


def _list_versions(report: Mapping[str, Any]) -> Rows:
    rows: Rows = [(f"{kind} weights", str(code)) for kind, code in _items(report, "weights")]
    return rows + [(name, str(version)) for name, version in _items(report, "versions")]


def _items(report: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return list(report.get(key, {}).items())


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
