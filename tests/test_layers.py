"""The walls between the rooms: who may import whom, and what is imported only when needed."""

import ast
import functools
import subprocess
import sys
import tomllib

import pytest

import rekd_hloc
from tests.helpers import ROOT

ALLOWED = {
    "rekd_hloc": {"rekd_hloc"},
    "evaluation": {"rekd_hloc", "evaluation"},
    "training": {"rekd_hloc", "evaluation", "training"},
    "pipelines": {"rekd_hloc", "evaluation", "pipelines"},
}
WHEEL = {
    "base": set(),
    "storage": {"base"},
    "retrieval": {"base", "storage"},
    "matching": {"base", "storage", "retrieval"},
    "features": {"base", "storage"},
    "refinement": {"base", "storage", "matching"},
    "sfm": {"base", "storage", "retrieval", "matching", "features", "refinement"},
    "viz": {"base", "storage", "retrieval", "matching", "features", "refinement", "sfm"},
    "interfaces": {"base", "storage", "matching", "features"},
    "kornia": {"base", "interfaces"},
    "exports": {"base", "storage", "retrieval", "matching", "features", "refinement", "sfm"},
    "cluster": {"base", "storage", "retrieval", "matching", "features", "refinement", "sfm"},
    "demo": {"base", "storage", "retrieval", "matching", "features", "refinement", "sfm", "viz"},
    "plugin": {"base", "storage", "retrieval", "matching", "features", "refinement", "sfm", "viz"},
    "cli": {
        "base",
        "storage",
        "retrieval",
        "matching",
        "features",
        "refinement",
        "sfm",
        "viz",
        "exports",
        "cluster",
        "plugin",
        "demo",
    },
}
"""Rooms of the wheel, and those that each may import from; base is the modules outside rooms."""
EVALUATION = {
    "base": set(),
    "metrics": {"base"},
    "reporting": {"base", "extractors"},
    "rendering": {"base"},
    "extractors": {"base"},
    "homography": {"base", "metrics", "reporting", "extractors"},
    "robustness": {"base", "metrics", "reporting", "extractors"},
    "relative_pose": {"base", "metrics", "reporting", "extractors"},
    "reconstruction": {"base", "reporting", "extractors"},
    "speed": {"base", "reporting", "extractors", "reconstruction", "rendering"},
    "imc": {"base", "metrics", "reporting", "extractors", "relative_pose"},
    "oriented_ransac": {
        "base",
        "metrics",
        "reporting",
        "extractors",
        "homography",
        "relative_pose",
        "imc",
    },
}
"""The same for the evaluation; its programs may import every room."""
BASE = {
    "rekd_hloc": {
        "types",
        "geometry",
        "config",
        "config_checks",
        "config_file",
        "weight_files",
        "renamed_options",
        "image_kinds",
        "image_decoding",
        "image_listing",
        "image_orientation",
        "images",
        "names",
        "raw_photos",
        "shards",
        "short_memory",
        "tiff_tags",
        "video_frames",
        "value_range",
        "files",
        "locks",
        "ownership",
        "json_text",
        "known_names",
        "devices",
        "progress",
        "processor",
        "worker_threads",
    },
    "evaluation": {"command_line", "image_folders", "rotated_images"},
}
"""Modules outside the rooms that every room may import."""
ONLY_IN = {
    "e2cnn": ("rekd_hloc/features/detector/steerable.py",),
    "hloc": ("rekd_hloc/plugin/",),
    "kornia.feature.laf": ("rekd_hloc/features/descriptor/patches.py",),
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
def test_packages_import_only_what_is_below_them(package):
    for path in sources(package):
        for module, _ in imports(path):
            root = module.split(".")[0]
            assert root != "tests", f"{path} imports {module}"
            if root in ALLOWED:
                assert root in ALLOWED[package], f"{path} imports {module}"


def room_of(package, module):
    """The room that holds a module such as ``rekd_hloc.sfm.mapping``; None for a program."""
    parts = module.split(".")
    if parts[-1] == "__main__":
        return None
    if len(parts) == 1 or parts[1] in BASE[package]:
        return "base"
    rooms = WHEEL if package == "rekd_hloc" else EVALUATION
    if parts[1] in rooms:
        return parts[1]
    return "base" if not (ROOT / package / f"{parts[1]}.py").exists() else None


def walls():
    for package, rooms in (("rekd_hloc", WHEEL), ("evaluation", EVALUATION)):
        for room, below in rooms.items():
            yield package, room, {*below, room}


@pytest.mark.parametrize(("package", "room", "allowed"), list(walls()))
def test_rooms_import_only_what_is_below_them(package, room, allowed):
    for path in sources(package):
        place = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if place == f"{package}.__init__" or room_of(package, place) != room:
            continue
        for module, _ in imports(path):
            if is_within(module, package):
                assert room_of(package, module) in allowed, f"{place} imports {module}"


def test_every_folder_is_a_room():
    for package, rooms in (("rekd_hloc", WHEEL), ("evaluation", EVALUATION)):
        folders = {path.relative_to(ROOT / package).parts[0] for path in sources(package)}
        folders = {name for name in folders if not name.endswith(".py")}
        modules = {name for name in rooms if (ROOT / package / f"{name}.py").is_file()}
        assert folders == set(rooms) - modules - {"base"}


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
        if path.relative_to(ROOT).as_posix() == "rekd_hloc/features/descriptor/patches.py":
            continue
        every, _ = nodes(path)
        words = {node.attr for node in every if isinstance(node, ast.Attribute)}
        words |= {node.id for node in every if isinstance(node, ast.Name)}
        words |= {module.rsplit(".", 1)[-1] for module, _ in imports(path)}
        found = {word for word in words if "laf" in word.lower().split("_")}
        assert not found, f"{path} uses {sorted(found)}"


def test_shapes_are_checked_at_run_time_wherever_they_are_written():
    """The tests' options name the packages whose functions are checked as they run."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    _, _, names = options["addopts"].partition("--jaxtyping-packages=")
    checked = [name.replace(".", "/") for name in names.split()[0].split(",")]
    for path in sources("rekd_hloc"):
        place = path.relative_to(ROOT).with_suffix("").as_posix()
        if "jaxtyping" in path.read_text():
            assert any(place == name or place.startswith(f"{name}/") for name in checked), place


def test_training_code_is_imported_lazily():
    for path in sources("rekd_hloc"):
        for module, is_top_level in imports(path):
            if is_within(module, "e2cnn"):
                assert not is_top_level, f"{path} imports {module} at its top level"


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
    loaded = loaded_after("import rekd_hloc.features.extractor, rekd_hloc.matching.match")
    assert "torch" in loaded
    assert not {"e2cnn", "hloc", "matplotlib", "scipy", "training", "evaluation"} & loaded
