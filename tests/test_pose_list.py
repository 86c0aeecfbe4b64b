import json

import cv2
import numpy as np
import pytest

from evaluation import pose
from evaluation.imc.dataset import read_scene
from evaluation.metrics.pose import pose_error_deg, rotation_error_deg
from evaluation.relative_pose.pair_list import read_model_pairs, read_pair_list
from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.pycolmap_compat import pycolmap
from tests.imc_photos import make_layout
from tests.synthetic_scene import FOCAL, SIZE, make_scene

K = np.array([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]])


def write_image(path, width=64, height=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.tile(np.arange(width, dtype=np.uint8), (height, 1)))


def line(a="x/a.png", b="b.png", quarters="0 0", motion=None, words=None):
    if motion is None:
        motion = np.eye(4)
        motion[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.4, 0.2]))[0]
        motion[:3, 3] = 1, 2, 3
    numbers = np.concatenate([K.ravel(), (K + [[0, 0, 5], [0, 0, 0], [0, 0, 0]]).ravel(),
                              motion.ravel()])  # fmt: skip
    return " ".join([a, b, quarters, *(repr(float(n)) for n in numbers[:words])])


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "images" / "x" / "a.png")
    write_image(tmp_path / "images" / "b.png")
    return tmp_path


def read(folder, text):
    (folder / "pairs.txt").write_text(text)
    return read_pair_list(folder / "pairs.txt", folder / "images", folder / "rotated")


@pytest.mark.parametrize("quarters", ["0 0", ""])
def test_a_line_is_read(folder, quarters):
    pairs = read(folder, f"# a comment\n\n{line(quarters=quarters)}\n")
    (pair,) = pairs.pairs
    assert pairs.key == "pairs"
    assert pair.names == ("x/a.png", "b.png")
    np.testing.assert_allclose(pair.K_a, K)
    assert pair.K_b[0, 2] == 325
    np.testing.assert_allclose(pair.rotation, cv2.Rodrigues(np.array([0.1, -0.4, 0.2]))[0])
    np.testing.assert_allclose(pair.translation, [1, 2, 3])
    assert pairs.images["x/a.png"] == folder / "images" / "x" / "a.png"


def test_quarter_rotations_are_those_of_numpy(folder):
    (plain,) = read(folder, line()).pairs
    pairs = read(folder, line(quarters="0 1"))
    (pair,) = pairs.pairs
    assert pair.names == ("x/a.png", "b.png@rot1")
    original = cv2.imread(str(folder / "images" / "b.png"))
    rotated = cv2.imread(str(pairs.images["b.png@rot1"]))
    np.testing.assert_array_equal(rotated, np.rot90(original, 1))
    # the pixel in column 50 and row 10 comes to column 10 and row 63 - 50
    point = np.linalg.inv(plain.K_b) @ [50, 10, 1]
    at = pair.K_b @ pair.rotation @ plain.rotation.T @ point
    np.testing.assert_allclose(at[:2] / at[2], [10, 13], atol=1e-9)
    assert rotation_error_deg(pair.rotation, plain.rotation) == pytest.approx(90)


