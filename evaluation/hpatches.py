"""Features under known homographies, by the protocol of REKD's paper and four others.

    python -m evaluation.hpatches --data DIR --method rekd --method sift --out OUT

Reads HPatches, Oxford sequences or a list of pairs, and writes the tables of one protocol for all
methods side by side: table.md, sequences.csv, results.json, curves and report.html. Interrupt it
and start it again: features are not extracted again.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.command_line import (
    add_filter_option,
    exit_status,
    filter_remark,
    make_parser,
    require_positive,
)
from evaluation.extractors.classical import NO_CAP
from evaluation.extractors.named_extractor import REFINED
from evaluation.extractors.options import require_distinct
from evaluation.extractors.registry import EXTRACTORS, NamedExtractor, load_extractor
from evaluation.homography.homographies import HomographyPair, list_pairs
from evaluation.homography.protocols import PROTOCOLS, Protocol
from evaluation.homography.release import SPLITS, select_split, what_is_missing
from evaluation.homography.suite import (
    PairResult,
    Suite,
    make_plots,
    make_sequence_rows,
    make_tables,
    run_extractor,
    select_kind,
)
from evaluation.reporting.report import today, write_csv, write_report
from rekd_hloc.config import MatchConfig

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the options of the paper's code have their counterparts here."""
    parser = make_parser("evaluation.hpatches", __doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR",
        help="folder of sequences (HPatches: 1.ppm, H_1_2; Oxford: img1.png, H1to2p), or a text "
        "file with lines `image_a image_b homography`")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    add("--method", action="append", default=[], metavar="NAME",
        help=f"may be given again: {', '.join(EXTRACTORS)}; DETECTOR+rekd-hardnet; PRESET-0.1 "
        "(a peer's keypoints with our descriptor); file:PATH (features that hloc stored)",
    )  # fmt: skip
    add("--features", type=Path, metavar="DIR",
        help="evaluate DIR/METHOD.h5, extracted before; without --method all files of DIR",
    )  # fmt: skip
    add("--protocol", choices=list(PROTOCOLS), default="rekd", help="default rekd")
    add_filter_option(parser)
    add("--refine", action="store_true",
        help="measure each method also with refined positions of its matches")  # fmt: skip
    add("--split", choices=SPLITS, default="full", help="sequences of HPatches; default full")
    add("--num-keypoints", type=int, metavar="N", help="used of each image; rekd: 1000")
    add("--num-extracted", type=int, metavar="N", help="asked of a method; rekd: 1500")
    add("--exp-name", "--name", dest="name", metavar="NAME",
        help="results go to OUT/NAME; features are shared between the experiments of OUT",
    )  # fmt: skip
    add("--weights", type=Path, metavar="DIR", help="folder of the peers' weights")
    add("--device", default="auto", help="cpu, cuda, or auto (default)")
    add("--num-threads", type=int, default=1, metavar="N", help="sequences at once; default 1")
    _add_our_options(parser)
    return parser


def _add_our_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("options of the methods rekd, rekd-upright, ...").add_argument
    add("--detector-weights", metavar="NAME", help="shipped name or file")
    add("--descriptor", metavar="NAME",
        help="default (shipped), official (HardNet++), sosnet, hynet, or a file; also of "
        "+rekd-hardnet")  # fmt: skip
    add("--levels-up", type=int, metavar="N", help="pyramid levels above the image's size")
    add("--levels-down", type=int, metavar="N", help="pyramid levels below the image's size")
    add("--nms-size", "--nms-window", dest="nms_window", type=int, metavar="PX", help="odd")
    add("--border", type=int, metavar="PX", help="margin without keypoints")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any other option")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> None:
    protocol = PROTOCOLS[arguments.protocol]
    if arguments.refine and not protocol.measures_matches:
        known = ", ".join(name for name, one in PROTOCOLS.items() if one.measures_matches)
        raise ValueError(
            f"--refine moves matches, and protocol {protocol.name} has none; protocols are {known}"
        )
    everything = list_pairs(arguments.data)
    pairs = select_split(
        everything, arguments.split, without_high_resolution=protocol.without_high_resolution
    )
    if missing := what_is_missing(everything, arguments.split):
        logger.warning("%s: %s", arguments.data, missing)
    methods = _load_extractors(arguments, protocol)
    sys.stdout.write(_run(arguments, protocol, pairs, methods))


def read_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the options for this project's methods as ``key=value``."""
    given = {
        "weights": arguments.detector_weights,
        "descriptor.weights": arguments.descriptor,
        "detector.levels_up": arguments.levels_up,
        "detector.levels_down": arguments.levels_down,
        "detector.nms_window_px": arguments.nms_window,
        "detector.border_px": arguments.border,
    }
    return [f"{k}={v}" for k, v in given.items() if v is not None] + list(arguments.set)


