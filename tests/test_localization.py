"""New images in a model: their intrinsics, their poses, and how sure those are."""

import numpy as np
import pytest
import torch
from PIL import Image

from rekd_hloc.sfm.localization import MAX_POSITION_STD, collect_points, localize
from rekd_hloc.sfm.pose_refinement import compute_deviations
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from rekd_hloc.sfm.query_camera import QueryCamera, choose_camera, read_exif_camera
from rekd_hloc.storage.features import FeatureStore, MatchStore
from rekd_hloc.types import Features, Keypoints, Matches

SIZE = (640, 480)
FOCAL = 500.0


def camera(focal=FOCAL, size=SIZE, model="SIMPLE_RADIAL"):
    middle = [size[0] / 2, size[1] / 2]
    params = {
        "SIMPLE_RADIAL": [focal, *middle, 0.01],
        "PINHOLE": [focal, 1.1 * focal, *middle],
        "OPENCV": [focal, focal, *middle, 0, 0, 0, 0],
    }
    return pycolmap.Camera(
        {"model": model, "width": size[0], "height": size[1], "params": params[model]}
    )


@pytest.fixture(scope="module")
def world():
    """A model, and the true position of its last image, whose camera is another one."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 6, 150
    options.camera_width, options.camera_height = SIZE
    options.camera_model_id = pycolmap.CameraModelId.SIMPLE_RADIAL
    options.camera_params = [FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0.01]
    pycolmap.set_random_seed(1)
    return pycolmap.synthesize_dataset(options)


def observe(model, image, used, noise_px=0.5, seed=0, share=1.0):
    """Positions in a camera of the points that an image sees, and the points' ids."""
    ids = sorted({p.point3D_id for p in image.points2D if p.has_point3D()})
    rng = np.random.default_rng(seed)
    pose = image.cam_from_world()
    seen = np.array([pose * model.points3D[i].xyz for i in ids])
    xy = used.img_from_cam(seen)
    inside = ((xy >= 0) & (xy <= share * np.array([used.width, used.height]))).all(1)
    noise = rng.normal(scale=noise_px, size=(inside.sum(), 2))
    return xy[inside] + noise, [i for i, ok in zip(ids, inside, strict=True) if ok]


def errors(model, image, found):
    """Position error as a share of the extent, and rotation error in degrees."""
    centres = np.array([model.images[i].projection_center() for i in model.reg_image_ids()])
    extent = max(np.linalg.norm(centres - c, axis=1).max() for c in centres)
    true = image.cam_from_world()
    centre = found.cam_from_world.inverse().translation
    between = true.rotation.matrix() @ found.cam_from_world.rotation.matrix().T
    angle = np.degrees(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1)))
    return np.linalg.norm(centre - image.projection_center()) / extent, angle


@pytest.mark.parametrize(
    ("size", "exif", "source", "focal"),
    [
        (SIZE, None, "map", 500),
        ((320, 240), None, "map", 250),
        ((480, 640), None, "map", 500),
        ((1280, 960), None, "map", 1000),
        (SIZE, camera(510.0), "map", 500),
        (SIZE, camera(900.0), "exif", 900),
        ((600, 400), camera(700.0, (600, 400)), "exif", 700),
        ((600, 400), None, "estimated", 720),
    ],
)
def test_the_camera_is_the_maps_where_it_fits(world, size, exif, source, focal):
    chosen = choose_camera(world, size, exif)
    assert chosen.source == source
    assert (chosen.camera.width, chosen.camera.height) == size
    assert chosen.camera.mean_focal_length() == pytest.approx(focal)
    assert chosen.camera.principal_point_x == pytest.approx(size[0] / 2)


def test_cameras_of_a_map_that_differ_stand_for_none(world):
    model = pycolmap.Reconstruction(world)
    image = model.images[next(iter(model.reg_image_ids()))]
    changed = model.cameras[image.camera_id]
    assert choose_camera(model, SIZE).source == "map"
    other = camera(FOCAL * 1.5)
    other.camera_id = 99
    frame_cameras = [changed, other]
    model = type("Model", (), {})()
    model.cameras = dict(enumerate(frame_cameras))
    model.images = {i: type("I", (), {"camera_id": i})() for i in range(2)}
    model.reg_image_ids = lambda: [0, 1]
    assert choose_camera(model, SIZE).source == "estimated"
    model.cameras[1] = camera(FOCAL * 1.02)
    assert choose_camera(model, SIZE).source == "map"
    model.cameras = {0: camera(model="PINHOLE"), 1: camera(model="PINHOLE")}
    upright = choose_camera(model, SIZE[::-1]).camera
    assert upright.params.tolist() == [1.1 * FOCAL, FOCAL, 240, 320]
    for tangential, source in ((0.0, "map"), (0.02, "estimated")):
        distorted = camera(model="OPENCV")
        distorted.params = [*list(distorted.params)[:-1], tangential]
        model.cameras = {0: distorted, 1: distorted}
        assert choose_camera(model, SIZE[::-1]).source == source


@pytest.mark.parametrize("focal", [FOCAL, 330.0, 900.0])
def test_an_unknown_focal_length_is_found_with_the_pose(world, focal):
    image = world.images[next(iter(world.reg_image_ids()))]
    size = (600, 400)
    used = pycolmap.Camera(
        {"model": "SIMPLE_RADIAL", "width": 600, "height": 400, "params": [focal, 300, 200, 0]}
    )
    xy, ids = observe(world, image, used)
    found = localize(world, choose_camera(world, size), xy, ids)
    assert found.source == "estimated"
    assert found.camera.mean_focal_length() == pytest.approx(focal, rel=0.03)
    position, angle = errors(world, image, found)
    assert position < max(4 * found.position_std_rel, 1e-3)
    assert angle < max(4 * found.rotation_std_deg, 0.05)
    assert not any("uncertain" in warning for warning in found.warnings)
    assert found.to_json()["focal_px"] == pytest.approx(found.camera.mean_focal_length())


