"""Fills the HTML templates of this package, and those of others that build on them.

``base.html`` is the frame of a page: its style, title and first line. ``macros.html`` holds the
parts that go into it: sections, tiles, tables, pictures and text to unfold. A template of another
folder may use both::

    {% extends "base.html" %}
    {% import "macros.html" as show %}
    {% block content %}
    {% call show.section("Results") %}
      {{ show.table(["method", "AUC"], [["rekd", "71.2"]]) }}
      {{ show.picture(curve) }}
    {% endcall %}
    {% endblock %}

with ``render_template(Path("that.html"), title="...", lead="...", curve=Picture(...))``. All values
are escaped, a section without content is left out, and the page needs no other file.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent
"""Holds ``base.html`` and ``macros.html``."""
EMPTY_CELLS = ("", "-")
"""Cells of a table that say that there is no value."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Hold a picture that is stored inside the page.

    Attributes:
        data: the bytes of an image file.
        kind: of the file: ``png``, ``jpeg`` or ``svg+xml``.
        caption: text below the picture, which also stands for it where it cannot be shown.
    """

    data: bytes
    kind: str
    caption: str

    @property
    def url(self) -> str:
        """Return the whole picture as a ``data:`` address."""
        code = base64.b64encode(self.data).decode("ascii")
        return f"data:image/{self.kind};base64,{code}"


def render_template(template: Path, **values: object) -> str:
    """Return the text of an HTML page.

    Args:
        template: file of a Jinja2 template; it finds the templates of its own folder first and
            those of this package next.
        values: what the template names. Every name must be given; ``base.html`` needs ``title``
            and ``lead``, both plain text.

    Raises:
        jinja2.TemplateNotFound: the file, or one that it builds on, does not exist.
        jinja2.UndefinedError: the template names a value that is not given.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["column_kinds"] = column_kinds
    return environment.get_template(template.name).render(values)


def column_kinds(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return ``number`` or ``text`` for each column of a table; numbers are set to the right."""
    return ["number" if _holds_numbers(column) else "text" for column in zip(*rows, strict=True)]


def _holds_numbers(column: Sequence[str]) -> bool:
    cells = [cell.strip() for cell in column if cell.strip() not in EMPTY_CELLS]
    return bool(cells) and all(_is_number(cell) for cell in cells)


def _is_number(text: str) -> bool:
    digits = text.replace(",", "").removesuffix("%").strip().lstrip("-")
    return digits.replace(".", "", 1).isdigit()
