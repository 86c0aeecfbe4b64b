"""The form of a report page: one HTML file with its style and pictures inside."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

STYLE = """
:root { color-scheme: light; --ink: #1f2430; --soft: #666e7d; --line: #e2e5ea; --mark: #2563a8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f6f7f9; line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 0 0 12px; }
.lead { color: var(--soft); margin: 0 0 20px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin: 0 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 0 0 18px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 23px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.note { background: #fff6e5; border-color: #efd9a7; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
td.number, th.number { text-align: right; }
figure { margin: 0 0 16px; }
figure img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px; }
pre { background: #f6f7f9; padding: 12px; border-radius: 6px; overflow: auto; font-size: 12px; }
summary { cursor: pointer; color: var(--mark); }
"""


def make_page(title: str, lead: str, parts: Iterable[str]) -> str:
    """The whole document; ``parts`` are HTML, title and lead are text."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def make_section(title: str, content: str, *, is_note: bool = False) -> str:
    """A framed part with a heading; nothing if there is no content."""
    if not content:
        return ""
    kind = ' class="note"' if is_note else ""
    return f"<section{kind}>\n<h2>{html.escape(title)}</h2>\n{content}\n</section>"


def make_paragraph(text: str) -> str:
    """Text as a paragraph; nothing for no text."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def make_tiles(values: Mapping[str, str]) -> str:
    """Large figures with a small name below each."""
    tiles = [
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for name, value in values.items()
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; columns of figures are set to the right."""
    body = [list(row) for row in rows]
    if not body:
        return ""
    kinds = [
        ' class="number"' if all(_is_number(row[k]) for row in body) else ""
        for k in range(len(body[0]))
    ]
    lines = ["<table>"]
    if any(head):
        cells = zip(head, kinds, strict=True)
        lines.append("<tr>" + "".join(f"<th{k}>{html.escape(c)}</th>" for c, k in cells) + "</tr>")
    for row in body:
        cells = zip(row, kinds, strict=True)
        lines.append("<tr>" + "".join(f"<td{k}>{html.escape(c)}</td>" for c, k in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def make_figure(data: bytes, kind: str, caption: str) -> str:
    """A picture inside the page; ``kind`` is ``png`` or ``jpeg``."""
    text = html.escape(caption)
    code = base64.b64encode(data).decode("ascii")
    return (
        f'<figure><img alt="{text}" src="data:image/{kind};base64,{code}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def make_row(figures: Iterable[str]) -> str:
    """Figures side by side where the page is wide enough."""
    found = [figure for figure in figures if figure]
    return f'<div class="row">{"".join(found)}</div>' if found else ""


def make_details(title: str, text: str) -> str:
    """Text that is folded away until one asks for it."""
    return (
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
    )


def _is_number(text: str) -> bool:
    bare = text.replace(",", "").removesuffix("%").strip()
    return bool(bare) and bare.lstrip("-").replace(".", "", 1).isdigit()
