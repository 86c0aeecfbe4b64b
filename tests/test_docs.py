"""The documents: readable sentences, links that lead somewhere, and code that runs."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest
import typer
import yaml
from PIL import Image

import rekd_hloc.demo
from rekd_hloc.cli.main import app
from rekd_hloc.demo import DEMO_IMAGES
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {"command-line.md"}
"""Pages that ``make docs`` makes."""
PAGES = [page for page in PAGES if page.name not in GENERATED]
MAX_WORDS = 25
MAX_LINES = {"README.md": 150, "benchmarks.md": 150}
MAX_COLUMNS = 6
REPOSITORY = "https://github.com/rekd-hloc/rekd_hloc/blob/main/"
RAW = "https://raw.githubusercontent.com/rekd-hloc/rekd_hloc/main/"
FENCE = re.compile(
    r"(?:<!-- (?P<mark>not run|slow): (?P<reason>[^>]+) -->\n)?^[ ]*```(?P<kind>\w*)\n"
    r"(?P<code>.*?)^[ ]*```$",
    re.MULTILINE | re.DOTALL,
)


def ids(pages):
    return [page.name for page in pages]


def prose_of(text):
    """Paragraphs and list items without code, tables, headings, comments and link targets."""
    text = re.sub(r"^[ ]*```.*?^[ ]*```$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    lines = []
    for line in text.split("\n"):
        stripped = line.strip()
        if re.match(r"(\||#|:::|!!!|--8<--|options:|members:)", stripped):
            stripped = ""
        elif re.match(r"([*-]|\d+\.) ", stripped):
            lines.append("")
        lines.append(stripped)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", "\n".join(lines))
    text = re.sub(r"`[^`]*`", "code", text)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def sentences_of(text):
    return [
        sentence
        for paragraph in prose_of(text)
        for sentence in re.split(r"(?<=[.!?:])[*)_\"]*\s+", paragraph)
    ]


def test_sentences_are_told_apart():
    text = "# No. Heading\n\nOne two. Three `a b c`\nfour!\n\n| a | b |\n\n* Item: more.\n"
    assert sentences_of(text) == ["One two.", "Three code four!", "* Item:", "more."]


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_sentences_have_at_most_25_words(page):
    long = [s for s in sentences_of(page.read_text(encoding="utf-8")) if count_words(s) > MAX_WORDS]
    assert not long, "\n".join(f"{count_words(s)} words: {s}" for s in long)


def count_words(sentence):
    return len(re.findall(r"[^\s]*\w[^\s]*", sentence))


@pytest.mark.parametrize("name", MAX_LINES)
def test_a_page_that_everybody_reads_is_short(name):
    page = next(page for page in PAGES if page.name == name)
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_LINES[name]


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_tables_are_narrow(page):
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r"\|[-:| ]+\|", line.strip()):
            columns = line.strip().strip("|").count("|") + 1
            assert columns <= MAX_COLUMNS, f"{columns} columns after {line}"


def test_the_readme_has_one_chart_and_small_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"!\[", text)) == 2  # the model and one chart
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.strip().split("\n")
        assert len(rows) - 2 <= 6
        assert rows[0].count("|") - 1 <= 5


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        for start in (REPOSITORY, RAW):
            path = path.replace(start, f"{ROOT}/")
        if re.match(r"[a-z]+://|mailto:", path) or path in GENERATED:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}"


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_readme_has_absolute_links_only():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", text))


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    there = {page.name for page in PAGES if page.parent.name == "docs"} | GENERATED
    assert set(listed) == there


def test_every_picture_is_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [
        p for p in (ROOT / "docs").rglob("*") if p.suffix in (".png", ".jpg", ".svg", ".gif")
    ]
    for picture in pictures:
        assert str(picture.relative_to(ROOT / "docs")) in text, f"nothing shows {picture}"


def blocks_of(page, kind):
    """(code, mark, reason) of every block of a kind in a page."""
    return [
        (match["code"], match["mark"], match["reason"])
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
        if match["kind"] == kind
    ]


def run_python(page, folder, monkeypatch, marks):
    """Run a page's blocks one after the other in one namespace, those with other marks not."""
    monkeypatch.chdir(folder)
    namespace = {"__name__": page.stem}
    for number, (code, mark, _) in enumerate(blocks_of(page, "python"), start=1):
        if mark in marks:
            exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)


