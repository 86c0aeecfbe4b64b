"""Files and models pass between hloc and this package in both directions."""

import contextlib
import importlib
import json
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pycolmap
import pytest
import torch

from pipelines import localize, sfm
from rekd_hloc import plugin
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import exhaustive_pairs, write_pairs
from rekd_hloc.plugin.conversion import features_to_hloc
from rekd_hloc.sfm.alignment import Pose, align_to_reference, read_poses
from rekd_hloc.sfm.mapping_options import MappingOptions
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.sfm.refined_features import refine_features
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints
from tests.hloc_home import KINDS, REAL_MARKS, fresh_hloc
from tests.warped_views import NUM_POINTS, make_foreign, make_views

STEP = 20
"""The grey value of image n is n * STEP: how the extractor below knows it."""


@pytest.fixture(params=KINDS)
def hloc(request):
    with fresh_hloc(request.param) as kind:
        plugin.register()
        yield kind


@dataclass(frozen=True)
class Scene:
    """A synthetic scene with exact observations of its points."""

    model: pycolmap.Reconstruction
    images: Path
    names: list[str]
    features: list[Features]
    mapping: MappingOptions


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 6, 100
    pycolmap.set_random_seed(4)
    model = pycolmap.synthesize_dataset(options)
    camera = next(iter(model.cameras.values()))
    images, names, features = folder / "images", [], []
    (images / "sub").mkdir(parents=True)
    vectors = torch.nn.functional.normalize(
        torch.randn(1000, 128, generator=torch.Generator().manual_seed(0)), dim=1
    )
    for number, image in enumerate(model.images.values()):
        image.name = f"sub/i{number}.png"
        grey = np.full((camera.height, camera.width), number * STEP, np.uint8)
        assert cv2.imwrite(str(images / image.name), grey)
        seen = [point for point in image.points2D if point.has_point3D()]
        xy = torch.tensor(np.array([point.xy for point in seen]) - 0.5, dtype=torch.float32)
        ones = torch.ones(len(xy))
        keypoints = Keypoints(xy, ones, 0 * ones, ones)
        described = vectors[[point.point3D_id % len(vectors) for point in seen]]
        names.append(image.name)
        features.append(Features(keypoints, described, (camera.width, camera.height)))
    mapping = MappingOptions(
        camera_model=camera.model.name, camera_mode="single", intrinsics=list(camera.params)
    )
    return Scene(model, images, names, features, mapping)


def write_by_us(scene, folder):
    with FeatureStore.resume(folder / "features.h5", {"preset": "any"}) as store:
        for name, features in zip(scene.names, scene.features, strict=True):
            store.write(name, features)
    pairs = exhaustive_pairs(scene.names)
    write_pairs(folder / "pairs.txt", pairs)
    match_images(folder / "features.h5", folder / "matches.h5", pairs)
    return folder / "features.h5", folder / "matches.h5", folder / "pairs.txt"


def put_extractor(scene, monkeypatch):
    """An extractor ``made_up`` among hloc's that knows the scene's observations."""
    base = importlib.import_module("hloc.utils.base_model").BaseModel
    module = ModuleType("hloc.extractors.made_up")

    def forward(self, data):
        return features_to_hloc(scene.features[round(float(data["image"].mean()) * 255 / STEP)])

    members = {"_init": lambda *_: None, "_forward": forward, "__module__": module.__name__}
    module.MadeUp = type("MadeUp", (base,), members)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return {"output": "f", "model": {"name": "made_up"}, "preprocessing": {"grayscale": True}}


def write_by_hloc(scene, folder, monkeypatch):
    conf = put_extractor(scene, monkeypatch)
    extract_features = importlib.import_module("hloc.extract_features")
    match_features = importlib.import_module("hloc.match_features")
    write_pairs(folder / "pairs.txt", exhaustive_pairs(scene.names))
    features = extract_features.main(conf, scene.images, folder)
    conf = match_features.confs["NN-rekd"]
    matches = match_features.main(
        conf, folder / "pairs.txt", features, matches=folder / "matches.h5"
    )
    return features, matches, folder / "pairs.txt"


