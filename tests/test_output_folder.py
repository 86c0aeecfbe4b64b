"""A reconstruction's folder: what others made in it, old models, and what is made again."""

import json
import os
import shutil

import pytest

from rekd_hloc.config import MatchConfig
from rekd_hloc.json_text import read_json
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm import stages
from rekd_hloc.sfm.output_folder import OutputFolder
from rekd_hloc.sfm.pycolmap_compat import make_camera, pycolmap
from rekd_hloc.sfm.reconstruct import reconstruct
from rekd_hloc.sfm.report import format_report
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.viz import page, page_sources
from rekd_hloc.viz.page import write_html_report
from tests.corner_scene import make_photos
from tests.sift_extractor import SiftExtractor

NUM_VIEWS = 4
MINE = "of the user"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, NUM_VIEWS)
    return folder / "images"


def run(images, output, extractor=None, **options):
    extractor = extractor or SiftExtractor(250)
    return reconstruct(images, output, extractor=extractor, device="cpu", **options)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """The output of a run; only to be copied."""
    output = tmp_path_factory.mktemp("finished") / "out"
    assert run(images, output)["num_registered"] == NUM_VIEWS
    return output


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def num_images(folder):
    return pycolmap.Reconstruction(str(folder)).num_reg_images()


def write_database(project, finished):
    with pycolmap.Database.open(str(project / "database.db")) as database:
        database.write_camera(make_camera("PINHOLE", 10, 10, [9.0, 9.0, 5.0, 5.0]))


def write_model(project, finished):
    shutil.copytree(finished / "sparse", project / "sparse")


def write_text(name):
    return lambda project, finished: (project / name).write_text(MINE)


OTHER_STEPS = ("verify", "describe_models")
THINGS = {
    "database.db": write_database,
    "sparse": write_model,
    "pairs.txt": write_text("pairs.txt"),
    "report.json": write_text("report.json"),
    "database.json": write_text("database.json"),
}


@pytest.mark.parametrize("name", THINGS)
def test_a_project_of_someone_else_stays_as_it_is(name, images, finished, tmp_path):
    project = tmp_path / "project"
    (project / "notes").mkdir(parents=True)
    (project / "notes" / "a.txt").write_text(MINE)
    THINGS[name](project, finished)
    before = snapshot(project)
    extractor = SiftExtractor()
    with pytest.raises(FileExistsError, match=rf"{name} is there and was not made by rekd-hloc"):
        run(images, project, extractor)
    assert snapshot(project) == before
    assert not (project / ".rekd_hloc").exists()
    assert extractor.seen == []


@pytest.mark.parametrize("name", ["database.db", "pairs.txt", "report.json", "features.h5"])
def test_a_folder_where_a_file_goes_is_not_replaced_though_asked(name, images, tmp_path):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises((ValueError, OSError), match=name):
        run(images, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / name).is_dir()
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sparse").write_text(MINE)
    with pytest.raises(FileExistsError, match="sparse is text, where a folder would go"):
        run(images, tmp_path / "out", overwrite=True)


