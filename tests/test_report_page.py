import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from rekd_hloc.sfm.alignment import read_reference
from rekd_hloc.sfm.reconstruct import reconstruct_from_files
from rekd_hloc.viz.page import write_html_report
from rekd_hloc.viz.run_files import RunFiles, read_model, read_pairs
from tests.helpers import textured_image
from tests.synthetic_scene import SIZE, make_scene

SECTIONS = ["Model", "Tracks", "Photos", "Pairs", "Pair viewer"]
PLAIN = ["Summary", "Time", "Weakest pairs", "Configuration"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reconstruction with its images, and one image missing."""
    folder = tmp_path_factory.mktemp("run")
    scene = make_scene(folder, num_images=5, num_points=120)
    (folder / "images").mkdir()
    for seed, name in enumerate(scene.names):
        done, data = cv2.imencode(".png", textured_image(SIZE[1], SIZE[0], seed))
        assert done
        (folder / "images" / name).write_bytes(data.tobytes())
    reconstruct_from_files(
        scene.features,
        scene.matches,
        None,
        folder / "images",
        folder / "out",
        reference=scene.reference,
    )
    return folder


@pytest.fixture(scope="module")
def path(run):
    return write_html_report(
        run / "out", run / "images", title="A <test> & more", reference=run / "reference"
    )


class Page(HTMLParser):
    """Checks that tags close in order, and collects headings, pictures and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.images, self.links, self.text = [], [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if not {"style", "script"} & set(self.open):
            self.text += data + "\n"


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def read_record(path):
    """What the page's scripts show."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="scene">(.*?)</script>', text, re.DOTALL)[1])


def test_page_has_every_section_and_asks_for_no_other_file(run, path):
    assert path == run / "out" / "report.html"
    page, text = read_page(path), path.read_text(encoding="utf-8")
    assert page.headings == SECTIONS + PLAIN
    assert not page.links
    assert "default-src 'none'; img-src data:" in text
    assert not re.search(r"https?:|@import|fetch\(|XMLHttp|import ", text)
    assert "A <test> & more" in page.text
    assert "5 of 5" in page.text
    assert "degrees median rotation error" in page.text
    assert not list((run / "out").glob("*.tmp"))


def test_numbers_of_the_page_are_those_of_the_report(run, path):
    report = json.loads((run / "out" / "report.json").read_text())
    text = read_page(path).text
    pairs = report["pairs"]
    for words in (
        f"{report['num_points3D']:,}",
        f"{report['mean_reprojection_error_px']:.3f}",
        f"{pairs['num_inliers']:,} of {pairs['num_matches']:,}",
        f"median {report['rotation_error_deg']['median']:.3f}",
    ):
        assert words in text


def test_missing_parts_are_left_out(run, tmp_path):
    report = json.loads((run / "out" / "report.json").read_text())
    few = {key: report[key] for key in ("num_images", "num_registered", "seconds")}
    few |= {"skipped": {"broken <1>.jpg": "the file is empty"}, "diagnosis": "Add images."}
    (tmp_path / "report.json").write_text(json.dumps(few))
    page = read_page(write_html_report(tmp_path, tmp_path / "no images", title="x"))
    assert page.headings == ["What went wrong", "Summary", "Time", "Skipped files"]
    assert "broken <1>.jpg" in page.text
    assert "Add images." in page.text


def test_the_time_is_that_of_the_runs_that_did_the_work(run, tmp_path):
    report = {"num_images": 2, "seconds": {"extract": 0.2, "map": 3.0, "total": 3.2}}
    report["work_seconds"] = {"extract": 1234.5, "map": 3.0, "total": 1237.5}
    (tmp_path / "report.json").write_text(json.dumps(report))
    text = read_page(write_html_report(tmp_path, tmp_path / "none", title="x")).text
    assert "1,234.5 s" in text
    assert "1,237.5" in text
    assert "The last run took 3.2 s." in text


def test_images_that_are_gone_leave_the_rest(run, tmp_path):
    shutil.copytree(run / "out", tmp_path / "out")
    page = read_page(write_html_report(tmp_path / "out", tmp_path / "none", title="x"))
    assert page.headings == SECTIONS + PLAIN
    record = read_record(tmp_path / "out" / "report.html")
    assert [image["photo"] for image in record["images"]] == [None] * 5


def test_a_folder_without_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="reconstruct"):
        write_html_report(tmp_path, tmp_path, title="x")
    (tmp_path / "report.json").write_text("{ broken")
    with pytest.raises(ValueError, match="damaged"):
        write_html_report(tmp_path, tmp_path, title="x")


def test_run_files_agree_with_the_report(run):
    files = RunFiles.read(run / "out", run / "images")
    assert (
        sum(inliers for _, inliers in files.counts.values()) == files.report["pairs"]["num_inliers"]
    )
    pair, (num_matches, num_inliers) = next(iter(files.counts.items()))
    matches, is_inlier = read_pairs(run / "out" / "database.db", [pair])[pair]
    assert (len(matches), is_inlier.sum()) == (num_matches, num_inliers)


def test_model_is_moved_onto_the_reference(run):
    reference = read_reference(run / "reference")
    model = read_model(run / "out", reference)
    assert model.points.shape == (len(model.points), 3)
    for name, pose in model.poses.items():
        true = reference[name]
        assert np.linalg.norm(pose.centre - true.centre) < 0.05
        assert np.abs(pose.rotation @ true.rotation.T - np.eye(3)).max() < 0.01
    ahead = [p.rotation[2] @ (model.points.mean(0) - p.centre) for p in model.poses.values()]
    assert min(ahead) > 0
    plain = read_model(run / "out", None)
    assert plain.errors is None
    assert plain.poses.keys() == model.poses.keys()
    assert read_model(run / "images", None) is None
