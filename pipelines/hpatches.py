"""Recipe: image sequences in, the paper's tables out, for any methods side by side.

``python -m pipelines.hpatches DATA OUT --method rekd-fast --method sift`` writes OUT/table.md,
OUT/sequences.csv, OUT/results.json, curves and the page OUT/report.html. Copy it and change what
you need; ``run`` reads from top to bottom. ``python -m evaluation.hpatches`` does the same with
every option of the paper's code.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.command_line import exit_status, make_parser
from evaluation.extractors.registry import EXTRACTORS, load_extractor
from evaluation.homography.homographies import list_pairs
from evaluation.homography.protocols import PROTOCOLS
from evaluation.homography.release import SPLITS, select_split
from evaluation.homography.suite import (
    Suite,
    make_plots,
    make_sequence_rows,
    make_tables,
    run_extractor,
)
from evaluation.reporting.report import today, write_csv, write_report


def run(
    data: Path,
    out: Path,
    *,
    methods: Sequence[str] = ("rekd-fast", "sift"),
    protocol_name: str = "rekd",
    split: str = "full",
    num_threads: int = 1,
) -> str:
    """Evaluate methods on image pairs with known homographies.

    Args:
        data: the HPatches release, Oxford sequences, or a list of pairs.
        out: folder to write; features are stored there, so that a second run is quick.
        methods: names, see ``evaluation.extractors.registry``.
        protocol_name: rekd, keynet, superpoint, d2net or homography-auc.
        split: full, view, illum, a, b, c or debug.
        num_threads: sequences at once.

    Returns:
        The tables as Markdown.
    """
    protocol = PROTOCOLS[protocol_name]

    # Pairs 1 -> 2..6 of every sequence; what is missing or unreadable is named here in one message.
    pairs = select_split(
        list_pairs(data), split, without_high_resolution=protocol.without_high_resolution
    )
    suite = Suite(
        protocol=protocol,
        pairs=pairs,
        num_used=protocol.num_used,
        cache_dir=out / "features",
        num_threads=num_threads,
    )

    # A method is a function from an image file to features; NamedExtractor of
    # evaluation.extractors.registry makes one of your own function, and `file:PATH` reads
    # features that hloc stored.
    loaded = {
        name: load_extractor(name, protocol.num_extracted, image_root=data) for name in methods
    }
    results = {name: run_extractor(suite, method) for name, method in loaded.items()}

    # One row for each method and sequence. Shares are in per cent in tables, in [0, 1] elsewhere.
    write_csv(out / "sequences.csv", *make_sequence_rows(protocol, results))
    record = {
        "program": "pipelines.hpatches",
        "protocol": protocol.name,
        "description": f"{protocol.description}; best {suite.num_used} keypoints",
        "data": f"{data.name}, {len(pairs)} pairs",
        "date": today(),
        "methods": {
            name: {
                "weights": method.weights,
                "provenance": method.provenance,
                "mean": protocol.summarise([result.metrics for result in results[name]]),
            }
            for name, method in loaded.items()
        },
    }
    tables = make_tables(protocol, results, split)
    return write_report(out, record, tables, make_plots(protocol, results, split))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 2 for a mistake that the log names."""
    parser = make_parser("pipelines.hpatches", __doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", action="append", metavar="NAME", help=", ".join(EXTRACTORS))
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="rekd")
    parser.add_argument("--split", choices=SPLITS, default="full")
    parser.add_argument("--num-threads", type=int, default=1, help="sequences at once")
    options = parser.parse_args(argv)

    def work() -> None:
        table = run(
            options.data,
            options.out,
            methods=options.method or ["rekd-fast", "sift"],
            protocol_name=options.protocol,
            split=options.split,
            num_threads=options.num_threads,
        )
        sys.stdout.write(table)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
