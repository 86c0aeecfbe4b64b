import ast
import json
import os
import subprocess
import sys

import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.plugin import enable as module
from rekd_hloc.plugin.enable import FILES, disable, enable, status
from tests.helpers import ROOT
from tests.hloc_home import DOUBLE, fresh_hloc

START = "import site; site.addsitedir({site!r}); import sys; sys.argv = {argv!r}; import runpy; "


def run(site, code, *, paths):
    """Python as it would start with ``site`` as its site-packages."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    start = START.format(site=str(site), argv=["hloc", "--help"])
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=site)


def test_stock_hloc_offers_our_confs_until_disabled(tmp_path):
    site, tiny = tmp_path / "site", tmp_path / "elsewhere" / "hloc"
    site.mkdir()
    tiny.mkdir(parents=True)
    (tiny / "__init__.py").touch()
    program = "confs = {'NN-mutual': 0}\nif __name__ == '__main__': print(*confs)\n"
    (tiny / "match_features.py").write_text(program)
    code = "runpy.run_module('hloc.match_features', run_name='__main__', alter_sys=True)"
    for change, is_there in ((enable, True), (disable, False)):
        change(site)
        done = run(site, code, paths=[tiny.parent, ROOT])
        assert (done.returncode, done.stderr) == (0, "")
        assert ("NN-rekd" in done.stdout.split()) == is_there
        assert "NN-mutual" in done.stdout.split()
    assert list(site.iterdir()) == []


def test_a_start_without_hloc_loads_nothing_of_ours(tmp_path):
    enable(tmp_path)
    code = "sys.exit(any(name.startswith('rekd_hloc') for name in sys.modules))"
    assert run(tmp_path, code, paths=[ROOT]).returncode == 0


def test_a_hook_left_behind_by_an_uninstalled_package_is_harmless(tmp_path):
    enable(tmp_path)
    empty = tmp_path / "rekd_hloc"  # hides an installed one, and is no package with a plugin
    empty.mkdir()
    (empty / "__init__.py").touch()
    code = "import hloc.matchers; print('fine')"
    done = run(tmp_path, code, paths=[tmp_path, DOUBLE])
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_the_hook_knows_one_module_of_the_package_so_that_it_fits_later_versions():
    tree = ast.parse(FILES["_rekd_hloc_hook.py"])
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"sys", "rekd_hloc.plugin"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_enabling_says_what_was_written_and_twice_is_once(tmp_path):
    for _ in range(2):
        said = enable(tmp_path)
        for name in FILES:
            assert str(tmp_path / name) in said
        assert "rekd-hloc hloc disable" in said
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_disabling_says_what_was_removed(tmp_path):
    assert disable(tmp_path) == f"nothing to remove in {tmp_path}"
    enable(tmp_path)
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    (cache / "_rekd_hloc_hook.cpython-311.pyc").touch()
    (cache / "other.cpython-311.pyc").touch()
    said = disable(tmp_path)
    for name in FILES:
        assert str(tmp_path / name) in said
    assert [path.name for path in tmp_path.rglob("*.py*")] == ["other.cpython-311.pyc"]


def test_status_tells_enabled_damaged_and_not(tmp_path):
    assert "not enabled" in str(status(tmp_path))
    enable(tmp_path)
    assert f"enabled: {tmp_path}" in str(status(tmp_path))
    for name in FILES:
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text("# changed\n")
        assert "damaged" in str(status(tmp_path))
        (tmp_path / name).unlink()
        assert "damaged" in str(status(tmp_path))
        (tmp_path / name).write_text(text)
    assert "damaged" not in str(status(tmp_path))


def test_status_as_json_has_truth_values(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))

    def read():
        assert main(["hloc", "status", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert read()["is_enabled"] is False
    enable(tmp_path)
    record = read()
    assert (record["is_enabled"], record["is_damaged"]) == (True, False)
    assert record["folder"] == str(tmp_path)
    (tmp_path / record["present"][0]).unlink()
    record = read()
    assert (record["is_enabled"], record["is_damaged"]) == (False, True)
    assert isinstance(record["hloc_is_installed"], bool)


def test_status_names_hloc_or_what_to_install(tmp_path, monkeypatch):
    with fresh_hloc("double"):
        assert DOUBLE in str(status(tmp_path))
    monkeypatch.setitem(sys.modules, "hloc", None)
    assert "pip install --no-deps" in str(status(tmp_path))


def test_the_default_folder_is_this_environments_site_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path / name))
    (tmp_path / "purelib").mkdir()
    enable()
    assert (tmp_path / "purelib" / "rekd_hloc_hook.pth").is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/_rekd_hloc_hook.py.*virtual environment"):
        enable(tmp_path / "file")
