import base64

import jinja2
import pytest

from rekd_hloc.viz.templates import FOLDER, Picture, column_kinds, render_template

TEMPLATE = """\
{% extends "base.html" %}
{% import "macros.html" as show %}
{% block content %}
{% call show.section("Results & more") %}
{{ show.paragraph(text) }}
{{ show.tiles(tiles) }}
{{ show.table(columns, rows, caption="Table <1>") }}
{{ show.picture(picture) }}
{{ show.picture_row([picture, picture]) }}
{{ show.details("All <options>", text) }}
{% endcall %}
{% call show.section("Empty", note=true) %}
{{ show.paragraph("") }}
{{ show.tiles({}) }}
{{ show.table(columns, []) }}
{{ show.picture(none) }}
{{ show.picture_row([]) }}
{{ show.details("Nothing", "") }}
{% endcall %}
{% endblock %}
"""


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "results.html"
    path.write_text(TEMPLATE, encoding="utf-8")
    return path


def render(template, **more):
    values = {
        "title": "A <b>title</b>",
        "lead": "lead & more",
        "text": "<script>alert(1)</script>",
        "tiles": {"images <registered>": "5 of 5"},
        "columns": ["name", "error"],
        "rows": [["<a>", "1.25"], ["b", "-"]],
        "picture": Picture(b"pixels", "png", 'a "caption"'),
    }
    return render_template(template, **(values | more))


def test_a_template_of_another_folder_builds_on_the_frame_and_the_parts(template):
    page = render(template)
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>\n")
    code = base64.b64encode(b"pixels").decode()
    assert page.count(f'src="data:image/png;base64,{code}"') == 3
    assert '<th scope="col" class="number">error</th>' in page
    assert '<td class="number">1.25</td>' in page
    assert '<td class="text">b</td>' in page


def test_every_value_is_escaped(template):
    page = render(template)
    for text in ("<script", "<a>", "<b>title", "<options>", "<registered>", "<1>", 'a "caption"'):
        assert text not in page
    assert page.count("A &lt;b&gt;title&lt;/b&gt;") == 2  # <title> and <h1>
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Results &amp; more" in page


def test_what_is_empty_is_left_out_with_its_section(template):
    page = render(template)
    assert "Empty" not in page
    assert "Nothing" not in page
    assert page.count("<section") == 1
    assert page.count("<table>") == page.count("<details>") == 1


def test_a_table_without_columns_has_no_heading(template):
    page = render(template, columns=[])
    assert "<thead>" not in page
    assert '<td class="number">1.25</td>' in page


def test_a_value_that_is_missing_and_a_template_that_is_missing_are_errors(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="lead"):
        render_template(FOLDER / "base.html", title="x")
    with pytest.raises(jinja2.TemplateNotFound, match=r"none\.html"):
        render_template(tmp_path / "none.html", title="x", lead="y")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["1", "2,345", "-0.5", "12.5%", "3 %"], "number"),
        (["1", "-", ""], "number"),
        (["1", "2 of 3"], "text"),
        (["-", ""], "text"),
        (["1.2.3"], "text"),
    ],
)
def test_columns_of_numbers_are_told_from_text(column, kind):
    assert column_kinds([[cell, "x"] for cell in column]) == [kind, "text"]


def test_a_table_without_rows_has_no_columns():
    assert column_kinds([]) == []
