import math

import h5py
import numpy as np
import pytest

from rekd_hloc.sfm.alignment import (
    Pose,
    Similarity,
    align_to_reference,
    compute_extent,
    fit_robustly,
    fit_similarity,
    read_poses,
    read_reference,
    rotation_angle_deg,
)
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from tests.synthetic_scene import make_scene


def rotation(axis, angle_deg):
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(angle_deg)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def random_poses(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{index}.jpg": Pose(rotation(rng.normal(size=3), rng.uniform(0, 180)), rng.normal(size=3))
        for index in range(count)
    }


def move(poses, similarity):
    """The same cameras in another frame."""
    return {
        name: Pose(pose.rotation @ similarity.rotation.T, similarity.apply(pose.centre[None])[0])
        for name, pose in poses.items()
    }


SIMILARITY = Similarity(2.5, rotation((1, 2, -1), 77.0), np.array([3.0, -1.0, 4.0]))


def test_a_model_in_another_frame_has_no_error():
    reference = random_poses(8)
    model = {k: v for k, v in move(reference, SIMILARITY).items() if k != "3.jpg"}
    errors = align_to_reference(model, reference)
    assert errors.names == tuple(sorted(model))
    np.testing.assert_allclose(errors.rotation_deg, 0, atol=1e-5)
    np.testing.assert_allclose(errors.center_rel, 0, atol=1e-9)
    back = errors.reference_from_model
    assert back.scale == pytest.approx(1 / SIMILARITY.scale)
    np.testing.assert_allclose(back.rotation, SIMILARITY.rotation.T, atol=1e-9)


def test_each_error_is_charged_to_the_camera_that_has_it():
    reference = random_poses(10)
    model = move(reference, SIMILARITY)
    turned, moved = model["2.jpg"], model["7.jpg"]
    model["2.jpg"] = Pose(rotation((0, 1, 0), 5.0) @ turned.rotation, turned.centre)
    extent = compute_extent(np.array([pose.centre for pose in reference.values()]))
    model["7.jpg"] = Pose(moved.rotation, moved.centre + 2.5 * np.array([0.5 * extent, 0, 0]))
    errors = align_to_reference(model, reference)
    rotation_deg = dict(zip(errors.names, errors.rotation_deg, strict=True))
    center_rel = dict(zip(errors.names, errors.center_rel, strict=True))
    assert rotation_deg.pop("2.jpg") == pytest.approx(5.0, abs=1e-5)
    assert center_rel.pop("7.jpg") == pytest.approx(0.5, abs=1e-9)
    assert max(rotation_deg.values()) < 1e-5
    assert max(center_rel.values()) < 1e-9


def test_extent_is_that_of_the_whole_reference_not_of_the_common_part():
    reference = random_poses(4)
    reference["far.jpg"] = Pose(np.eye(3), np.array([100.0, 0.0, 0.0]))
    model = {name: pose for name, pose in reference.items() if name != "far.jpg"}
    assert align_to_reference(model, reference).extent > 90


@pytest.mark.parametrize("angle_deg", [0.0, 1e-6, 0.01, 30.0, 90.0, 179.9, 180.0])
def test_rotation_angle_is_exact_from_end_to_end(angle_deg):
    a = rotation((3, -1, 2), 40.0)
    b = rotation((1, 5, 2), angle_deg) @ a
    assert rotation_angle_deg(a, b) == pytest.approx(angle_deg, abs=1e-5, rel=1e-6)