def test_hloc_reads_what_we_wrote(hloc, scene, tmp_path):
    features, matches, _ = write_by_us(scene, tmp_path)
    io = importlib.import_module("hloc.utils.io")
    assert sorted(io.list_h5_names(features)) == sorted(scene.names)
    for name, expected in zip(scene.names, scene.features, strict=True):
        got = io.get_keypoints(features, name)
        np.testing.assert_allclose(got, expected.keypoints.xy.numpy(), atol=1e-4)
    with MatchStore(matches) as store:
        for a, b in (scene.names[:2], scene.names[1::-1]):
            index, scores = io.get_matches(matches, a, b)
            assert len(index) > 20
            expected = store.read(a, b)
            assert set(map(tuple, index)) == set(map(tuple, expected.index.tolist()))
            assert scores.min() > 0.99


def test_hloc_matches_what_we_extracted_as_we_do(hloc, scene, tmp_path):
    features, matches, pairs = write_by_us(scene, tmp_path)
    match_features = importlib.import_module("hloc.match_features")
    conf = match_features.confs["NN-rekd"]
    theirs = match_features.main(conf, pairs, features, matches=tmp_path / "theirs.h5")
    with MatchStore(matches) as ours, MatchStore(theirs) as other:
        for pair in exhaustive_pairs(scene.names):
            a, b = ours.read(*pair), other.read(*pair)
            torch.testing.assert_close(a.index, b.index)
            torch.testing.assert_close(a.score, b.score, atol=2e-3, rtol=0)


def test_our_reconstruction_runs_on_hlocs_files(hloc, scene, tmp_path, monkeypatch):
    features, matches, pairs = write_by_hloc(scene, tmp_path, monkeypatch)
    out = tmp_path / "out"
    options = scene.mapping
    for pairs_file in (pairs, None):
        report = reconstruct_from_files(
            features, matches, pairs_file, scene.images, out, options=options
        )
        assert report["num_registered"] == len(scene.names)
    model = pycolmap.Reconstruction(str(out / "sparse" / "0"))
    errors = align_to_reference(model, read_poses(scene.model))
    assert errors.rotation_deg.max() < 0.05
    assert errors.center_rel.max() < 1e-3


@pytest.fixture(params=[pytest.param("real", marks=REAL_MARKS)])
def real_hloc(request):
    with fresh_hloc(request.param) as kind:
        yield kind


def test_hloc_localises_a_query_in_our_model(real_hloc, scene, tmp_path):
    features, matches, _ = write_by_us(scene, tmp_path)
    query, *mapped = scene.names
    pairs = tmp_path / "mapped.txt"
    write_pairs(pairs, exhaustive_pairs(mapped))
    report = reconstruct_from_files(
        features, matches, pairs, scene.images, tmp_path / "out", options=scene.mapping
    )
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert query not in {image.name for image in model.images.values()}
    camera = next(iter(model.cameras.values()))
    parameters = " ".join(map(str, camera.params))
    line = f"{query} {camera.model.name} {camera.width} {camera.height} {parameters}\n"
    (tmp_path / "queries.txt").write_text(line)
    write_pairs(tmp_path / "retrieval.txt", [(query, name) for name in mapped])
    importlib.import_module("hloc.localize_sfm").main(
        model,
        tmp_path / "queries.txt",
        tmp_path / "retrieval.txt",
        features,
        matches,
        tmp_path / "poses.txt",
    )
    name, *values = (tmp_path / "poses.txt").read_text().split()
    assert name == Path(query).name
    qw, qx, qy, qz, *translation = map(float, values)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d([qx, qy, qz, qw]), translation)
    poses = read_poses(model)
    localised = Pose(np.array(pose.rotation.matrix()), np.array(pose.inverse().translation))
    errors = align_to_reference({**poses, query: localised}, read_poses(scene.model))
    row = errors.names.index(query)
    assert errors.rotation_deg[row] < 0.1
    assert errors.center_rel[row] < 2e-3
    assert report["num_registered"] == len(mapped)


