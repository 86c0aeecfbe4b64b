import sys

import pytest

from rekd_hloc import plugin
from rekd_hloc.plugin.__main__ import main
from tests.hloc_home import KINDS, fresh_hloc


@pytest.fixture(params=KINDS)
def hloc(request):
    with fresh_hloc(request.param) as kind:
        yield kind


def test_the_command_line_is_hlocs_with_our_confs(hloc, capsys):
    for module, words in (
        ("extract_features", ["--image_dir", "--as_half", "rekd-n8000", "rekd-paper"]),
        ("match_features", ["--pairs", "NN-mutual", "NN-rekd-ratio", "adalam-rekd"]),
    ):
        with pytest.raises(SystemExit) as end:
            main([module, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        for word in words:
            assert word in shown


def test_an_unknown_conf_is_refused_by_hlocs_parser(hloc, capsys, tmp_path):
    arguments = ["--image_dir", str(tmp_path), "--export_dir", str(tmp_path), "--conf", "redk"]
    with pytest.raises(SystemExit) as end:
        main(["extract_features", *arguments])
    assert end.value.code == 2
    assert "invalid choice: 'redk'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nonsense", "utils.io.os", "../etc", ""])
def test_an_unknown_module_is_a_mistake(name, capsys):
    with fresh_hloc("double"):
        assert main([name]) == 2
    error = capsys.readouterr().err
    assert f"no module {name!r}" in error
    assert "usage" in error


def test_usage_is_shown_on_request_and_when_nothing_is_asked_for(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert capsys.readouterr().err.count("usage: python -m rekd_hloc.plugin") == 2


def test_without_hloc_registering_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hloc", None)
    with pytest.raises(ImportError, match="pip install --no-deps") as error:
        plugin.register()
    assert error.value.name == "hloc"
    assert main(["extract_features"]) == 2
    assert "hloc is not installed" in capsys.readouterr().err