def _load_extractors(
    arguments: argparse.Namespace, protocol: Protocol
) -> dict[str, NamedExtractor]:
    require_distinct(arguments.method)
    names = {name: name for name in arguments.method}
    if arguments.features is not None:
        names = _stored_names(arguments.features, arguments.method)
    if not names:
        raise ValueError(f"give at least one --method: {', '.join(EXTRACTORS)}, or --features")
    require_positive(arguments, "num_extracted", "num_keypoints", "num_threads")
    is_folder = arguments.data.is_dir()
    return {
        label: load_extractor(
            name,
            arguments.num_extracted or protocol.num_extracted,
            device=arguments.device,
            overrides=read_overrides(arguments),
            weights=arguments.weights,
            image_root=arguments.data if is_folder else arguments.data.parent,
        )
        for label, name in names.items()
    }


def _stored_names(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Methods that read the files of a folder, by label: those of the given names, or all."""
    paths = [folder / f"{name}.h5" for name in names] or sorted(folder.glob("*.h5"))
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no features file {path}")
    if not paths:
        raise FileNotFoundError(f"no features file METHOD.h5 in {folder}")
    return {f"{path.stem} (stored)": f"file:{path}" for path in paths}


def _run(
    arguments: argparse.Namespace,
    protocol: Protocol,
    pairs: Sequence[HomographyPair],
    methods: dict[str, NamedExtractor],
) -> str:
    out = arguments.out / arguments.name if arguments.name else arguments.out
    num_used = arguments.num_keypoints or protocol.num_used
    suite = Suite(
        protocol=protocol,
        pairs=pairs,
        num_used=num_used,
        cache_dir=arguments.out / "features",
        num_threads=arguments.num_threads,
        filter=MatchConfig(filter=arguments.filter),
    )
    labels = _label_conditions(methods, refine=arguments.refine)
    results = {
        label: run_extractor(suite, method, refine=label.endswith(REFINED))
        for label, method in labels.items()
    }
    record: dict[str, Any] = {
        "program": "hpatches",
        "protocol": protocol.name,
        "description": _describe(arguments, protocol, num_used),
        "split": arguments.split,
        "data": _describe_data(arguments.data, pairs),
        "date": today(),
        "experiment": arguments.name,
        "num_keypoints": num_used,
        "methods": {
            name: _describe_extractor(protocol, method, results[name])
            for name, method in labels.items()
        },
    }
    columns, rows = make_sequence_rows(protocol, results)
    write_csv(out / "sequences.csv", columns, rows)
    tables = make_tables(protocol, results, arguments.split)
    if arguments.refine and protocol.precise:
        tables = [*make_tables(protocol, results, arguments.split, precise=True), *tables]
    return write_report(
        out,
        record,
        tables,
        make_plots(protocol, results, arguments.split),
    )


def _label_conditions(
    methods: dict[str, NamedExtractor], *, refine: bool
) -> dict[str, NamedExtractor]:
    """Return the methods by their names in tables, each followed by itself with refinement."""
    endings = ("", REFINED) if refine else ("",)
    return {name + ending: method for name, method in methods.items() for ending in endings}


def _describe(arguments: argparse.Namespace, protocol: Protocol, num_used: int) -> str:
    budget = _budget(arguments, protocol, num_used)
    return f"{protocol.description}; {budget}{filter_remark(arguments.filter)}"


def _budget(arguments: argparse.Namespace, protocol: Protocol, num_used: int) -> str:
    extracted = arguments.num_extracted or protocol.num_extracted
    if num_used >= NO_CAP:
        return "no cap on keypoints"
    return f"best {num_used} of {extracted} keypoints"


def _describe_data(data: Path, pairs: Sequence[HomographyPair]) -> str:
    sequences = list(dict.fromkeys(pair.sequence for pair in pairs))
    shown = ", ".join(sequences) if len(sequences) <= 12 else f"{len(sequences)} sequences"
    return f"{data.name} ({shown}), {len(pairs)} pairs"


def _describe_extractor(
    protocol: Protocol, method: NamedExtractor, results: Sequence[PairResult]
) -> dict[str, Any]:
    parts = {"all": "", "view": "view", "illum": "illum"}
    return {
        **method.describe(),
        "has_orientation": method.has_orientation,
        "summary": {
            label: protocol.summarise([r.metrics for r in select_kind(results, kind)])
            for label, kind in parts.items()
            if select_kind(results, kind)
        },
        "pairs": [asdict(result) for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
