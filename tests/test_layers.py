"""The walls between the rooms: who may import whom, and what is imported only when needed."""

import ast
import functools
import subprocess
import sys

import pytest

import rekd_hloc
from tests.helpers import ROOT

ALLOWED = {
    "rekd_hloc": {"rekd_hloc"},
    "evaluation": {"rekd_hloc", "evaluation"},
    "training": {"rekd_hloc", "evaluation", "training"},
    "pipelines": {"rekd_hloc", "evaluation", "pipelines"},
}
BELOW = {
    "methods": set(),
    "planar": {"methods"},
    "sweeps": {"methods"},
    "estimators": set(),
    "poses": {"methods", "estimators"},
    "challenge": {"methods", "estimators", "poses"},
    "oriented": {"methods", "planar", "estimators", "poses"},
}
"""Rooms of the evaluation, and those that each may import from."""
COMMON = {"command_line", "curves", "metrics", "photos", "report"}
"""Modules of the evaluation that every room may import."""
ONLY_IN = {
    "e2cnn": ("rekd_hloc/detector/steerable.py",),
    "hloc": ("rekd_hloc/plugin/",),
    "kornia.feature.laf": ("rekd_hloc/descriptor/patches.py",),
    "yaml": (),
    "omegaconf": ("rekd_hloc/config_file.py",),
}
"""Packages that the wheel touches in one place."""


@functools.cache
def nodes(path):
    """All syntax nodes of a file, and which of them are at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return list(ast.walk(tree)), {id(node) for node in tree.body}


@functools.cache
def imports(path):
    """(module, whether at the top level) for every import in a file."""
    found = []
    every, top = nodes(path)
    for node in every:
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def sources(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no module in {package}"
    return found


def is_within(module, package):
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("package", ALLOWED)
def test_rooms_import_only_what_is_below_them(package):
    for path in sources(package):
        for module, _ in imports(path):
            root = module.split(".")[0]
            assert root != "tests", f"{path} imports {module}"
            if root in ALLOWED:
                assert root in ALLOWED[package], f"{path} imports {module}"


@pytest.mark.parametrize("room", BELOW)
def test_rooms_of_the_evaluation_import_only_what_is_below_them(room):
    for path in sources(f"evaluation/{room}"):
        for module, _ in imports(path):
            if is_within(module, "evaluation"):
                allowed = BELOW[room] | COMMON | {room}
                assert module.split(".")[1] in allowed, f"{path} imports {module}"


def test_every_room_of_the_evaluation_has_walls():
    assert {path.parent.name for path in sources("evaluation")} == {"evaluation", *BELOW}
    for name in COMMON:
        for module, _ in imports(ROOT / "evaluation" / f"{name}.py"):
            if is_within(module, "evaluation"):
                assert module.split(".")[1] in COMMON, f"{name} imports {module}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_third_parties_are_met_in_one_place(package):
    for path in sources("rekd_hloc"):
        place = path.relative_to(ROOT).as_posix()
        for module, _ in imports(path):
            allowed = any(place.startswith(home) for home in ONLY_IN[package])
            assert allowed or not is_within(module, package), f"{place} imports {module}"


def test_kornias_frames_are_met_in_patches_only():
    """Local affine frames carry kornia's sense of angles, by whatever name they are called."""
    for path in sources("rekd_hloc"):
        if path.relative_to(ROOT).as_posix() == "rekd_hloc/descriptor/patches.py":
            continue
        every, _ = nodes(path)
        words = {node.attr for node in every if isinstance(node, ast.Attribute)}
        words |= {node.id for node in every if isinstance(node, ast.Name)}
        words |= {module.rsplit(".", 1)[-1] for module, _ in imports(path)}
        found = {word for word in words if "laf" in word.lower().split("_")}
        assert not found, f"{path} uses {sorted(found)}"


def test_training_code_is_imported_lazily():
    for path in sources("rekd_hloc"):
        for module, is_top_level in imports(path):
            if is_within(module, "e2cnn"):
                assert not is_top_level, f"{path} imports {module} at its top level"


def test_low_rooms_import_no_higher_ones():
    """types, geometry and config are at the bottom; detector and descriptor know no files."""
    allowed = {
        "types.py": set(),
        "geometry.py": set(),
        "config_file.py": set(),
        "config.py": {"config_file"},
        "matching/circular.py": {"geometry"},
        "matching/rotations.py": {"geometry", "types", "matching"},
        "matching/consistency.py": {"geometry", "types", "matching"},
        "matching/nearest.py": {"types"},
    }
    for folder in ("detector", "descriptor"):
        for path in sources(f"rekd_hloc/{folder}"):
            low = {"types", "geometry", "config", "files", "precision", "images", "weights", folder}
            allowed[path.relative_to(ROOT / "rekd_hloc").as_posix()] = low
    for place, rooms in allowed.items():
        for module, _ in imports(ROOT / "rekd_hloc" / place):
            if is_within(module, "rekd_hloc"):
                assert module.split(".")[1] in rooms, f"{place} imports {module}"


def test_the_door_is_small_and_every_name_is_there():
    assert len(rekd_hloc.__all__) <= 15
    assert rekd_hloc.__all__ == sorted(set(rekd_hloc.__all__))
    assert set(rekd_hloc.__all__) == set(rekd_hloc._HOMES)
    for name in rekd_hloc.__all__:
        value = getattr(rekd_hloc, name)
        assert callable(value), f"{name} is neither a class nor a function"
        assert value.__module__.startswith(rekd_hloc._HOMES[name]), f"{name} lives elsewhere"
    assert set(rekd_hloc.__all__) <= set(dir(rekd_hloc))
    with pytest.raises(AttributeError, match="no attribute 'Xtractor'"):
        rekd_hloc.Xtractor  # noqa: B018


def loaded_after(statement):
    """Packages in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(run.stdout.split())


def test_importing_the_package_costs_nothing():
    assert not {"torch", "numpy", "cv2", "kornia", "h5py"} & loaded_after("import rekd_hloc")


def test_inference_needs_no_training_code_and_no_plugin():
    loaded = loaded_after("import rekd_hloc.extractor, rekd_hloc.matching.match")
    assert "torch" in loaded
    assert not {"e2cnn", "hloc", "matplotlib", "scipy", "training", "evaluation"} & loaded