def test_a_project_is_replaced_when_asked_and_its_model_kept(images, finished, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    for make in THINGS.values():
        make(project, finished)
    (project / "sparse" / "0" / "notes.txt").write_text(MINE)
    report = run(images, project, overwrite=True)
    assert report["num_registered"] == NUM_VIEWS
    assert report["previous_model"] == "sparse.previous"
    assert (project / "sparse.previous" / "0" / "notes.txt").read_text() == MINE
    assert sorted(path.name for path in (project / "sparse" / "0").iterdir()) == sorted(
        path.name for path in (finished / "sparse" / "0").iterdir()
    )
    assert run(images, project)["previous_model"] is None


def refine(out):
    model = pycolmap.Reconstruction(str(out / "sparse" / "0"))
    point = next(iter(model.points3D))
    model.points3D[point].xyz = [1.0, 2.0, 3.0]
    model.write(str(out / "sparse" / "0"))


def add_notes(out):
    (out / "sparse" / "notes.txt").write_text(MINE)


def set_focal_length(out):
    with pycolmap.Database.open(str(out / "database.db")) as database:
        camera = database.read_all_cameras()[0]
        camera.params = [321.0, *list(camera.params)[1:]]
        database.update_camera(camera)


def choose_pairs(out):
    (out / "pairs.txt").write_text("a b")


@pytest.mark.parametrize("change", [refine, add_notes, set_focal_length, choose_pairs])
def test_what_a_user_changed_in_our_folder_is_the_users(change, images, out):
    change(out)
    before = snapshot(out)
    with pytest.raises(FileExistsError, match="was changed since rekd-hloc made it; choose"):
        run(images, out)
    assert snapshot(out) == before
    report = run(images, out, overwrite=True)
    assert report["num_registered"] == NUM_VIEWS
    assert num_images(out / "sparse" / "0") == NUM_VIEWS
    assert (out / "sparse.previous").exists() == (change in (refine, add_notes))


def test_a_copied_folder_is_gone_on_with(images, finished, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in finished.iterdir():  # without the files' times
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / path.name)
    extractor = SiftExtractor(250)
    assert run(images, copy, extractor)["num_registered"] == NUM_VIEWS
    assert extractor.seen == []


@pytest.fixture
def no_drawings(monkeypatch):
    """Pages that take no time."""
    monkeypatch.setattr(page, "_draw", lambda *_: {})
    monkeypatch.setattr(page, "render_template", lambda _, **values: values["title"])


def make_old(out):
    """What version 0.1 left: no record of its own."""
    shutil.rmtree(out / ".rekd_hloc")
    record = json.loads((out / "database.json").read_text())
    del record["made"]
    (out / "database.json").write_text(json.dumps(record))


def test_a_folder_of_the_first_version_is_ours_and_gets_a_record(images, out, no_drawings):
    make_old(out)
    write_html_report(out, images, title="a page")
    assert run(images, out)["num_registered"] == NUM_VIEWS
    add_notes(out)
    with pytest.raises(FileExistsError, match="sparse was changed"):
        run(images, out)


def test_a_folder_whose_record_is_gone_is_not_taken_for_one_of_the_first_version(images, out):
    shutil.rmtree(out / ".rekd_hloc")
    with pytest.raises(FileExistsError, match="was not made by rekd-hloc"):
        run(images, out)


def test_a_page_of_someone_else_stays(images, out, no_drawings):
    write_html_report(out, images, title="one")
    write_html_report(out, images, title="two")
    (out / "report.html").write_text(MINE)
    with pytest.raises(FileExistsError, match=r"report\.html was changed"):
        write_html_report(out, images, title="three")
    assert (out / "report.html").read_text() == MINE
    write_html_report(out, images, title="three", overwrite=True)


def test_a_page_is_drawn_again_only_where_it_would_show_something_else(
    images, out, no_drawings, monkeypatch
):
    def draw(title):
        write_html_report(out, images, title=title)
        return (out / "report.html").stat().st_mtime_ns

    first = draw("one")
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps({**report, "seconds": {"total": 1.0}}))
    assert draw("one") == first
    second = draw("two")
    assert second > first
    (out / "report.json").write_text(json.dumps({**report, "num_registered": 1}))
    third = draw("two")
    assert third > second
    monkeypatch.setattr(page_sources, "__version__", "0.0.1")
    fourth = draw("two")
    assert fourth > third
    (out / "report.html").unlink()
    assert draw("two") > fourth


