import subprocess
import sys

import numpy as np
import pytest

from rekd_hloc.sfm import pycolmap_compat as compat
from rekd_hloc.sfm.cameras import image_ids
from rekd_hloc.sfm.pycolmap_compat import pycolmap


def test_quiet_ends_with_the_block_even_by_an_error():
    before = pycolmap.logging.minloglevel
    during = []

    def fail():
        during.append(pycolmap.logging.minloglevel)
        raise KeyError

    with pytest.raises(KeyError), compat.quiet():
        fail()
    assert during == [compat.GLOG_FATAL]
    assert pycolmap.logging.minloglevel == before


def test_options_are_set_where_they_exist_and_left_out_elsewhere():
    options = pycolmap.IncrementalPipelineOptions()
    same = compat.set_options(
        options, min_model_size=7, triangulation__random_seed=3, nothing=1, mapper__no__such=2
    )
    assert same is options
    assert options.min_model_size == 7
    assert options.triangulation.random_seed == 3
    assert not hasattr(options, "nothing")


def test_codes_come_back_as_they_were_written(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (5, 128), dtype=np.uint8)
    with compat.quiet(), pycolmap.Database.open(str(tmp_path / "d.db")) as database:
        camera = database.write_camera(compat.make_camera("SIMPLE_RADIAL", 64, 48, []))
        image_id = compat.add_image(database, "a", camera)
        compat.write_descriptor_codes(database, image_id, codes)
        assert np.array_equal(compat.read_descriptor_codes(database, image_id), codes)


def test_a_camera_without_parameters_gets_colmaps_guess():
    camera = compat.make_camera("SIMPLE_RADIAL", 640, 480, [])
    assert camera.params.tolist() == [1.2 * 640, 320, 240, 0]
    assert (camera.width, camera.height) == (640, 480)
    assert not camera.has_prior_focal_length
    known = compat.make_camera("PINHOLE", 640, 480, [500, 510, 300, 200])
    assert known.params.tolist() == [500, 510, 300, 200]
    assert known.has_prior_focal_length


def test_images_of_one_camera_have_one_rig_and_a_frame_each(tmp_path):
    with compat.quiet(), pycolmap.Database.open(str(tmp_path / "d.db")) as database:
        first, second = (
            database.write_camera(compat.make_camera("SIMPLE_RADIAL", 64, 48, [])) for _ in range(2)
        )
        ids = {
            "a": compat.add_image(database, "a", first),
            "b": compat.add_image(database, "b", first),
            "ü c": compat.add_image(database, "ü c", second),
        }
        assert image_ids(database) == ids
        assert database.num_rigs() == 2
        assert database.num_frames() == 3


def test_geometries_are_seen_with_inliers_and_without(tmp_path):
    with compat.quiet(), pycolmap.Database.open(str(tmp_path / "d.db")) as database:
        camera = database.write_camera(compat.make_camera("SIMPLE_RADIAL", 64, 48, []))
        a, b, c = (compat.add_image(database, name, camera) for name in "abc")
        database.write_two_view_geometry(a, b, pycolmap.TwoViewGeometry())
        assert compat.has_geometry(database, a, b)
        assert compat.has_geometry(database, b, a)
        assert not compat.has_geometry(database, a, c)


def test_a_failed_write_names_the_file_and_a_full_disk_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "d.db"
    words = r"cannot write .*d\.db: COLMAP's words$"
    with pytest.raises(OSError, match=words), compat.write_errors(path):
        raise RuntimeError("COLMAP's words\nand a stack trace")
    with pytest.raises(OSError, match="gives no reason"), compat.write_errors(path):
        raise RuntimeError
    usage = compat.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(compat.shutil, "disk_usage", lambda _: usage._replace(free=10))
    full = pytest.raises(OSError, match=r"no space left for .*d\.db.*same command goes on")
    with full as caught, compat.write_errors(path):
        raise RuntimeError("database is full")
    assert caught.value.errno == compat.errno.ENOSPC
    with pytest.raises(OSError, match="no space left"):
        compat.require_space(path, 11)
    compat.require_space(path, 10)


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(ValueError, match="mine"), compat.write_errors(tmp_path / "d.db"):
        raise ValueError("mine")


OTHER_MODULES = ("cameras", "mapping", "alignment")


@pytest.mark.parametrize(
    "module", ["database", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_MODULES)]
)
def test_opencv_still_writes_png_after_our_imports(tmp_path, module):
    """pycolmap as a process's first extension would end it there, without an exception."""
    code = (
        f"import rekd_hloc.sfm.{module}, cv2, numpy; "
        f"cv2.imwrite({str(tmp_path / 'a.png')!r}, numpy.zeros((64, 64), 'uint8'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert (tmp_path / "a.png").stat().st_size > 0
