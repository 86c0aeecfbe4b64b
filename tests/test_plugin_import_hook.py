import importlib
import subprocess
import sys

import pytest

import rekd_hloc
from rekd_hloc import plugin
from rekd_hloc.plugin.confs import extractor_confs, matcher_confs
from rekd_hloc.plugin.import_hook import EXTENDED_PACKAGES, ConfsLoader, ImportHook, install
from tests.hloc_home import KINDS, fresh_hloc

EXTRACTORS = ["rekd"]
MATCHERS = ["rekd", "orientation_filter"]


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
            loaded = dynamic_load(load(package), name)
            assert loaded.__module__ == f"hloc.{package}.{name}"
            assert issubclass(loaded, load("utils.base_model").BaseModel)


def test_hlocs_own_confs_and_classes_stay(hloc):
    hlocs_matchers = dict(load("match_features").confs)
    hlocs_extractors = dict(load("extract_features").confs)
    plugin.register()
    assert hlocs_matchers.items() <= load("match_features").confs.items()
    assert hlocs_extractors.items() <= load("extract_features").confs.items()
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
    assert sum(isinstance(finder, ImportHook) for finder in sys.meta_path) == 1
    for name, folder in EXTENDED_PACKAGES.items():
        assert list(sys.modules[name].__path__).count(folder) == 1


def test_importing_the_plugin_is_cheap_and_needs_no_hloc():
    code = (
        "import sys, rekd_hloc.plugin; "
        "heavy = {'torch', 'numpy', 'hloc', 'cv2', 'omegaconf', 'pycolmap'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_import_hook_leaves_every_other_module_alone():
    hook = ImportHook()
    for name in ("hloc", "hloc.reconstruction", "json", "hloc.extractors.rekd"):
        assert hook.find_spec(name, None) is None


def test_the_import_hook_passes_on_that_hloc_is_absent():
    assert ImportHook().find_spec("hloc.extractors", []) is None


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