def test_a_pairs_file_of_the_users_own_in_the_output_is_read_and_stays(images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    names = sorted(path.name for path in images.iterdir())
    text = "# my choice\n" + "\n".join(f"{a} {b}" for a in names for b in names if a < b)
    (out / "pairs.txt").write_text(text)
    report = run(images, out, pairs=out / "pairs.txt")
    assert report["num_registered"] == NUM_VIEWS
    assert (out / "pairs.txt").read_text() == text


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize(
    "step",
    ["map_scene", *(pytest.param(step, marks=pytest.mark.slow) for step in OTHER_STEPS)],
)
def test_a_run_that_fails_leaves_the_old_model_and_goes_on(step, error, images, out, monkeypatch):
    before = snapshot(out / "sparse")
    monkeypatch.setattr(stages, step, lambda *args, **options: (_ for _ in ()).throw(error("x")))
    with pytest.raises(error):
        run(images, out, seed=3)
    monkeypatch.undo()
    if step != "describe_models":
        assert snapshot(out / "sparse") == before
    assert num_images(out / "sparse" / "0") == NUM_VIEWS
    assert run(images, out, seed=3)["num_registered"] == NUM_VIEWS
    assert sorted(path.name for path in (out / ".rekd_hloc").iterdir()) == ["lock", "made.jsonl"]


def test_a_kill_between_two_renames_leaves_the_old_model_where_it_is_found(images, out):
    (out / "sparse").rename(out / ".rekd_hloc" / "old")
    with OutputFolder.hold(out):
        assert num_images(out / "sparse" / "0") == NUM_VIEWS
    run(images, out)


@pytest.mark.slow
def test_a_model_of_an_earlier_run_is_not_taken_for_that_of_a_run_without_one(
    images, out, monkeypatch
):
    monkeypatch.setattr(stages, "map_scene", lambda *args, **options: [])
    report = run(images, out, seed=1)  # of another database: nothing is kept
    assert report["num_registered"] == 0
    assert report["previous_model"] == "sparse.previous"
    assert "sparse.previous" in format_report(report)
    assert not (out / "sparse").exists()
    monkeypatch.undo()
    run(images, out)
    monkeypatch.setattr(stages, "map_scene", lambda *args, **options: [])
    assert run(images, out, seed=1)["previous_model"] == "sparse.previous.2"
    assert num_images(out / "sparse.previous" / "0") == NUM_VIEWS


def arrays_of(path):
    return path.stat().st_mtime_ns, path.read_bytes()


def test_another_ratio_is_refused_and_then_leaves_the_features_alone(images, out):
    other = {"matching": MatchConfig(ratio=0.8)}
    before = snapshot(out)
    with pytest.raises(ValueError, match=r"matches\.h5 was made with other settings: .*ratio"):
        run(images, out, **other)
    assert snapshot(out) == before
    extractor = SiftExtractor(250)
    features, matches = (arrays_of(out / name) for name in ("features.h5", "matches.h5"))
    run(images, out, extractor, overwrite=True, **other)
    assert extractor.seen == []
    assert arrays_of(out / "features.h5") == features
    assert arrays_of(out / "matches.h5") != matches
    matches = arrays_of(out / "matches.h5")
    run(images, out, extractor, overwrite=True, **other)
    assert arrays_of(out / "matches.h5") == matches


def test_other_settings_of_extraction_are_refused_before_an_added_image(images, out, tmp_path):
    more = shutil.copytree(images, tmp_path / "images")
    first = sorted(more.iterdir())[0]
    shutil.copy(first, more / "added.png")
    other = SiftExtractor(200, keypoints="200")
    before = snapshot(out)
    with pytest.raises(ValueError, match=r"features\.h5 was made with other settings: keypoints"):
        run(more, out, other)
    with pytest.raises(ValueError, match=r"matches\.h5 was made with other settings: .*ratio"):
        run(more, out, matching=MatchConfig(ratio=0.8))
    assert snapshot(out) == before
    run(images, out, other, overwrite=True)
    assert len(other.seen) == NUM_VIEWS
    with FeatureStore(out / "features.h5") as store:
        assert store.provenance["keypoints"] == "200"


def test_damaged_features_are_made_anew_when_asked_and_their_matches_too(images, out):
    path = out / "features.h5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"features\.h5 is no HDF5 file, or a damaged one"):
        run(images, out)
    calls = []
    match_images = reconstruction.match_images

    def match(*args, **options):
        calls.append(options["overwrite"])
        return match_images(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "match_images", match)
        assert run(images, out, overwrite=True)["num_registered"] == NUM_VIEWS
    assert calls == [True]


def test_files_of_the_single_commands_are_gone_on_with(images, finished, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("features.h5", "matches.h5", "pairs.txt"):
        shutil.copy(finished / name, out)
    extractor = SiftExtractor(250)
    assert run(images, out, extractor)["num_registered"] == NUM_VIEWS
    assert extractor.seen == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
@pytest.mark.parametrize("name", ["database.json", "report.json", "pairs.txt"])
def test_a_pipe_in_the_folder_is_refused_and_never_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileExistsError, match=f"{name} is a device or a pipe"):
        OutputFolder(tmp_path).refuse_foreign()
    with pytest.raises(ValueError, match="a device or a pipe"):
        read_json(tmp_path / name)
