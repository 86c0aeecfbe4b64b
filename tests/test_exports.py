"""Models in the forms of other programs, read back by those programs where they are at hand."""

import json
import os
import shutil
import struct
import subprocess

import cv2
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.exports.export_model import WRITERS, export_model
from rekd_hloc.exports.scene_arrays import FLIP
from rekd_hloc.sfm.pycolmap_compat import pycolmap, read_reconstruction
from tests.synthetic_scene import SIZE, make_scene

COLMAP = shutil.which("colmap")
needs_colmap = pytest.mark.skipif(COLMAP is None, reason="the program colmap is not installed")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run's folder with a model of rolled cameras, and the photos beside; only to be copied."""
    folder = tmp_path_factory.mktemp("project")
    scene = make_scene(folder / "scene", num_images=4, num_points=60)
    photos = folder / "photos"
    for name in scene.names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(photos / name), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    (folder / "out" / "sparse").mkdir(parents=True)
    shutil.copytree(scene.reference, folder / "out" / "sparse" / "0")
    (folder / "out" / "database.json").write_text(json.dumps({"images": str(photos)}))
    return folder


@pytest.fixture
def out(project, tmp_path):
    return shutil.copytree(project / "out", tmp_path / "out")


def colmap(*arguments):
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    command = [COLMAP, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def model_of(out):
    return read_reconstruction(out / "sparse" / "0")


@pytest.mark.parametrize("to", WRITERS)
def test_every_format_is_written_beside_the_model_and_again(out, to, capsys):
    assert main(["export-model", str(out), "--to", to, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["files"]
    assert first
    assert all(path.startswith(str(out / to)) for path in first)
    assert main(["export-model", str(out / "sparse" / "0"), "--to", to, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == first
    assert not list(out.glob("*.tmp"))


def test_text_and_points_hold_the_model(out):
    model = model_of(out)
    export_model(out, "text")
    again = read_reconstruction(out / "text")
    assert again.num_points3D() == model.num_points3D()
    assert again.compute_num_observations() == model.compute_num_observations()
    (ply,) = export_model(out, "ply")
    assert f"element vertex {model.num_points3D()}".encode() in ply.read_bytes()


@pytest.mark.parametrize("to", ["undistorted", "openmvs"])
def test_undistorted_photos_have_pinhole_cameras(out, to):
    export_model(out, to)
    model = read_reconstruction(out / to / "sparse")
    assert {camera.model.name for camera in model.cameras.values()} == {"PINHOLE"}
    for image in model.images.values():
        picture = cv2.imread(str(out / to / "images" / image.name))
        camera = model.cameras[image.camera_id]
        assert picture.shape[:2] == (camera.height, camera.width)
    assert (out / to / "sparse" / "0" / "images.bin").is_file() == (to == "undistorted")


def project_opengl(frame, record, xyz):
    """Pixels of points by the rules of nerfstudio: cameras look along -z, y is up."""
    camera = {**record, **frame}
    x, y, z = np.linalg.inv(frame["transform_matrix"])[:3] @ np.append(xyz, 1.0)
    u, v = x / -z, -y / -z
    bend = 1 + camera["k1"] * (u * u + v * v)
    assert camera["k2"] == camera["p1"] == camera["p2"] == 0
    return camera["fl_x"] * u * bend + camera["cx"], camera["fl_y"] * v * bend + camera["cy"]


@pytest.mark.parametrize("distortion", [0.0, 0.1])
def test_nerfstudios_cameras_see_the_points_where_the_model_does(out, project, distortion):
    use_camera(out, "SIMPLE_RADIAL", [500, SIZE[0] / 2, SIZE[1] / 2, distortion])
    export_model(out, "nerfstudio")
    model, record = model_of(out), json.loads((out / "nerfstudio" / "transforms.json").read_text())
    turned = np.array(record["applied_transform"])[:, :3]
    for frame in record["frames"]:
        image = model.images[frame["colmap_im_id"]]
        assert (out / "nerfstudio" / frame["file_path"]).resolve() == (
            project / "photos" / image.name
        )
        for point in [p for p in image.points2D if p.has_point3D()][:5]:
            xyz = model.points3D[point.point3D_id].xyz
            seen = project_opengl(frame, record, turned @ xyz)
            np.testing.assert_allclose(seen, image.project_point(xyz), atol=1e-3)
    data = (out / "nerfstudio" / record["ply_file_path"]).read_bytes().partition(b"end_header\n")[2]
    written = np.frombuffer(data, np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))
    points = [model.points3D[i] for i in model.point3D_ids()]
    expected = np.array([turned @ point.xyz for point in points])
    distance = np.linalg.norm(written["xyz"][:, None] - expected[None], axis=2)
    assert len(written) == len(points)
    np.testing.assert_allclose(distance.min(axis=0), 0, atol=1e-4)
    colours = np.array([point.color for point in points])
    np.testing.assert_array_equal(written["rgb"], colours[distance.argmin(axis=1)])


def give_cameras_of_their_own(out):
    """Each image gets its own camera, of another focal length and distortion; points go."""
    model, own = model_of(out), pycolmap.Reconstruction()
    for number, image_id in enumerate(sorted(model.reg_image_ids()), start=1):
        own.add_camera_with_trivial_rig(
            pycolmap.Camera(
                camera_id=number, model="SIMPLE_RADIAL", width=SIZE[0], height=SIZE[1],
                params=[400 + 50 * number, SIZE[0] / 2, SIZE[1] / 2, 0.01 * number],
            )
        )  # fmt: skip
        image = model.images[image_id]
        own.add_image_with_trivial_frame(
            pycolmap.Image(name=image.name, camera_id=number, image_id=number),
            image.cam_from_world(),
        )
    own.write(str(out / "sparse" / "0"))


def test_each_image_may_have_a_camera_of_its_own(out):
    give_cameras_of_their_own(out)
    export_model(out, "nerfstudio")
    record = json.loads((out / "nerfstudio" / "transforms.json").read_text())
    assert "fl_x" not in record
    for frame in record["frames"]:
        number = frame["colmap_im_id"]
        assert (frame["fl_x"], frame["k1"]) == (400 + 50 * number, pytest.approx(0.01 * number))
    (path,) = export_model(out, "gltf")
    document, _ = read_glb(path)
    names = {node["camera"]: node["name"] for node in document["nodes"] if "camera" in node}
    model = model_of(out)
    for number, camera in enumerate(document["cameras"]):
        focal = model.find_image_with_name(names[number]).camera.focal_length_y
        assert camera["perspective"]["yfov"] == pytest.approx(2 * np.arctan(SIZE[1] / 2 / focal))
        assert camera["perspective"]["aspectRatio"] == pytest.approx(SIZE[0] / SIZE[1])


def read_glb(path):
    data = path.read_bytes()
    magic, version, total = struct.unpack("<4sII", data[:12])
    length, kind = struct.unpack("<I4s", data[12:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
    assert length % 4 == 0
    return json.loads(data[20 : 20 + length]), data[20 + length + 8 :]


def read_rows(document, data, mesh):
    """Positions of a mesh, whose bounds are those that its accessor states."""
    accessor = document["accessors"][mesh["primitives"][0]["attributes"]["POSITION"]]
    view = document["bufferViews"][accessor["bufferView"]]
    rows = np.frombuffer(data, "<f4", 3 * accessor["count"], view["byteOffset"]).reshape(-1, 3)
    np.testing.assert_array_equal(rows.min(axis=0), np.float32(accessor["min"]))
    np.testing.assert_array_equal(rows.max(axis=0), np.float32(accessor["max"]))
    return rows


def test_gltf_has_points_frusta_and_cameras(out):
    (path,) = export_model(out, "gltf")
    document, data = read_glb(path)
    model = model_of(out)
    assert len(read_rows(document, data, document["meshes"][0])) == model.num_points3D()
    nodes = {node["name"]: node for node in document["nodes"]}
    for image in model.images.values():
        matrix = np.reshape(nodes[image.name]["matrix"], (4, 4)).T
        np.testing.assert_allclose(matrix[:3, 3], image.projection_center(), atol=1e-9)
        np.testing.assert_allclose(-matrix[:3, 2], image.viewing_direction(), atol=1e-9)
    assert nodes["COLMAP"]["matrix"] == FLIP.ravel().tolist()
    images = sorted(model.images.values(), key=lambda image: image.name)
    centres = np.array([image.projection_center() for image in images])
    depth = 0.04 * np.linalg.norm(np.ptp(centres, axis=0))
    lines = read_rows(document, data, document["meshes"][1]).reshape(len(images), 8, 2, 3)
    np.testing.assert_allclose(lines[:, 0, 0], centres, atol=1e-5)  # from the camera
    forward = np.array([image.viewing_direction() for image in images])
    to_corner = np.einsum("ijk,ik->ij", lines[:, :4, 1] - lines[:, :4, 0], forward)
    np.testing.assert_allclose(to_corner, depth, rtol=1e-4)


def read_bundle(path):
    """Cameras as rows of 15 numbers, and points with colour and views in any order."""
    numbers = path.read_text().split("\n")[1:]
    num_images, _ = map(int, numbers[0].split())
    cameras = np.array(" ".join(numbers[1 : 1 + 5 * num_images]).split(), float)
    rest = [line for line in numbers[1 + 5 * num_images :] if line]
    points = [(rest[i], rest[i + 2]) for i in range(0, len(rest), 3)]
    sizes = {tuple(np.round(np.array(xyz.split(), float), 3)): views for xyz, views in points}
    return cameras.reshape(num_images, 15), {k: int(v.split()[0]) for k, v in sizes.items()}


@needs_colmap
@pytest.mark.parametrize("distortion", [0.0, 0.1])
def test_bundler_is_as_colmap_writes_it(out, tmp_path, distortion):
    use_camera(out, "SIMPLE_RADIAL", [500, SIZE[0] / 2, SIZE[1] / 2, distortion])
    export_model(out, "bundler")
    source, theirs = out / "sparse" / "0", tmp_path / "theirs"
    colmap(
        "model_converter", "--input_path", source, "--output_path", theirs,
        "--output_type", "Bundler",
    )  # fmt: skip
    names = (tmp_path / "theirs.list.txt").read_text().split()
    ours = (out / "bundler" / "list.txt").read_text().split()
    cameras, views = read_bundle(tmp_path / "theirs.bundle.out")
    our_cameras, our_views = read_bundle(out / "bundler" / "bundle.out")
    order = [ours.index(name) for name in names]
    np.testing.assert_allclose(our_cameras[order], cameras, atol=1e-6)
    assert our_views == views


@needs_colmap
@pytest.mark.parametrize("place", ["text", "undistorted/sparse", "undistorted/sparse/0"])
def test_the_program_colmap_opens_what_is_written(out, place):
    export_model(out, place.partition("/")[0])
    assert "Registered images: 4" in colmap("model_analyzer", "--path", out / place)


@needs_colmap
def test_the_program_colmap_maps_from_our_database(project, tmp_path):
    """Also COLMAP 3.8, which has other tables than the one that writes our databases."""
    scene = project / "scene"
    out = tmp_path / "database.db"
    arguments = ["export", str(scene / "features.h5"), str(out), "--intrinsics", "500,320,240,0"]
    assert main([*arguments, "--matches", str(scene / "matches.h5")]) == 0
    names = sorted(path.name for path in (project / "photos").iterdir())
    pairs = [f"{a} {b}\n" for i, a in enumerate(names) for b in names[:i]]
    (tmp_path / "pairs.txt").write_text("".join(pairs))
    (tmp_path / "sparse").mkdir()
    colmap(
        "matches_importer", "--database_path", out, "--match_list_path", tmp_path / "pairs.txt",
        "--match_type", "pairs", "--SiftMatching.use_gpu", 0,
    )  # fmt: skip
    colmap(
        "mapper", "--database_path", out, "--image_path", project / "photos",
        "--output_path", tmp_path / "sparse", "--Mapper.init_min_num_inliers", 20,
        "--Mapper.min_model_size", 2,
    )  # fmt: skip
    assert read_reconstruction(tmp_path / "sparse" / "0").num_reg_images() >= 3
    with pycolmap.Database.open(str(out)) as database:
        assert database.num_images() == 4


def test_what_others_made_stays(out, capsys):
    (out / "ply").mkdir()
    (out / "ply" / "notes.txt").write_text("mine")
    assert main(["export-model", str(out), "--to", "ply"]) == 2
    assert "notes.txt was not made by rekd-hloc" in capsys.readouterr().err
    assert main(["export-model", str(out), "--to", "ply", "--overwrite"]) == 0
    assert (out / "ply" / "notes.txt").read_text() == "mine"
    (out / "ply" / "points.ply").write_bytes(b"ply edited \0")
    assert main(["export-model", str(out), "--to", "ply"]) == 2
    assert "points.ply was changed since" in capsys.readouterr().err


def test_what_lies_there_of_an_earlier_export_goes(out):
    export_model(out, "text", out / "result")
    export_model(out, "ply", out / "result")
    left = sorted(path.name for path in (out / "result").iterdir() if path.is_file())
    assert left == ["points.ply"]


def use_camera(out, model, params):
    """Give all images of a model another kind of camera."""
    reconstruction = model_of(out)
    for camera in reconstruction.cameras.values():
        camera.model = getattr(pycolmap.CameraModelId, model)
        camera.params = params
    reconstruction.write(str(out / "sparse" / "0"))


@pytest.mark.parametrize(
    ("to", "model", "params", "words"),
    [
        ("bundler", "OPENCV", [500, 500, 320, 240, 0.1, 0, 0.01, 0], "no camera model OPENCV"),
        ("bundler", "PINHOLE", [500, 540, 320, 240], "has two"),
        ("nerfstudio", "FOV", [500, 500, 320, 240, 0.5], "no camera model FOV"),
    ],
)
def test_cameras_that_a_format_lacks_are_named(out, to, model, params, words, capsys):
    use_camera(out, model, params)
    assert main(["export-model", str(out), "--to", to]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "--to undistorted" in error


def test_a_fisheye_becomes_nerfstudios(out):
    use_camera(out, "OPENCV_FISHEYE", [300, 310, 320, 240, 0.1, 0.01, 0.001, 0.0001])
    export_model(out, "nerfstudio")
    record = json.loads((out / "nerfstudio" / "transforms.json").read_text())
    shared = {**record["frames"][0], **record}
    assert shared["camera_model"] == "OPENCV_FISHEYE"
    assert [shared[k] for k in ("fl_x", "fl_y", "k1", "k4")] == [300, 310, 0.1, 0.0001]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "obj"], ["no format 'obj'", "nerfstudio"]),
        (["--to", "undistorted", "--images", "nowhere"], ["no image folder nowhere"]),
    ],
)
def test_a_mistake_names_the_remedy(out, arguments, words, capsys):
    assert main(["export-model", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_photos_that_are_gone_are_named(out, tmp_path, capsys):
    (out / "database.json").unlink()
    assert main(["export-model", str(out), "--to", "undistorted"]) == 2
    assert "--images" in capsys.readouterr().err
    (tmp_path / "few").mkdir()
    assert main(["export-model", str(out), "--to", "openmvs", "--images", str(tmp_path / "few")])
    assert "lacks 4 photos of the model" in capsys.readouterr().err
    assert main(["export-model", str(tmp_path / "few")]) == 2
    assert "holds no COLMAP model" in capsys.readouterr().err
