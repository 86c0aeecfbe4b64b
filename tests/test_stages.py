"""From files of features and matches to a model: any extractor's files, and the mapper."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from rekd_hloc.sfm import stages as model_stages
from rekd_hloc.sfm.attempts import ATTEMPTS
from rekd_hloc.sfm.output_folder import OutputFolder
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.sfm.stages import MappingOptions
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.synthetic_scene import make_scene, true_matches


class StubModel:
    def __init__(self, num_images):
        self.num_images = num_images

    def num_reg_images(self):
        return self.num_images


@pytest.mark.parametrize(
    ("sizes", "kept", "attempts"),
    [
        ([4], 4, 1),
        ([0, 9], 9, 2),
        ([2, 3, 0, 0], 3, 4),
        ([3, 2, 2, 5], 5, 4),
        ([0, 0, 0, 0], 0, 4),
        ([3, 2, 2], 3, 3),
    ],
)
def test_a_bad_start_of_the_mapper_is_tried_again(tmp_path, monkeypatch, sizes, kept, attempts):
    seeds = []

    def map_scene(database, images, out, *, seed, **options):
        size = sizes[len(seeds)]
        seeds.append(seed)
        shutil.rmtree(out, ignore_errors=True)
        if size:
            out.mkdir()
            (out / "size").write_text(str(size))
        return [StubModel(size)] if size else []

    monkeypatch.setattr(model_stages, "map_scene", map_scene)
    names = [str(index) for index in range(8)]
    counts = dict.fromkeys(zip(names, names[1:], strict=False), (60, 50))
    options = MappingOptions(seed=2**31 - 1)
    folder = OutputFolder(tmp_path)
    state = model_stages.Run(tmp_path, folder, options, None, False)
    tried, previous = model_stages._map(
        state, tmp_path / "d.db", names, counts, may_relax=len(sizes) > ATTEMPTS, max_error_px=None
    )
    assert previous is None
    assert len(tried.records) == len(seeds) == attempts
    assert len(set(seeds)) == min(attempts, ATTEMPTS)
    assert ["relaxed" in record for record in tried.records] == [
        i == ATTEMPTS for i in range(attempts)
    ]
    assert tried.relaxed == (kept == 5)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [model.num_images for model in tried.models] == ([kept] if kept else [])
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    made = {".rekd_hloc/made.jsonl", "sparse", "sparse/size"} if kept else set()
    assert left == {".rekd_hloc", *made}
    if kept:
        assert (tmp_path / "sparse" / "size").read_text() == str(kept)


def write_hloc_files(folder, scene):
    """Features and matches as hloc's own programs write them, without scales and angles."""
    with FeatureStore(scene.features) as store, h5py.File(folder / "f.h5", "w") as out:
        counts = {}
        for name in scene.names:
            features = store.read(name)
            counts[name] = len(features)
            group = out.create_group(name)
            group["keypoints"] = features.keypoints.xy.numpy().astype(np.float16)
            group["descriptors"] = features.descriptors.T.numpy().astype(np.float16)
            group["scores"] = features.keypoints.score.numpy().astype(np.float16)
            group["image_size"] = np.array(features.image_size)
    with h5py.File(folder / "m.h5", "w") as out:
        for a, b in scene.pairs:
            partner = np.full(counts[a], -1, np.int16)
            rows = true_matches(scene, a, b)
            partner[rows[:, 0]] = rows[:, 1]
            group = out.create_group(f"{a}/{b}")
            group["matches0"] = partner
            group["matching_scores0"] = (partner >= 0).astype(np.float16)


@pytest.mark.parametrize("with_pairs", [True, False])
def test_files_of_any_hloc_extractor_become_a_model(tmp_path, with_pairs):
    scene = make_scene(tmp_path / "scene")
    write_hloc_files(tmp_path, scene)
    before = [(tmp_path / name).read_bytes() for name in ("f.h5", "m.h5")]
    pairs = None
    if with_pairs:
        pairs = tmp_path / "pairs.txt"
        pairs.write_text("\n".join(f"{a} {b}" for a, b in scene.pairs[:12]))
    report = reconstruct_from_files(
        tmp_path / "f.h5",
        tmp_path / "m.h5",
        pairs,
        tmp_path / "no images",
        tmp_path / "out",
        reference=scene.reference,
    )
    assert report["num_registered"] == report["num_images"] == report["num_compared"] == 6
    assert report["pairs"]["num_pairs"] == (12 if with_pairs else 15)
    assert report["rotation_error_deg"]["max"] < 0.5
    assert report["weights"] == {}
    assert [(tmp_path / name).read_bytes() for name in ("f.h5", "m.h5")] == before


def test_files_without_an_image_or_with_a_missing_pair_are_named(tmp_path):
    scene = make_scene(tmp_path / "scene", num_images=3, num_points=40)
    with FeatureStore.resume(tmp_path / "empty.h5", {}):
        pass
    arguments = (scene.matches, None, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"empty\.h5 holds features of no image"):
        reconstruct_from_files(tmp_path / "empty.h5", *arguments)
    with MatchStore.resume(tmp_path / "none.h5", {}):
        pass
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(" ".join(scene.names[:2]))
    with pytest.raises(ValueError, match=r"none\.h5 has no matches of"):
        reconstruct_from_files(
            scene.features, tmp_path / "none.h5", pairs, tmp_path, tmp_path / "out"
        )


@pytest.mark.slow
def test_the_database_is_made_again_when_something_it_depends_on_changes(tmp_path, monkeypatch):
    scene = make_scene(tmp_path / "scene", num_images=3, num_points=60)
    output, made = tmp_path / "out", []
    export = model_stages.export_database

    def spy(path, *arguments, **options):
        made.append(path)
        return export(path, *arguments, **options)

    monkeypatch.setattr(model_stages, "export_database", spy)

    def build(options):
        arguments = (scene.features, scene.matches, None, tmp_path, output)
        reconstruct_from_files(*arguments, options=options)
        return len(made)

    options = MappingOptions()
    assert build(options) == 1
    assert build(options) == 1
    assert build(replace(options, num_threads=2)) == 1  # of the mapper alone
    assert build(replace(options, seed=1)) == 2
    assert build(replace(options, seed=1, camera_mode="single")) == 3
    (output / "database.json").write_text("damaged")
    assert build(replace(options, seed=1, camera_mode="single")) == 4
    (output / "database.db").unlink()
    build(options)
    assert (output / "database.db").is_file()
