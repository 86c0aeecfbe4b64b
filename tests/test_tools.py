"""The tools of developers: one version each, wherever it is named; and what the wheel declares."""

import re
import sys
import tomllib

from tests.helpers import ROOT
from tests.test_layers import imports, sources

PACKAGE_OF = {"cv2": "opencv-python-headless", "PIL": "pillow"}
"""Where a module is not named as its package is."""
ASKED_FOR = {
    "av",
    "e2cnn",
    "hloc",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "pillow_heif",
    "rawpy",
    "ray",
    "scipy",
}
"""Imported only inside functions that say what to install; extras of the package."""


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names_of(requirements):
    return {re.split(r"[\[<>=!~ @]", line, maxsplit=1)[0].lower() for line in requirements}


def test_pre_commit_runs_the_pinned_versions():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    named = re.findall(r"(\S+?)==([\w.]+)", text.replace("[", " ").replace("]", " "))
    assert named
    for name, version in named:
        assert pins()[name] == version, f"pre-commit has {name} {version}"


def test_everything_that_setup_installs_is_pinned():
    declared = project()
    extras = declared["optional-dependencies"]
    wanted = names_of(
        [*declared["dependencies"], *extras["train"], *extras["pose"], *extras["dev"]]
    )
    assert wanted <= {name.lower() for name in pins()}


OF_AN_ENGINE = {"rekd_hloc.cluster.dask_engine": ("dask", "distributed")}
"""Modules that need an extra as a whole, which others import once a user asks for them."""


def test_modules_of_an_extra_are_imported_when_asked_for():
    for path in sources("rekd_hloc"):
        for module, is_top_level in imports(path):
            assert not (is_top_level and module in OF_AN_ENGINE), f"{path} imports {module}"


def test_the_wheel_declares_what_it_imports():
    declared = names_of(project()["dependencies"])
    for path in sources("rekd_hloc"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        in_plugin = "plugin" in path.parts  # it runs inside hloc
        for module, is_top_level in imports(path):
            root = module.split(".")[0]
            is_asked_for = root in ASKED_FOR and not is_top_level
            is_asked_for |= root in OF_AN_ENGINE.get(own, ())
            if is_asked_for or (root == "hloc" and in_plugin):
                continue
            if root not in sys.stdlib_module_names and root != "rekd_hloc":
                package = PACKAGE_OF.get(root, root)
                assert package.lower() in declared, f"{path} imports {root}"
