"""Groups of images that no attempt has given a model."""

import shutil
from types import SimpleNamespace

import pytest

from rekd_hloc.sfm import attempts
from rekd_hloc.sfm import stages as model_stages
from rekd_hloc.sfm.attempts import Attempts, map_left_groups
from rekd_hloc.sfm.diagnosis import SURE_INLIERS
from rekd_hloc.sfm.mapping import RELAXED
from rekd_hloc.sfm.output_folder import OutputFolder
from rekd_hloc.sfm.pair_motion import Motion
from rekd_hloc.sfm.stages import MappingOptions


class StubModel:
    def __init__(self, names, num_points=100):
        self.images = {i: SimpleNamespace(name=name) for i, name in enumerate(names)}
        self.num_points = num_points

    def reg_image_ids(self):
        return list(self.images)

    def num_reg_images(self):
        return len(self.images)

    def num_points3D(self):  # noqa: N802  (pycolmap's name)
        return self.num_points


@pytest.fixture
def written(monkeypatch):
    """Models that were written, by the names of their folders."""
    models = {}

    def write(model, folder):
        models[folder.relative_to(folder.parents[1]).as_posix()] = model

    monkeypatch.setattr(attempts, "write_model", write)
    return models


def test_groups_without_a_model_are_mapped_relaxed_by_themselves(tmp_path, written):
    first, second = StubModel("abcd"), StubModel("ef")
    tried = Attempts([first, second], tmp_path / "0", False, [{"seed": 5, "num_registered": 4}])
    asked = []

    def map_group(folder, group):
        asked.append((folder.name, "".join(group)))
        return {"ghi": [StubModel("ghi")], "jkl": []}["".join(group)]

    map_left_groups(tried, map_group, ["abcd", "efx", "ghi", "jkl", "mn"], tmp_path, seed=5)
    assert asked == [("group-2", "ghi"), ("group-3", "jkl")]
    assert [len(model.images) for model in tried.models] == [4, 3, 2]
    assert list(written) == ["all/0", "all/1", "all/2"]
    assert tried.folder == tmp_path / "all"
    assert not tried.relaxed
    relaxed = {"relaxed": dict(RELAXED), "seed": 5, "group": 3}
    assert tried.records[1:] == [
        {**relaxed, "num_registered": 3},
        {**relaxed, "num_registered": 0},
    ]


def test_a_relaxed_model_may_become_the_first(tmp_path, written):
    tried = Attempts([StubModel("ab")], tmp_path / "0", False, [{"num_registered": 2}])
    map_left_groups(tried, lambda folder, group: [StubModel(group)], ["cdef"], tmp_path, seed=0)
    assert tried.relaxed
    assert [len(model.images) for model in tried.models] == [4, 2]
    best = max(tried.records, key=lambda record: record["num_registered"])
    assert "relaxed" in best  # as a kept model is read


def test_nothing_left_changes_nothing(tmp_path, written):
    model = StubModel("abc")
    tried = Attempts([model], tmp_path / "0", False, [{"num_registered": 3}])
    map_left_groups(tried, lambda folder, group: [], ["abc", "def"], tmp_path, seed=0)
    assert (tried.models, tried.folder, tried.relaxed) == ([model], tmp_path / "0", False)
    assert not written


@pytest.mark.parametrize("motion", [Motion.PARALLAX, Motion.ROTATION])
def test_only_places_with_parallax_are_mapped_by_themselves(tmp_path, monkeypatch, written, motion):
    calls = []

    def map_scene(database, images, out, *, names=(), relaxed=False, **options):
        calls.append(("".join(names), relaxed))
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return [StubModel(names or "abcde")]

    asked = []

    def find_motions(database, pairs):
        asked.append(list(pairs))
        return {("f", "g"): motion}, {}

    monkeypatch.setattr(model_stages, "map_scene", map_scene)
    monkeypatch.setattr(model_stages, "find_motions", find_motions)
    monkeypatch.setattr(OutputFolder, "replace_model", lambda folder, models: None)
    counts = dict.fromkeys(("ab", "bc", "cd", "de", "fg", "gh"), (90, 80))
    counts = {tuple(pair): count for pair, count in counts.items()}
    counts["e", "f"] = 90, SURE_INLIERS - 1  # by chance
    state = model_stages.Run(tmp_path, OutputFolder(tmp_path), MappingOptions(), None, False)
    tried, _ = model_stages._map(
        state, tmp_path / "d.db", "abcdefgh", counts, may_relax=True, max_error_px=None
    )
    assert asked == [[("f", "g"), ("g", "h")]]
    grouped = [("fgh", True)] if motion == Motion.PARALLAX else []
    assert calls == [("", False), *grouped]
    assert len(tried.models) == 1 + len(grouped)
