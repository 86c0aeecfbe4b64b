"""A Markdown document whose measured blocks are rewritten and whose other text stays.

A block stands between ``<!-- begin NAME ... -->`` and ``<!-- end NAME -->``; titles and remarks
outside are written by people.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.reporting.curves import draw_panels
from evaluation.reporting.report import format_markdown
from evaluation.reporting.results_imc import make_overviews
from evaluation.reporting.results_plan import Part
from evaluation.reporting.results_records import Record

NOT_MEASURED = "Not measured yet."


def has_content(document: str, name: str) -> bool:
    """Whether the block is there and holds more than the remark that nothing is measured."""
    found = _pattern(name).search(document)
    content = found[1].strip() if found else ""
    return bool(content) and not content.startswith(NOT_MEASURED)


def replace_block(document: str, name: str, title: str, body: str) -> str:
    """The document with the block's content replaced; without one, it is appended under a title."""
    begin, end = f"<!-- begin {name}: written by `make results` -->", f"<!-- end {name} -->"
    block = f"{begin}\n\n{body.strip()}\n\n{end}"
    pattern = _pattern(name)
    if pattern.search(document):
        return pattern.sub(lambda _: block, document, count=1)
    return f"{document.rstrip()}\n\n## {title}\n\n{block}\n".lstrip()


def format_part(
    part: Part, records: Sequence[Record], missing: Sequence[str], figures: Path, base: Path
) -> str:
    """An overview of many tables, the tables of a part, figures, what is missing.

    Beside each table stands what it was made with.

    Args:
        part: what is shown.
        records: its results.
        missing: methods that it lacks.
        figures: folder that figures are drawn into.
        base: folder of the document, which links are relative to.
    """
    lines = [format_markdown(table) for table in make_overviews(records)]
    for number, record in enumerate(records):
        lines += [record.text, ""] if record.text else _format_record(record)
        if record.plots:
            ending = f"-{number + 1}" if number else ""
            picture = figures / f"results-{record.protocol}{ending}.png"
            draw_panels(record.plots, picture)
            link = picture.relative_to(base) if picture.is_relative_to(base) else picture
            lines += [f"![{part.title}]({link.as_posix()})", ""]
        lines += [*_format_made(record), ""]
    if missing:
        lines += [f"Not measured: {', '.join(missing)}.", ""]
    lines.append(_command(part))
    return "\n".join(lines)


def format_missing(part: Part) -> str:
    """What stands in a block of which nothing is measured."""
    return f"{NOT_MEASURED} {_command(part)}"


def _command(part: Part) -> str:
    methods = ["..."] if part.methods else []
    return f"`{part.command('DATA', 'runs/results', methods)}`"


def _format_record(record: Record) -> list[str]:
    lines = [f"Protocol **{record.protocol}**: {record.description}. Data: {record.data}.", ""]
    return lines + [format_markdown(table) for table in record.tables]


def _format_made(record: Record) -> list[str]:
    """One line for each date of measuring: the methods with their weights or versions."""
    by_date: dict[str, list[str]] = {}
    for name, made in record.methods.items():
        suffix = "" if made.weights == "-" else f" `{made.weights}`"
        by_date.setdefault(made.date, []).append(f"{name}{suffix}")
    return [f"Measured {date} with {'; '.join(names)}." for date, names in by_date.items()]


def _pattern(name: str) -> re.Pattern[str]:
    escaped = re.escape(name)
    return re.compile(
        rf"<!-- begin {escaped}(?![\w-])[^>]*-->(.*?)<!-- end {escaped} -->", flags=re.DOTALL
    )
