import json
import shutil
import subprocess
import sys

import cv2
import pytest

from rekd_hloc import __version__
from rekd_hloc.cli.main import COMMANDS, main
from rekd_hloc.cli.options import EXIT_FAILED, EXIT_MISTAKE
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.result import ReconstructionResult
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.helpers import ROOT, textured_image


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two views of one texture, a file that is no image, a name with a space and an umlaut."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    image = textured_image(220, 260)
    assert cv2.imwrite(str(folder / "a.png"), image)
    assert cv2.imwrite(str(folder / "sub" / "über uns.png"), cv2.rotate(image, 0))
    (folder / "broken.jpg").write_bytes(b"this is no image")
    return folder


@pytest.fixture(scope="module")
def extracted(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("features") / "features.h5"
    arguments = ["extract", str(images), str(output), "--conf", "rekd-fast", "--quiet"]
    assert main([*arguments, "--max-keypoints", "150"]) == 0
    return output


def test_every_command_is_there():
    assert list(COMMANDS) == [
        "frames",
        "extract",
        "pairs",
        "codebook",
        "match",
        "refine",
        "reconstruct",
        "localize",
        "demo",
        "export",
        "export-model",
        "merge",
        "plot",
        "check",
        "info",
        "export-weights",
        "export-onnx",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_names_the_command(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: rekd-hloc {command}" in shown


def test_no_command_shows_the_commands(capsys):
    main([])
    shown = capsys.readouterr()
    for command in (*COMMANDS, "hloc"):
        assert command in shown.out + shown.err


def test_the_list_of_commands_describes_each_in_a_whole_line(capsys):
    assert main(["--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:")[2]
    assert "extract" in commands
    assert "..." not in commands.replace("hloc...", "hloc")


def test_the_version_is_shown(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rekd-hloc {__version__}\n"


@pytest.mark.slow
def test_the_package_runs_as_a_program():
    command = [sys.executable, "-m", "rekd_hloc", "pairs", "no-such-folder", "p.txt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == EXIT_MISTAKE
    assert done.stderr.startswith("rekd-hloc: error: ")
    assert "no-such-folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract", "no-such-folder", "f.h5"], ["no image folder", "no-such-folder"]),
        (["extract", ".", "f.h5", "--conf", "redk"], ["redk", "did you mean 'rekd'"]),
        (["extract", ".", "f.h5", "--set", "detector.boder_px=3"], ["boder_px", "border_px"]),
        (["extract", ".", "f.h5", "--device", "tpu9"], ["tpu9", "auto", "cpu"]),
        (["match", "missing.h5", "m.h5"], ["missing.h5"]),
        (
            ["reconstruct", ".", "o", "--filter", "median"],
            ["no filter 'median'", "--filter", "density"],
        ),
        (["reconstruct", ".", "o", "--intrinsics", "a,b"], ["intrinsics", "a,b"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == EXIT_MISTAKE
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rekd-hloc: error: ")
    for word in words:
        assert word in error


def test_an_unknown_command_is_a_mistake(capsys):
    assert main(["extrakt"]) == EXIT_MISTAKE
    assert "extrakt" in capsys.readouterr().err


def test_extract_reads_subfolders_and_skips_what_is_no_image(extracted):
    with FeatureStore(extracted) as store:
        assert store.names() == ["a.png", "sub/über uns.png"]
        assert 20 < len(store.read("a.png")) <= 150


def test_extract_again_goes_on_and_prints_json(images, extracted, capsys):
    arguments = ["extract", str(images), str(extracted), "--conf", "rekd-fast", "--quiet"]
    assert main([*arguments, "--max-keypoints", "150", "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["num_resumed"] == 2
    assert list(record["skipped"]) == ["broken.jpg"]
    assert "skipped broken.jpg" in shown.err


def test_another_configuration_is_refused_and_the_remedy_named(images, extracted, capsys):
    arguments = ["extract", str(images), str(extracted), "--conf", "rekd-fast", "--quiet"]
    assert main([*arguments, "--max-keypoints", "99"]) == EXIT_MISTAKE
    assert "overwrite" in capsys.readouterr().err


def test_a_folder_without_a_readable_image_fails(tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"")
    arguments = ["extract", str(tmp_path), str(tmp_path / "f.h5"), "--conf", "rekd-fast"]
    assert main([*arguments, "--quiet"]) == EXIT_FAILED
    assert "skipped x.png" in capsys.readouterr().err


def test_match_export_check_plot(images, extracted, tmp_path, capsys):
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    shutil.copy(extracted, features)
    assert main(["match", str(features), str(matches), "--quiet", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    pair = ("a.png", "sub/über uns.png")
    with MatchStore(matches) as store:
        assert len(store.read(*pair)) == record["num_matches"] > 10
    database = tmp_path / "database.db"
    assert main(["export", str(features), str(database), "--matches", str(matches)]) == 0
    assert database.stat().st_size > 0
    capsys.readouterr()
    assert main(["check", str(features), str(matches)]) == 0
    arguments = ["plot", str(features), str(images), str(tmp_path / "plots")]
    assert main([*arguments, "--matches", str(matches)]) == 0
    assert len(list((tmp_path / "plots").rglob("*.png"))) == 3


def test_check_of_a_damaged_file_fails_without_a_traceback(tmp_path, capsys):
    (tmp_path / "f.h5").write_bytes(b"not HDF5")
    assert main(["check", str(tmp_path / "f.h5")]) != 0
    shown = capsys.readouterr()
    assert "f.h5" in shown.out + shown.err


def test_pairs_are_written(images, tmp_path, capsys):
    output = tmp_path / "pairs.txt"
    assert main(["pairs", str(images), str(output)]) == 0
    assert len(output.read_text().splitlines()) == 3
    assert "3 pairs" in capsys.readouterr().out


def test_info_names_versions_and_weights(capsys):
    assert main(["info", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["torch"]
    assert {"rekd", "rekd-fast", "hardnet"} <= set(record["weights"])
    assert all(len(entry["hash"]) == 12 for entry in record["weights"].values())
    assert main(["info"]) == 0
    assert "weights  rekd-fast" in capsys.readouterr().out


def test_a_reconstruction_has_a_budget_of_its_own(images, tmp_path, monkeypatch, capsys):
    asked = []

    def run(images, output, options, **more):
        asked.append(options.config.detector.max_keypoints)
        raise ValueError("enough")

    monkeypatch.setattr(reconstruction, "reconstruct", run)
    words = ["reconstruct", str(images), str(tmp_path / "out"), "--conf", "rekd-fast"]
    for more in ([], ["--set", "detector.max_keypoints=99"], ["--max-keypoints", "77"]):
        assert main([*words, *more]) == EXIT_MISTAKE
    assert asked == [4096, 99, 77]
    assert main(["reconstruct", "--help"]) == 0
    assert "4096" in capsys.readouterr().out


def test_a_page_is_written_when_asked_for(images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    report = {"num_images": 2, "num_registered": 2, "seconds": {"match": 1.5, "total": 1.5}}

    def run(images, output, options, **more):
        output.mkdir(exist_ok=True)
        (output / "report.json").write_text(json.dumps(report))
        return ReconstructionResult(report, output)

    monkeypatch.setattr(reconstruction, "reconstruct", run)
    monkeypatch.setattr("rekd_hloc.sfm.report.format_report", lambda report: "the report")
    words = ["reconstruct", str(images), str(out), "--conf", "rekd-fast"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the report\nmodel         ")
    assert str(out / "sparse" / "0") in shown
    assert "--page writes one" in shown
    assert f"rekd-hloc export-model {out} --to nerfstudio" in shown
    assert not (out / "report.html").exists()
    assert main([*words, "--page", "--json"]) == 0
    places = {"model": str(out / "sparse" / "0"), "page": str(out / "report.html")}
    assert json.loads(capsys.readouterr().out) == {**report, **places}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"<h1>{images.name}: rekd-fast</h1>" in page
    assert "2 of 2" in page
