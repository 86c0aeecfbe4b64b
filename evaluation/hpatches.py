"""Features under known homographies: ``python -m evaluation.hpatches --data DIR --method rekd``.

Reads HPatches, Oxford sequences or a list of pairs, and writes the tables of one protocol for all
methods side by side: table.md, sequences.csv, results.json, curves and report.html. Interrupt it
and start it again: what was extracted is kept.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.baselines import METHODS, Method, load_method
from evaluation.homographies import HomographyPair, list_pairs
from evaluation.protocols import NO_CAP, PROTOCOLS, Protocol
from evaluation.release import SPLITS, select_split, what_is_missing
from evaluation.report import today, write_csv, write_report
from evaluation.suite import (
    PairResult,
    Suite,
    make_plots,
    make_sequence_rows,
    make_tables,
    run_method,
    select_kind,
)

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command line; the options of the paper's code have their counterparts here."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.hpatches", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of sequences, or a list of pairs"
    )
    parser.add_argument(
        "--method", action="append", default=[], help=f"{', '.join(METHODS)}, NAME+ours, file:PATH"
    )
    parser.add_argument(
        "--features", type=Path, help="folder of features extracted before, METHOD.h5 each"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="name of the experiment: results go to OUT/NAME")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="rekd")
    parser.add_argument("--split", choices=SPLITS, default="full")
    parser.add_argument("--num-keypoints", type=int, help="used of each image")
    parser.add_argument("--num-extracted", type=int, help="asked of a method")
    ours = parser.add_argument_group("options of the methods rekd, rekd-upright, ...")
    ours.add_argument("--detector-weights", help="shipped name or file")
    ours.add_argument("--descriptor", help="default, official, or a file")
    ours.add_argument("--levels-up", type=int, help="pyramid levels above the image's size")
    ours.add_argument("--levels-down", type=int, help="pyramid levels below the image's size")
    ours.add_argument("--nms-window", type=int, help="side of the suppression window, px")
    ours.add_argument("--border", type=int, help="margin without keypoints, px")
    ours.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other option"
    )
    parser.add_argument("--weights", type=Path, help="folder of the peers' weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num-threads", type=int, default=1, help="sequences at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    protocol = PROTOCOLS[arguments.protocol]
    try:
        everything = list_pairs(arguments.data)
        pairs = select_split(
            everything,
            arguments.split,
            without_high_resolution=protocol.without_high_resolution,
        )
        if missing := what_is_missing(everything, arguments.split):
            logger.warning("%s: %s", arguments.data, missing)
        methods = _load_methods(arguments, protocol)
        text = _run(arguments, protocol, pairs, methods)
    except (ValueError, FileNotFoundError) as error:
        logger.error("%s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted; the same command goes on from here")
        return 130
    sys.stdout.write(text)
    return 0


def read_overrides(arguments: argparse.Namespace) -> list[str]:
    """The options for this project's methods as ``key=value``."""
    given = {
        "weights": arguments.detector_weights,
        "descriptor.weights": arguments.descriptor,
        "detector.levels_up": arguments.levels_up,
        "detector.levels_down": arguments.levels_down,
        "detector.nms_window_px": arguments.nms_window,
        "detector.border_px": arguments.border,
    }
    return [f"{k}={v}" for k, v in given.items() if v is not None] + arguments.set


def _load_methods(arguments: argparse.Namespace, protocol: Protocol) -> dict[str, Method]:
    names = list(arguments.method)
    if arguments.features is not None:
        names = _stored_names(arguments.features, names)
    if not names:
        raise ValueError(f"give at least one --method: {', '.join(METHODS)}, or --features")
    if len(set(names)) < len(names):
        raise ValueError(f"a method is given twice: {', '.join(names)}")
    for option in ("num_extracted", "num_keypoints", "num_threads"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    is_folder = arguments.data.is_dir()
    return {
        name: load_method(
            name,
            arguments.num_extracted or protocol.num_extracted,
            device=arguments.device,
            overrides=read_overrides(arguments),
            weights=arguments.weights,
            image_root=arguments.data if is_folder else arguments.data.parent,
        )
        for name in names
    }


def _stored_names(folder: Path, names: Sequence[str]) -> list[str]:
    """Methods that read the files of a folder: those of the given names, or all."""
    paths = [folder / f"{name}.h5" for name in names] or sorted(folder.glob("*.h5"))
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no features file {path}")
    if not paths:
        raise FileNotFoundError(f"no features file METHOD.h5 in {folder}")
    return [f"file:{path}" for path in paths]


def _run(
    arguments: argparse.Namespace,
    protocol: Protocol,
    pairs: Sequence[HomographyPair],
    methods: dict[str, Method],
) -> str:
    out = arguments.out / arguments.name if arguments.name else arguments.out
    num_used = arguments.num_keypoints or protocol.num_used
    suite = Suite(
        protocol=protocol,
        pairs=pairs,
        num_used=num_used,
        cache_dir=arguments.out / "features",
        num_threads=arguments.num_threads,
    )
    results = {name: run_method(suite, method) for name, method in methods.items()}
    record: dict[str, Any] = {
        "program": "hpatches",
        "protocol": protocol.name,
        "description": f"{protocol.description}; {_budget(arguments, protocol, num_used)}",
        "split": arguments.split,
        "data": _describe_data(arguments.data, pairs),
        "date": today(),
        "experiment": arguments.name,
        "num_keypoints": num_used,
        "methods": {
            name: _describe_method(protocol, method, results[name])
            for name, method in methods.items()
        },
    }
    columns, rows = make_sequence_rows(protocol, results)
    write_csv(out / "sequences.csv", columns, rows)
    return write_report(
        out,
        record,
        make_tables(protocol, results, arguments.split),
        make_plots(protocol, results, arguments.split),
    )


def _budget(arguments: argparse.Namespace, protocol: Protocol, num_used: int) -> str:
    extracted = arguments.num_extracted or protocol.num_extracted
    if num_used >= NO_CAP:
        return "no cap on keypoints"
    return f"best {num_used} of {extracted} keypoints"


def _describe_data(data: Path, pairs: Sequence[HomographyPair]) -> str:
    sequences = list(dict.fromkeys(pair.sequence for pair in pairs))
    shown = ", ".join(sequences) if len(sequences) <= 12 else f"{len(sequences)} sequences"
    return f"{data.name} ({shown}), {len(pairs)} pairs"


def _describe_method(
    protocol: Protocol, method: Method, results: Sequence[PairResult]
) -> dict[str, Any]:
    parts = {"all": "", "view": "view", "illum": "illum"}
    return {
        "provenance": method.provenance,
        "weights": method.weights,
        "has_orientation": method.has_orientation,
        "summary": {
            label: protocol.summarise([r.figures for r in select_kind(results, kind)])
            for label, kind in parts.items()
            if select_kind(results, kind)
        },
        "pairs": [asdict(result) for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