def test_least_squares_similarity_is_exact_and_never_a_mirror():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6, 3))
    found = fit_similarity(points, SIMILARITY.apply(points))
    np.testing.assert_allclose(found.apply(points), SIMILARITY.apply(points), atol=1e-9)
    mirrored = fit_similarity(points, points * [1, 1, -1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1.0)


def test_coplanar_centres_suffice_and_collinear_ones_do_not():
    rng = np.random.default_rng(0)
    flat = np.c_[rng.normal(size=(5, 2)), np.zeros(5)]
    found = fit_similarity(flat, SIMILARITY.apply(flat))
    np.testing.assert_allclose(found.rotation, SIMILARITY.rotation, atol=1e-9)
    line = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
    for points in (line, np.zeros((5, 3)), flat[:2]):
        with pytest.raises(ValueError, match="on one line"):
            fit_similarity(points, SIMILARITY.apply(points))


def test_robust_fit_without_outliers_is_least_squares():
    rng = np.random.default_rng(0)
    src = rng.normal(size=(9, 3))
    dst = SIMILARITY.apply(src) + 0.01 * rng.normal(size=(9, 3))
    robust, plain = fit_robustly(src, dst, 1.0), fit_similarity(src, dst)
    np.testing.assert_allclose(robust.rotation, plain.rotation)
    assert robust.scale == plain.scale


def test_robust_fit_survives_a_third_of_outliers_among_many():
    rng = np.random.default_rng(1)
    src = rng.normal(size=(30, 3))  # more triples than are tried
    dst = SIMILARITY.apply(src)
    dst[:10] += rng.normal(scale=20, size=(10, 3))
    found = fit_robustly(src, dst, 0.1)
    np.testing.assert_allclose(found.apply(src[10:]), dst[10:], atol=1e-6)


def test_names_are_found_without_folder_and_suffix_too():
    reference = {name.removesuffix(".jpg"): pose for name, pose in random_poses(4).items()}
    model = {f"sub/{name}": pose for name, pose in random_poses(4).items()}
    assert len(align_to_reference(model, reference).names) == 4
    model["0.png"] = model["sub/0.jpg"]
    with pytest.raises(ValueError, match="two images of the model stand for one"):
        align_to_reference(model, reference)


@pytest.mark.parametrize("common", [0, 2])
def test_too_few_common_images_are_an_error_that_counts_them(common):
    reference = random_poses(5)
    names = list(reference)[:common]
    with pytest.raises(ValueError, match=f"needs 3 images .* has {common} of them"):
        align_to_reference({name: reference[name] for name in names}, reference)


def test_reference_is_read_from_a_colmap_model_binary_or_text(tmp_path):
    scene = make_scene(tmp_path, num_images=4, num_points=20)
    truth = pycolmap.Reconstruction(str(scene.reference))
    poses = read_reference(scene.reference)
    assert sorted(poses) == scene.names
    for image in truth.images.values():
        pose = poses[image.name]
        point = np.array([0.3, -0.2, 0.7])
        in_camera = image.cam_from_world() * point
        np.testing.assert_allclose(pose.rotation @ (point - pose.centre), in_camera, atol=1e-9)
    (tmp_path / "text").mkdir()
    truth.write_text(str(tmp_path / "text"))
    from_text = read_reference(tmp_path / "text")
    for name, pose in read_poses(truth).items():
        np.testing.assert_allclose(from_text[name].centre, pose.centre, atol=1e-9)


def test_reference_is_read_from_imc_calibrations(tmp_path):
    turn, translation = rotation((1, 1, 0), 20.0), np.array([1.0, 2.0, 3.0])
    with h5py.File(tmp_path / "calibration_00_1.h5", "w") as file:
        file["R"], file["T"] = turn, translation[None]
    pose = read_reference(tmp_path)["00_1"]
    world = np.array([0.5, -4.0, 2.0])
    expected = turn @ world + translation
    np.testing.assert_allclose(pose.rotation @ (world - pose.centre), expected, atol=1e-12)


def test_a_folder_that_is_no_reference_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no reference folder .*nowhere"):
        read_reference(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"images\.bin.*calibration_"):
        read_reference(tmp_path)
    (tmp_path / "images.bin").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no readable COLMAP model"):
        read_reference(tmp_path)
    (tmp_path / "calibration_a.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="calibration_a.h5 is no IMC calibration"):
        read_reference(tmp_path)
    with h5py.File(tmp_path / "calibration_a.h5", "w") as file:
        file["R"] = np.eye(3)
    with pytest.raises(ValueError, match="calibration_a.h5 is no IMC calibration"):
        read_reference(tmp_path)