def test_hlocs_reconstruction_runs_on_our_files(real_hloc, scene, tmp_path):
    features, matches, pairs = write_by_us(scene, tmp_path)
    parameters = ",".join(map(str, scene.mapping.intrinsics))
    model = importlib.import_module("hloc.reconstruction").main(
        tmp_path / "out",
        scene.images,
        pairs,
        features,
        matches,
        camera_mode=pycolmap.CameraMode.SINGLE,
        image_list=scene.names,
        image_options={
            "camera_model": scene.mapping.camera_model,
            "camera_params": parameters,
        },
        mapper_options={"random_seed": 0, "num_threads": 1},
    )
    assert model.num_reg_images() == len(scene.names)
    assert align_to_reference(model, read_poses(scene.model)).rotation_deg.max() < 0.05


def test_the_recipes_make_a_model_and_find_a_new_image_in_it(
    real_hloc, scene, tmp_path, monkeypatch, capsys, caplog
):
    plugin.register()
    extract_features = importlib.import_module("hloc.extract_features")
    extract_features.confs["made_up"] = put_extractor(scene, monkeypatch)
    query, *mapped = scene.names
    for number, name in enumerate(mapped):
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(scene.images / name, tmp_path / "images" / f"{number}.png")
    (tmp_path / "new").mkdir()
    for name in ("a.JPEG", "b.tif", "new.png"):
        grey = cv2.imread(str(scene.images / query), cv2.IMREAD_GRAYSCALE)
        assert cv2.imwrite(str(tmp_path / "new" / name), grey)
    (tmp_path / "new" / "broken.jpg").write_bytes(b"no image")
    images, queries, map_dir, out = (str(tmp_path / n) for n in ("images", "new", "map", "out"))
    assert sfm.main([images, map_dir, "--conf", "made_up"]) == 0
    assert (tmp_path / "map" / "report.json").is_file()
    capsys.readouterr()
    with at_most(seconds=120):
        assert localize.main([queries, map_dir, out, "--conf", "made_up"]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["a.JPEG", "b.tif", "new.png"]
    for line in lines:
        assert int(line.split(": ")[1].split(" inliers")[0]) > 30
        assert "(map)" in line
    assert "broken.jpg is skipped" in caplog.text
    record = json.loads((tmp_path / "out" / "localization.json").read_text())
    assert list(record) == ["a.JPEG", "b.tif", "new.png"]
    assert record["b.tif"]["position_std_rel"] < 0.01
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 3
    assert not list((tmp_path / "out").glob("*.pkl"))
    model = pycolmap.Reconstruction(str(tmp_path / "map" / "sparse" / "0"))
    assert model.num_reg_images() == len(mapped)
    before = (tmp_path / "map" / "matches.h5").read_bytes()
    with pytest.raises(FileExistsError, match=r"matches\.h5 is there and was not made by"):
        localize.run(Path(queries), Path(map_dir), Path(map_dir), conf="made_up")
    assert (tmp_path / "map" / "matches.h5").read_bytes() == before
    shutil.copy(scene.images / query, tmp_path / "new" / "0.png")
    with pytest.raises(ValueError, match=r"'0.png' is a query and an image of the map"):
        localize.run(Path(queries), Path(map_dir), Path(out), conf="made_up")
    (tmp_path / "new" / "0.png").unlink()
    (tmp_path / "retrieval.txt").write_text("new.png 1.png\nnew.png gone.png\n")
    retrieval = tmp_path / "retrieval.txt"
    with pytest.raises(ValueError, match=r"retrieval.txt:2 is no query and image of the map"):
        localize.run(Path(queries), Path(map_dir), Path(out), conf="made_up", retrieval=retrieval)


@pytest.mark.parametrize("kind", ["features", "foreign"])
def test_hloc_reads_refined_features(kind, real_hloc, tmp_path):
    """Its reading, matching and reconstruction take a refined file for one of its own."""
    views = make_views(tmp_path / "views")
    features = views.features
    if kind == "foreign":
        features = make_foreign(views, tmp_path / "foreign.h5")
    refined, pairs = tmp_path / "r.h5", tmp_path / "pairs.txt"
    summary = refine_features(features, views.matches, views.images, refined)
    assert summary.num_refined > NUM_POINTS
    io = importlib.import_module("hloc.utils.io")
    assert sorted(io.list_h5_names(refined)) == sorted(views.names)
    moved = 0.0
    for name in views.names:
        xy, uncertainty = io.get_keypoints(refined, name, return_uncertainty=True)
        before, known = io.get_keypoints(features, name, return_uncertainty=True)
        moved = max(moved, np.abs(xy - before).max())
        assert 0 < uncertainty <= known
    assert moved > 0.3
    write_pairs(pairs, exhaustive_pairs(views.names))
    match_features = importlib.import_module("hloc.match_features")
    conf = match_features.confs["NN-mutual"]
    match_features.main(conf, pairs, refined, matches=tmp_path / "again.h5")
    importlib.import_module("hloc.reconstruction").main(
        tmp_path / "out", views.images, pairs, refined, views.matches, image_list=views.names
    )  # of a plane; that it runs is what is looked at


def test_the_recipe_refines_for_hloc(real_hloc, scene, tmp_path, monkeypatch):
    plugin.register()
    extract_features = importlib.import_module("hloc.extract_features")
    extract_features.confs["made_up"] = put_extractor(scene, monkeypatch)
    out = tmp_path / "map"
    report = sfm.run(scene.images, out, conf="made_up", refine=True)
    assert report["num_registered"] == len(scene.names)
    record = json.loads((out / "database.json").read_text())
    assert record["files"][0][0] == str((out / "features-refined.h5").resolve())
    assert record["max_error_px"] == 2.0


@contextlib.contextmanager
def at_most(seconds):
    """Fail in place of waiting for ever."""

    def give_up(signum, frame):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_recipe_for_models_works_without_hloc(monkeypatch, tmp_path, caplog):
    asked = {}

    def reconstruct(images, out, **options):
        asked.update(options)
        return {"num_registered": 0}

    monkeypatch.setattr(sfm.plugin, "hloc_is_importable", lambda: False)
    monkeypatch.setattr(sfm, "reconstruct", reconstruct)
    monkeypatch.setattr(sfm, "format_report", str)
    assert sfm.main([str(tmp_path), str(tmp_path / "out"), "--conf", "rekd-fast"]) == 1
    assert (asked["conf"], asked["seed"]) == ("rekd-fast", 0)
    assert asked["progress"] is True
    monkeypatch.undo()
    monkeypatch.setattr(sfm.plugin, "hloc_is_importable", lambda: False)
    nowhere = str(tmp_path / "nowhere")
    assert sfm.main([nowhere, str(tmp_path / "out"), "--conf", "rekd-fast"]) == 2
    assert f"no image folder {nowhere}" in caplog.text
    monkeypatch.setitem(sys.modules, "hloc", None)
    with pytest.raises(ImportError, match="pip install --no-deps"):
        localize.run(tmp_path, tmp_path, tmp_path)
    assert localize.main([str(tmp_path), str(tmp_path), str(tmp_path)]) == 2


def test_a_conf_that_hloc_lacks_is_named(hloc):
    confs = importlib.import_module("hloc.extract_features").confs
    assert plugin.pick(confs, "rekd") is confs["rekd"]
    with pytest.raises(ValueError, match="no conf 'dust'; it has .*rekd-fast"):
        plugin.pick(confs, "dust")


def test_the_recipes_end_in_one_line_for_a_mistake(real_hloc, scene, tmp_path, caplog):
    nowhere, images, out = str(tmp_path / "nowhere"), str(scene.images), str(tmp_path / "out")
    for work, arguments, message in (
        (sfm, [nowhere, out], f"no image folder {nowhere}"),
        (sfm, [images, out, "--conf", "dust"], "hloc has no conf 'dust'; it has "),
        (localize, [images, nowhere, out], f"{nowhere}/sparse/0 holds no COLMAP model"),
    ):
        assert work.main(arguments) == 2
        assert message in caplog.text