@pytest.mark.parametrize("cut", [(0, 0), (-90, 30), (100, 60)])
def test_an_image_cut_from_a_larger_one_is_found(world, cut):
    image = world.images[next(iter(world.reg_image_ids()))]
    params = [450.0, 260 + cut[0], 200 + cut[1], 0]
    used = pycolmap.Camera(
        {"model": "SIMPLE_RADIAL", "width": 520, "height": 400, "params": params}
    )
    xy, ids = observe(world, image, used)
    found = localize(world, choose_camera(world, (520, 400)), xy, ids)
    position, angle = errors(world, image, found)
    assert position < max(4 * found.position_std_rel, 2e-3)
    assert angle < max(4 * found.rotation_std_deg, 0.1)
    assert angle < 1.5


def test_a_wrong_focal_length_of_exif_is_refined(world):
    image = world.images[next(iter(world.reg_image_ids()))]
    xy, ids = observe(world, image, camera(480.0))
    wrong = QueryCamera(camera(560.0), "exif")
    found = localize(world, wrong, xy, ids)
    assert found.camera.mean_focal_length() == pytest.approx(480, rel=0.03)
    kept = localize(world, QueryCamera(camera(560.0), "given"), xy, ids)
    assert kept.camera.mean_focal_length() == 560
    assert errors(world, image, found)[0] < errors(world, image, kept)[0] / 3


def test_standard_deviations_are_those_of_many_trials(world):
    image = world.images[next(iter(world.reg_image_ids()))]
    centres, angles, deviations = [], [], []
    for seed in range(25):
        xy, ids = observe(world, image, camera(), seed=seed, noise_px=0.4)
        found = localize(world, QueryCamera(camera(), "exif"), xy, ids)
        centres.append(found.cam_from_world.inverse().translation)
        angles.append(errors(world, image, found)[1])
        deviations.append((found.rotation_std_deg, found.position_std))
    rotation, position = np.mean(deviations, axis=0)
    truth = np.sqrt(((np.array(centres) - image.projection_center()) ** 2).sum(1).mean())
    assert position == pytest.approx(truth, rel=0.4)
    assert rotation == pytest.approx(np.sqrt(np.mean(np.square(angles))), rel=0.4)


def test_a_pose_that_rests_on_little_is_called_unreliable(world):
    image = world.images[next(iter(world.reg_image_ids()))]
    xy, ids = observe(world, image, camera(), noise_px=2.0)
    near = np.argsort(np.linalg.norm(xy - xy.mean(0), axis=1))[:9]
    found = localize(world, choose_camera(world, SIZE), xy[near], [ids[i] for i in near])
    text = " ".join(found.warnings)
    assert "inliers, fewer than 30" in text
    assert "of the image" in text
    assert found.position_std_rel > MAX_POSITION_STD or "position" not in text
    assert localize(world, choose_camera(world, SIZE), xy[:3], ids[:3]) is None
    nothing = compute_deviations(
        camera(), image.cam_from_world(), xy[:3], np.zeros((3, 3)), num_intrinsics=1
    )
    assert nothing == (float("inf"), float("inf"))


@pytest.mark.parametrize(("focal_35mm", "known"), [(35, True), (None, False), (1, False)])
def test_the_focal_length_of_exif_is_read_where_it_is_possible(tmp_path, focal_35mm, known):
    exif = Image.Exif()
    if focal_35mm:
        exif.get_ifd(0x8769)[0xA405] = focal_35mm
    Image.new("L", SIZE).save(tmp_path / "a.jpg", exif=exif)
    found = read_exif_camera(tmp_path / "a.jpg", SIZE)
    assert (found is not None) == known
    assert read_exif_camera(tmp_path / "a.jpg", (64, 48)) is None
    (tmp_path / "b.tif").write_bytes(b"no image")
    assert read_exif_camera(tmp_path / "b.tif", SIZE) is None


def test_points_are_gathered_from_matches_in_either_order(world, tmp_path):
    first, second = (world.images[i] for i in sorted(world.reg_image_ids())[:2])
    count = len(first.points2D)
    xy = torch.tensor(np.array([p.xy for p in first.points2D]) - 0.5, dtype=torch.float32)
    ones = torch.ones(count)
    features = Features(Keypoints(xy, ones, 0 * ones, ones), torch.randn(count, 8), SIZE)
    rows = torch.arange(count)
    same = Matches(torch.stack([rows, rows], 1), torch.ones(count))
    with FeatureStore.resume(tmp_path / "f.h5", {}) as store:
        store.write("q.png", features)
    with MatchStore.resume(tmp_path / "m.h5", {}) as store:
        store.write("q.png", first.name, same, count)
        store.write(second.name, "q.png", Matches.empty(), len(second.points2D))
    with FeatureStore(tmp_path / "f.h5") as features, MatchStore(tmp_path / "m.h5") as matches:
        names = [first.name, second.name]
        got, ids = collect_points(world, "q.png", names, features, matches)
    shown = [p for p in first.points2D if p.has_point3D()]
    assert ids == [p.point3D_id for p in shown]
    np.testing.assert_allclose(got, [p.xy for p in shown], atol=1e-3)