@pytest.mark.parametrize(("text", "message"), [
    (line(words=20), "line 1: has 24 words, not 38"),
    (line() + "\n" + line().replace("700.0", "wide"), "line 2: could not convert"),
    (line(motion=2 * np.eye(4)), "no rigid motion"),
    (line(motion=np.eye(4) + np.eye(4)[::-1] * 0.01), "no rigid motion|last row"),
    (line(b="x/a.png"), "paired with itself"),
    ("# nothing", "lists no pair"),
])  # fmt: skip
def test_broken_lines_are_named(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read(folder, text)


def test_missing_files_are_named(folder):
    with pytest.raises(FileNotFoundError, match="no list of pairs"):
        read_pair_list(folder / "none.txt", folder, folder)
    with pytest.raises(FileNotFoundError, match=r"no image .*c\.png"):
        read(folder, line(b="c.png"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    made = make_scene(folder / "made", num_images=4, num_points=60)
    images = folder / "images"
    images.mkdir()
    for name in made.names:
        (images / name).touch()
    return made.reference, images


def test_a_model_gives_its_pairs(model):
    path, images = model
    pairs = read_model_pairs(path, images, 0.0, exhaustive=True)
    assert len(pairs.pairs) == 6
    with compat.quiet():
        truth = pycolmap.Reconstruction(str(path))
    cameras = {image.name: image.cam_from_world() for image in truth.images.values()}
    for pair in pairs.pairs:
        motion = cameras[pair.b] * cameras[pair.a].inverse()
        np.testing.assert_allclose(pair.rotation, motion.rotation.matrix(), atol=1e-9)
        np.testing.assert_allclose(pair.translation, motion.translation, atol=1e-9)
        expected = [[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]]
        np.testing.assert_allclose(pair.K_a, expected)
    assert len(read_model_pairs(path, images, 0.01).pairs) <= 6
    with pytest.raises(ValueError, match="no pair of covisibility 1.1"):
        read_model_pairs(path, images, 1.1)


def test_distorted_models_are_refused(model, tmp_path):
    path, images = model
    with compat.quiet():
        truth = pycolmap.Reconstruction(str(path))
        for camera in truth.cameras.values():
            camera.params = [*camera.params[:3], 0.1]
        truth.write(str(tmp_path))
    with pytest.raises(ValueError, match="distorted .* px in a corner.*image_undistorter"):
        read_model_pairs(tmp_path, images, 0.1)


def test_broken_models_are_named(model, tmp_path):
    path, _ = model
    with pytest.raises(FileNotFoundError, match="no COLMAP model"):
        read_model_pairs(tmp_path, tmp_path, 0.1)
    with pytest.raises(FileNotFoundError, match="no image"):
        read_model_pairs(path, tmp_path, 0.1)


def test_the_program_on_a_list(tmp_path, capsys):
    scene = read_scene(make_layout(tmp_path / "data", num_views=3).parent)
    lines = []
    for pair in scene.pair_set(0.0).pairs:
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = pair.rotation, pair.translation
        numbers = np.concatenate([pair.K_a.ravel(), pair.K_b.ravel(), motion.ravel()])
        names = [scene.images[name].name for name in pair.names]
        lines.append(" ".join([*names, "0", "1", *map(repr, map(float, numbers))]))
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    images = next(iter(scene.images.values())).parent
    arguments = [
        "--images", str(images), "--pairs", str(tmp_path / "pairs.txt"), "--method", "sift",
        "--num-keypoints", "800", "--ratio", "0.9", "--estimator", "magsac", "--jobs", "1",
        "--max-iterations", "5000", "--out", str(tmp_path / "out"), "--seeds", "1",
    ]  # fmt: skip
    assert pose.main(arguments) == 0
    assert "Protocol pose-pairs" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    (figures,) = record["methods"]["sift"]["scenes"]
    assert figures["num_pairs"] == 3
    assert figures["mean"]["median_error_deg"] < 1.5
    assert pose.main([*arguments, "--pairs", str(tmp_path / "none.txt")]) == 2


def test_pose_errors_do_not_depend_on_quarter_rotations(folder):
    (plain,) = read(folder, line()).pairs
    (rotated,) = read(folder, line(quarters="2 3")).pairs
    guess = (cv2.Rodrigues(np.array([0.12, -0.4, 0.2]))[0], np.array([1.0, 2, 3.2]))
    roll_a = np.diag([-1.0, -1, 1])
    roll_b = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    rolled = (roll_b @ guess[0] @ roll_a.T, roll_b @ guess[1])
    assert pose_error_deg(rolled, (rotated.rotation, rotated.translation)) == pytest.approx(
        pose_error_deg(guess, (plain.rotation, plain.translation))
    )
