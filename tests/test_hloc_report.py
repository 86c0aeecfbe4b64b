import json

import cv2
import numpy as np
import pycolmap
import pytest

from evaluation.hloc_report import (
    PIPELINES,
    UNFILTERED,
    main,
    make_tables,
    rotate_by_quarters,
)
from evaluation.reporting.hloc_metrics import (
    MatchSets,
    compare_filter,
    describe_matches,
    describe_model,
    read_match_sets,
)
from rekd_hloc.plugin.confs import matcher_confs
from rekd_hloc.sfm.alignment import read_poses
from tests.helpers import textured_image


@pytest.fixture(scope="module")
def scene():
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 6, 80
    pycolmap.set_random_seed(1)
    return pycolmap.synthesize_dataset(options)


def test_images_rotate_by_quarters_and_nothing_else_changes(tmp_path):
    image = textured_image(40, 60)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(8):
        assert cv2.imwrite(str(tmp_path / "in" / "sub" / f"i{number}.png"), image)
    angles = rotate_by_quarters(tmp_path / "in", tmp_path / "out", seed=5)
    assert set(angles.values()) == {0.0, 90.0, 180.0, 270.0}
    for name, angle in angles.items():
        rotated = cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(rotated, np.rot90(image, -int(angle) // 90))
    assert angles == rotate_by_quarters(tmp_path / "in", tmp_path / "again", seed=5)


def test_the_filter_is_judged_on_pairs_with_a_sure_geometry():
    inliers = {(k, k) for k in range(200)}
    wrong = {(k, k + 1) for k in range(100)}
    weak = {(k, k) for k in range(40)}
    before = MatchSets({(1, 2): inliers | wrong, (1, 3): weak}, {(1, 2): inliers, (1, 3): weak})
    left = {(k, k) for k in range(190)} | {(k, k + 1) for k in range(25)}
    after = MatchSets({(1, 2): left}, {(1, 2): left})
    metrics = compare_filter(before, after)
    assert (metrics.kept_inliers, metrics.removed_wrong, metrics.num_pairs) == (0.95, 0.75, 1)
    assert compare_filter(MatchSets({(1, 3): weak}, {(1, 3): weak}), after) is None


def test_match_sets_are_read_from_a_database(tmp_path):
    path = tmp_path / "database.db"
    with pycolmap.Database.open(path) as database:
        camera = database.write_camera(
            pycolmap.Camera(model="PINHOLE", width=9, height=9, params=[9, 9, 4, 4])
        )
        a, b, _ = (
            database.write_image(pycolmap.Image(name=name, camera_id=camera)) for name in "abc"
        )
        database.write_matches(a, b, np.array([[0, 1], [2, 3]], np.uint32))
        geometry = pycolmap.TwoViewGeometry(inlier_matches=np.array([[2, 3]], np.uint32))
        database.write_two_view_geometry(a, b, geometry)
        sets = read_match_sets(database)
    assert sets == MatchSets({(a, b): {(0, 1), (2, 3)}}, {(a, b): {(2, 3)}})
    metrics = describe_matches(sets)
    assert (metrics.num_matches, metrics.num_inliers, metrics.inlier_ratio) == (2, 1, 0.5)


def test_a_models_noise_is_the_noise_put_in(scene):
    rng = np.random.default_rng(0)
    before = describe_model(scene, read_poses(scene))
    assert before.noise_px < 0.05
    assert before.registered == 6
    assert before.rotation_deg < 1e-6
    for image in scene.images.values():
        for point in image.points2D:
            point.xy = point.xy + rng.normal(scale=0.7, size=2)
    metrics = describe_model(scene, read_poses(scene))
    count = metrics.num_observations
    free = 2 * count - 3 * metrics.num_points - 8 * 6
    # nothing was adjusted to the noise here, so no freedom was lost
    assert metrics.noise_px * np.sqrt(free / (2 * count)) == pytest.approx(0.7, rel=0.1)
    assert describe_model(None, {}).registered == 0


def result(seed, points):
    model = {"registered": 10, "num_points": points, "rotation_deg": None}
    matches = {"num_matches": 7, "num_inliers": 3, "inlier_ratio": 0.4, "num_pairs": 1}
    names = ("num_observations", "reprojection_px", "noise_px", "center_rel")
    return {
        "pipeline": "sift + NN-mutual",
        "orientation": "rotated",
        "seed": seed,
        "match_seconds": 1.0,
        "verify_seconds": 1.0,
        "map_seconds": 1.0,
        "matches": matches,
        "filter": None,
        "model": model | dict.fromkeys(names, 1.0),
    }


def test_the_table_has_mean_and_deviation_over_seeds():
    (table,) = make_tables([result(0, 100), result(1, 300)])
    assert table.title == "rotated images"
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["features + matcher"] == "sift + NN-mutual"
    assert row["points"] == "200 ± 100"
    assert row["registered"] == "10.0"
    assert row["rotation deg"] == row["kept inliers"] == "-"


def test_pipelines_name_confs_that_exist():
    own = {*matcher_confs(), "NN-mutual"}
    assert {matcher for _, matcher in PIPELINES.values()} <= own
    assert {*UNFILTERED, *UNFILTERED.values()} <= set(PIPELINES)


@pytest.mark.hloc
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_report_runs_on_the_real_hloc(tmp_path):
    pytest.importorskip("hloc.extractors.dog", exc_type=ImportError)
    image = textured_image(300, 400, seed=5)
    (tmp_path / "in").mkdir()
    for number in range(3):
        crop = image[10 * number : 240 + 10 * number, 15 * number : 320 + 15 * number]
        assert cv2.imwrite(str(tmp_path / "in" / f"i{number}.png"), crop)
    pycolmap.set_random_seed(0)
    pycolmap.synthesize_dataset(pycolmap.SyntheticDatasetOptions()).write(str(tmp_path))
    arguments = ["--images", tmp_path / "in", "--reference", tmp_path, "--out", tmp_path / "out"]
    pipelines = ["--pipelines", "sift + NN-mutual", "sift + NN-mutual + filter", "--seeds", "0"]
    assert main([*map(str, arguments), *pipelines]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["orientation"], r["pipeline"]) for r in record["results"]] == [
        (images, pipeline) for images in ("upright", "rotated") for pipeline in pipelines[1:3]
    ]
    assert [table["title"] for table in record["tables"]] == ["upright images", "rotated images"]
    plain, filtered = record["results"][:2]
    assert 100 < filtered["matches"]["num_matches"] < plain["matches"]["num_matches"]
    assert filtered["filter"]["kept_inliers"] > 0.9
