import importlib
import subprocess
import sys

import pytest

import rekd_hloc
from rekd_hloc import plugin
from rekd_hloc.config import PRESETS
from rekd_hloc.plugin.__main__ import main
from rekd_hloc.plugin.confs import (
    BUDGETS,
    MAX_KEYPOINTS,
    extractor_confs,
    matcher_confs,
    orientation_filter,
)
from rekd_hloc.plugin.confs_loader import ConfsLoader
from rekd_hloc.plugin.finder import Finder
from rekd_hloc.plugin.hook import PACKAGES, install
from tests.hloc_home import KINDS, fresh_hloc

EXTRACTORS = ["rekd"]
MATCHERS = ["nearest_rekd", "orientation_filter", "adalam_rekd"]


@pytest.fixture(params=KINDS)
def hloc(request):
    with fresh_hloc(request.param) as kind:
        yield kind


def load(name):
    return importlib.import_module(f"hloc.{name}")


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_confs_and_classes_are_there_in_any_import_order(hloc, when):
    if when == "before":
        plugin.register()
    load("extractors")
    features = load("extract_features")
    if when == "between":
        plugin.register()
    matching = load("match_features")
    load("matchers")
    if when == "after":
        plugin.register()
    assert set(extractor_confs()) <= set(features.confs)
    assert set(matcher_confs()) <= set(matching.confs)
    dynamic_load = load("utils.base_model").dynamic_load
    for package, names in (("extractors", EXTRACTORS), ("matchers", MATCHERS)):
        for name in names:
            found = dynamic_load(load(package), name)
            assert found.__module__ == f"hloc.{package}.{name}"
            assert issubclass(found, load("utils.base_model").BaseModel)


def test_hlocs_own_confs_and_classes_stay(hloc):
    own_matching = dict(load("match_features").confs)
    own_features = dict(load("extract_features").confs)
    plugin.register()
    assert own_matching.items() <= load("match_features").confs.items()
    assert own_features.items() <= load("extract_features").confs.items()
    dynamic_load = load("utils.base_model").dynamic_load
    assert dynamic_load(load("matchers"), "nearest_neighbor").__name__ == "NearestNeighbor"


def test_registering_again_changes_nothing(hloc):
    plugin.register()
    confs = load("extract_features").confs
    confs["rekd"]["model"]["max_keypoints"] = 77
    load("extractors"), load("matchers")
    for _ in range(2):
        rekd_hloc.register()
        install()
    assert confs["rekd"]["model"]["max_keypoints"] == 77
    assert sum(isinstance(finder, Finder) for finder in sys.meta_path) == 1
    for name, folder in PACKAGES.items():
        assert list(sys.modules[name].__path__).count(folder) == 1


def test_every_conf_names_a_class_that_exists(hloc):
    plugin.register()
    dynamic_load = load("utils.base_model").dynamic_load
    for package, confs in (("extractors", extractor_confs()), ("matchers", matcher_confs())):
        for conf in confs.values():
            assert dynamic_load(load(package), conf["model"]["name"])


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


def test_importing_the_plugin_is_cheap_and_needs_no_hloc():
    code = (
        "import sys, rekd_hloc.plugin; "
        "heavy = {'torch', 'numpy', 'hloc', 'cv2', 'omegaconf', 'pycolmap'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_finder_leaves_every_other_module_alone():
    finder = Finder(PACKAGES, {})
    for name in ("hloc", "hloc.reconstruction", "json", "hloc.extractors.rekd"):
        assert finder.find_spec(name, None) is None


def test_the_finder_passes_on_that_hloc_is_absent(monkeypatch):
    assert Finder(PACKAGES, {}).find_spec("hloc.extractors", []) is None


class Source:
    def __init__(self, text):
        self.text = text

    def get_source(self, fullname):
        return self.text


def run_loader(text, function="matcher_confs"):
    space = {}
    exec(ConfsLoader(Source(text), "made-up.py", function).get_code("made_up"), space)
    return space


@pytest.mark.parametrize(
    "assignment",
    ["confs = {'own': 1}", "confs: dict = {'own': 1}", "confs = dict(\n    own=1,\n)"],
)
def test_entries_are_added_behind_the_assignment_and_lines_stay(assignment):
    text = f"{assignment}\nseen = list(confs)\ndef later(): pass\n"
    space = run_loader(text)
    assert space["seen"][0] == "own"
    assert "NN-rekd" in space["seen"]
    assert space["later"].__code__.co_firstlineno == text.count("\n")


def test_an_entry_of_hlocs_own_with_our_name_wins():
    assert run_loader("confs = {'NN-rekd': 'theirs'}")["confs"]["NN-rekd"] == "theirs"


def test_a_module_without_confs_still_loads_and_one_warning_says_so(caplog):
    assert run_loader("other = 3")["other"] == 3
    assert "no dict `confs`" in caplog.text


def test_conf_names_and_files_follow_hlocs_manner():
    confs = extractor_confs()
    assert set(confs) == {
        name for p in PRESETS for name in (p, *(f"{p}-n{n}" for n in (1500, 2048, 4096, 8000)))
    }
    assert confs["rekd"] == confs["rekd-n2048"]
    assert confs["rekd"]["output"] == "feats-rekd-n2048-r1600"
    assert confs["rekd-paper"]["output"] == "feats-rekd-paper-n1500"
    assert "resize_max" not in confs["rekd-paper"]["preprocessing"]
    assert confs["rekd-fast-n8000"]["model"] == {
        "name": "rekd",
        "preset": "rekd-fast",
        "max_keypoints": 8000,
    }
    by_output = {}
    for conf in [*confs.values(), *matcher_confs().values()]:
        assert by_output.setdefault(conf["output"], conf) == conf
    for preset, config in PRESETS.items():
        if config.max_side_px:
            assert confs[preset]["preprocessing"]["resize_max"] == config.max_side_px
    assert max(BUDGETS) <= MAX_KEYPOINTS == 2**15 - 1


def test_each_call_gives_confs_of_its_own():
    extractor_confs()["rekd"]["model"]["max_keypoints"] = 1
    matcher_confs()["orientation-filter"]["model"]["matcher"]["name"] = "broken"
    assert extractor_confs()["rekd"]["model"]["max_keypoints"] == 2048
    inner = matcher_confs()["orientation-filter"]["model"]["matcher"]
    assert inner["name"] == "nearest_neighbor"


def test_the_wrappers_conf_holds_the_matchers():
    inner = {"name": "lightglue", "features": "disk"}
    conf = orientation_filter(inner, tolerance_deg=20.0)
    assert conf == {"name": "orientation_filter", "matcher": inner, "tolerance_deg": 20.0}
    conf["matcher"]["features"] = "other"
    assert inner["features"] == "disk"