WITH_CODE = [page for page in PAGES if blocks_of(page, "python")]
FIRST_READ = ("README.md", "quickstart.md")
SLOW = [page for page in WITH_CODE if any(m == "slow" for _, m, _ in blocks_of(page, "python"))]


@pytest.fixture(scope="module")
def small_images(tmp_path_factory):
    """The demo's images at a quarter of their area, which takes a quarter of the time."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted(DEMO_IMAGES.iterdir()):
        with Image.open(path) as image:
            image.resize((320, 240)).save(folder / path.name)
    return folder


@pytest.mark.parametrize(
    "page",
    [
        page if page.name in FIRST_READ else pytest.param(page, marks=pytest.mark.slow)
        for page in WITH_CODE
    ],
    ids=ids(WITH_CODE),
)
def test_python_runs(page, tmp_path, monkeypatch, small_images):
    monkeypatch.setattr(rekd_hloc.demo, "DEMO_IMAGES", small_images)
    run_python(page, tmp_path, monkeypatch, (None,))


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=ids(SLOW))
def test_slow_python_runs(page, tmp_path, monkeypatch):
    run_python(page, tmp_path, monkeypatch, (None, "slow"))


@pytest.mark.parametrize("page", WITH_CODE, ids=ids(WITH_CODE))
def test_python_that_is_not_run_compiles_and_says_why(page):
    for code, mark, reason in blocks_of(page, "python"):
        compile(code, page.name, "exec")
        assert mark is None or len(reason.split()) > 2


def commands_of(page):
    """The lines of a page's shell blocks, those that end in a backslash joined with the next."""
    for code, *_ in blocks_of(page, ""):
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            yield line.strip().split(" #")[0]


def programs(page):
    return [line for line in commands_of(page) if re.match(r"(\.venv/bin/)?rekd-hloc ", line)]


SHELL = [(page.name, line) for page in PAGES for line in programs(page)]


@pytest.mark.parametrize(("page", "line"), SHELL)
def test_the_command_line_knows_every_command_of_the_docs(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    group = typer.main.get_command(app)
    arguments = shlex.split(line)[1:]
    while hasattr(group, "commands"):
        name = arguments.pop(0)
        assert name in group.commands, f"{page}: no command {name}"
        group = group.commands[name]
    with group.make_context("rekd-hloc", arguments) as context:
        assert context.params is not None


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_modules_and_targets_of_the_docs_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in commands_of(page):
        if found := re.match(r"python -m ((?:evaluation|training|pipelines|rekd_hloc)\S*)", line):
            assert importlib.util.find_spec(found[1]) is not None, f"{page.name}: {line}"
        if line.startswith("make "):
            names = [word for word in line.split()[1:] if "=" not in word]
            assert set(names) <= set(targets), f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_programs_of_the_evaluation_know_their_options(page, capsys):
    for line in commands_of(page):
        found = re.match(r"python -m (evaluation\S*) (.*)", line)
        if found is None:
            continue
        name = f"{found[1]}.__main__" if (ROOT / found[1].replace(".", "/")).is_dir() else found[1]
        module = importlib.import_module(name)
        with pytest.raises(SystemExit):
            module.main(["--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", found[2]):
            assert re.search(rf"{option}\b(?!-)", known), f"{page.name}: {option} of {found[1]}"


def test_the_citation_names_this_version_and_the_paper():
    text = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert text["cff-version"] == "1.2.0"
    assert text["version"] == rekd_hloc.__version__
    assert {"message", "title", "authors"} <= set(text)
    assert text["references"][0]["authors"][0]["family-names"] == "Lee"


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == rekd_hloc.__version__


def test_the_command_line_page_can_be_made(tmp_path):
    out = tmp_path / "command-line.md"
    command = ["-m", "typer", "rekd_hloc.cli.main", "utils", "docs", "--name", "rekd-hloc"]
    subprocess.run([sys.executable, *command, "--output", str(out)], check=True, cwd=ROOT)
    text = out.read_text(encoding="utf-8")
    for name in typer.main.get_command(app).commands:
        assert f"`rekd-hloc {name}`" in text
