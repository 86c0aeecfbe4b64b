"""Compare options: ``python -m training.ablation --config configs/ablation_rekd_cpu.yaml``.

The program trains several variants of one run, one after another, all from the same start. It
validates them on the same held-out pairs: ``base.pairs`` and ``base.seed`` draw these for every
variant. Each variant resumes where it stopped, so the whole program does. Finished variants are in
``output/table.md``, ``results.json`` and ``curves.png``.
"""

import hashlib
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation.image_folders import list_image_paths
from evaluation.reporting.curves import Plot, draw_panels
from evaluation.reporting.report import Cell, Table, format_markdown
from rekd_hloc.config import config_json, load_config
from rekd_hloc.devices import choose_device
from rekd_hloc.files import write_json, write_text
from training.common.checkpoint import load_start, require_same, start_path
from training.common.cli import run_cli
from training.detector_config import NO_INFLUENCE, TrainDetectorConfig
from training.detector_run import build_trainable, load_network_state
from training.detector_validation import ValidationSet, validate
from training.train_detector import train

logger = logging.getLogger(__name__)

SHARED = (
    "images",
    "output",
    "init",
    "steps",
    "validate_every",
    "num_validation_pairs",
    "validation_crop_px",
)
"""Options that are the same in all variants: otherwise their metrics could not be compared."""
CURVES = {
    "repeatability_3px": "repeatability at 3 px (%)",
    "repeatability_1px5": "repeatability at 1.5 px (%)",
    "orientation_accuracy": "orientation within 15° (%)",
}


@dataclass(frozen=True)
class AblationConfig:
    """The variants of one training run."""

    base: TrainDetectorConfig = field(default_factory=TrainDetectorConfig)
    """What all variants share; ``base.init`` is their start, ``base.steps`` their length."""
    variants: dict[str, str] = field(default_factory=dict)
    """By name, the options in which a variant differs from the base: ``key=value key=value``."""
    only: tuple[str, ...] = ()
    """Names of the variants to train; empty trains all. Finished ones are reported in any case."""
    output: str = "runs/ablation"
    """Folder for the table, the curves and one folder for each variant."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.ablation", __doc__, AblationConfig(), run_ablation, argv)


def run_ablation(config: AblationConfig, *, quiet: bool = False) -> Path:
    """Train the variants that are missing, and report all that are finished.

    Returns:
        The table's path.

    Raises:
        ValueError: no variants, an unknown or impossible one, or a folder of another base.
        FileNotFoundError: no such start.
    """
    folder = Path(config.output)
    trainings = make_variants(config)
    unknown = sorted(set(config.only) - set(trainings))
    if unknown:
        raise ValueError(f"only={unknown} are no variants; there are {', '.join(trainings)}")
    _claim(folder, config.base)
    start = _measure_start(folder / "start.json", config.base)
    report = _report(folder, config, start)
    for name, training in trainings.items():
        if config.only and name not in config.only:
            continue
        logger.info("variant %s: %s", name, config.variants[name] or "the base")
        try:
            train(training, quiet=quiet, validated_as=config.base)
        except FloatingPointError as error:  # the others may still be trained
            logger.error("variant %s: %s", name, error)
        report = _report(folder, config, start)
    return report


def make_variants(config: AblationConfig) -> dict[str, TrainDetectorConfig]:
    """Make the options of each variant's training run.

    Raises:
        ValueError: there is none, or one that is unknown in its options or cannot be compared.
    """
    if not config.variants:
        raise ValueError("no variants: give a YAML with variants: {NAME: key=value key=value}")
    folders: dict[str, str] = {}
    trainings = {}
    for name, text in config.variants.items():
        overrides = text.split()
        if any(item.split("=")[0] in SHARED for item in overrides):
            raise ValueError(f"variant {name!r} must not change {', '.join(SHARED)}, got {text!r}")
        slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
        if slug in folders or not slug:
            raise ValueError(f"variants {folders.get(slug)!r} and {name!r} need names that differ")
        folders[slug] = name
        base = replace(config.base, output=str(Path(config.output) / slug))
        try:
            trainings[name] = load_config(base, None, overrides)
        except ValueError as error:
            raise ValueError(f"variant {name!r}: {error}") from error
    return trainings


def _claim(folder: Path, base: TrainDetectorConfig) -> None:
    """Refuse a folder of another base: its variants had another start or other options."""
    identity = json.loads(config_json(base))
    for name in NO_INFLUENCE:
        identity.pop(name)
    if base.init:
        identity["init"] = hashlib.sha256(start_path(base.init).read_bytes()).hexdigest()[:12]
    stated = folder / "base.json"
    if stated.is_file():
        require_same(stated, json.loads(stated.read_text()), identity)
    write_json(stated, identity)


def _measure_start(path: Path, base: TrainDetectorConfig) -> dict[str, float]:
    """Read or measure the metrics before the first step."""
    if path.is_file():
        known: dict[str, float] = json.loads(path.read_text())
        return known
    held_out = ValidationSet.open(base, list_image_paths(base.images)[1])
    network = build_trainable(base.network)
    if base.init:
        load_network_state(network, load_start(base.init))
    result = validate(
        network.to(choose_device(base.device)),
        held_out.images,
        num_pairs=held_out.num_pairs,
        seed=held_out.seed,
    )
    write_json(path, asdict(result))
    return asdict(result)


def _report(folder: Path, config: AblationConfig, start: Mapping[str, float]) -> Path:
    finished = {}
    for name, training in make_variants(config).items():
        log = Path(training.output) / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if lines and lines[-1]["step"] == training.steps:
            finished[name] = {"overrides": config.variants[name].split(), "log": lines}
    record = {"base": json.loads(config_json(config.base)), "start": dict(start)}
    write_json(folder / "results.json", {**record, "variants": finished})
    write_text(folder / "table.md", format_markdown(_table(config.base, finished, start)))
    if finished:
        draw_panels(_plots(finished, start), folder / "curves.png")
    return folder / "table.md"


def _table(
    base: TrainDetectorConfig, finished: Mapping[str, Any], start: Mapping[str, float]
) -> Table:
    title = (
        f"After {base.steps} steps, {base.num_validation_pairs} held-out pairs of "
        f"{base.validation_crop_px} px"
    )
    columns = [
        "variant",
        "changes",
        "repeatability 3 px (%)",
        "1.5 px (%)",
        "orientation within 15° (%)",
        "median error (°)",
        "1.5 px and right angle (%)",
        "minutes",
    ]
    rows: list[list[Cell]] = [["start", "", *_metric_cells(start), None]]
    for name, entry in finished.items():
        last = entry["log"][-1]
        changes = " ".join(f"`{text}`" for text in entry["overrides"])
        rows.append([name, changes, *_metric_cells(last), last["seconds"] / 60])
    return Table(title, columns, rows)


def _metric_cells(line: Mapping[str, float]) -> list[Cell]:
    shares = [100 * line[name] for name in CURVES]
    both = line["repeatability_1px5"] * line["orientation_accuracy"]
    return [*shares, line["orientation_median_deg"], 100 * both]


def _plots(finished: Mapping[str, Any], start: Mapping[str, float]) -> list[Plot]:
    steps = [line["step"] for line in next(iter(finished.values()))["log"]]
    plots = []
    for key, label in CURVES.items():
        curves = {
            name: [100 * start[key], *(100 * line[key] for line in entry["log"])]
            for name, entry in finished.items()
        }
        plots.append(Plot(key, label, "step", "%", [0, *steps], curves))
    return plots


if __name__ == "__main__":
    sys.exit(main())
