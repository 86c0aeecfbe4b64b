"""What the command line says of its work: details, log files, progress, plurals, completion."""

import io
import json
import logging
import shutil

import pytest
import torch

from rekd_hloc import progress
from rekd_hloc.cli import main as program
from rekd_hloc.cli.command_words import split_words
from rekd_hloc.cli.logs import LOG_NAME, append_log, log_messages
from rekd_hloc.cli.main import COMMANDS, main
from rekd_hloc.cli.option_values import completes
from rekd_hloc.cli.places import describe_places
from rekd_hloc.config import OVERLAP, PAIRS, RECONSTRUCTION_KEYPOINTS, RECONSTRUCTION_MATCHING
from rekd_hloc.exports.export_model import WRITERS
from rekd_hloc.exports.formats import ExportFormat
from rekd_hloc.matching.pairs import settle_source
from rekd_hloc.progress import ProgressLines, progress_bar
from rekd_hloc.sfm import reconstruct as reconstruction
from rekd_hloc.sfm.mapping_options import MappingOptions
from rekd_hloc.sfm.pycolmap_compat import read_reconstruction
from rekd_hloc.sfm.reconstruct_options import ReconstructOptions
from rekd_hloc.sfm.result import ReconstructionResult
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features
from rekd_hloc.weight_files import shipped_path, weights_hash
from tests.synthetic_scene import FOCAL, SIZE, make_scene

LOGGER = logging.getLogger("rekd_hloc.tests")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["extract", "a", "-v"], (["-v"], ["extract", "a"])),
        (["match", "--log-file", "l", "a"], (["--log-file", "l"], ["match", "a"])),
        (["match", "a", "--log-file=l"], (["--log-file=l"], ["match", "a"])),
        (["plot", "--", "-v"], ([], ["plot", "--", "-v"])),
        (["match", "--log-file"], (["--log-file"], ["match"])),
        ([], ([], [])),
    ],
)
def test_options_of_the_program_may_stand_behind_its_command(given, expected):
    assert split_words(given) == expected


@pytest.fixture
def speaking(monkeypatch):
    """A command `info` that logs at two levels."""

    def speak(*arguments, **options):
        LOGGER.info("a detail")
        LOGGER.warning("a warning\nof two lines")
        return {}

    monkeypatch.setattr("rekd_hloc.cli.environment.describe_environment", speak)
    monkeypatch.setattr("rekd_hloc.cli.environment.format_environment", lambda record: "")


def test_details_are_shown_with_v_alone(speaking, capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().err == "WARNING: a warning\\nof two lines\n"
    assert main(["info", "-v"]) == 0
    assert "INFO: a detail\n" in capsys.readouterr().err
    assert main(["info"]) == 0
    assert "a detail" not in capsys.readouterr().err


def test_a_log_file_keeps_what_is_done(speaking, tmp_path, capsys):
    path = tmp_path / "new" / "log.txt"
    for _ in range(2):
        assert main(["info", "--log-file", str(path)]) == 0
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    assert lines[0].endswith(f"rekd-hloc info --log-file {path}")
    assert lines[1].endswith("INFO a detail")
    assert "a detail" not in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["info", "--log-file", str(tmp_path / "file" / "log")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_log_beside_the_output_waits_for_its_folder(tmp_path):
    folder = tmp_path / "out"
    with log_messages(["reconstruct", "a b"]):
        append_log(folder / LOG_NAME)
        LOGGER.info("before")
        assert not folder.exists()
        folder.mkdir()
        LOGGER.info("between")
        assert not list(folder.iterdir())
        (folder / ".rekd_hloc").mkdir()
        LOGGER.info("after")
    text = (folder / LOG_NAME).read_text()
    assert "rekd-hloc reconstruct 'a b'" in text
    assert text.index("before") < text.index("after")


def test_a_reconstruction_has_a_log(tmp_path, monkeypatch, capsys):
    def run(images, output, options, **more):
        (output / ".rekd_hloc").mkdir(parents=True)
        LOGGER.info("extract took 1.0 s")
        return ReconstructionResult({"num_registered": 0, "skipped": {}}, output)

    monkeypatch.setattr(reconstruction, "reconstruct", run)
    monkeypatch.setattr("rekd_hloc.sfm.report.format_report", lambda report: "the report")
    assert main(["reconstruct", str(tmp_path), str(tmp_path / "out"), "--conf", "rekd-fast"]) == 1
    assert "the diagnosis says what to change" in capsys.readouterr().out
    assert "extract took 1.0 s" in (tmp_path / "out" / LOG_NAME).read_text()


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "PERIOD_S", 0.0)
    written = io.StringIO()
    for _ in progress_bar(range(3), "match", unit="pair", shown=True, file=written):
        pass
    lines = written.getvalue().splitlines()
    assert any(line.startswith("match: 1 of 3 pairs (33%), ") for line in lines)
    assert all(line.startswith("match: ") and "\r" not in line for line in lines)


def test_quick_work_says_nothing(capsys):
    bar = progress_bar(range(3), "match", shown=True)
    assert isinstance(bar, ProgressLines)
    assert list(bar) == [0, 1, 2]
    list(progress_bar(range(3), "match", shown=False))
    assert capsys.readouterr().err == ""


def test_every_command_prints_json():
    for name in COMMANDS:
        command = program.COMMANDS[name][0]
        assert "json_output" in command.__annotations__, name


def test_completion_is_offered(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--install-completion" in shown
    assert "--log-file" in shown


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["export-model", "--to", ""], [item.value for item in ExportFormat]),
        (["reconstruct", "--conf", "rekd-f"], ["rekd-fast"]),
        (["match", "--filter", "n"], ["none", "network"]),
        (["reconstruct", "--camera-mode", "per"], ["per_folder", "per_image"]),
    ],
)
def test_the_shell_is_told_the_values_of_an_option(typed, offered, monkeypatch, capsys):
    monkeypatch.setenv("_REKD_HLOC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["rekd-hloc", *typed]))
    monkeypatch.setenv("COMP_CWORD", str(len(typed)))
    assert main([]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(offered)
    assert completes("rekd", "other")("re") == ["rekd"]


def test_every_form_of_a_model_is_offered_and_written(capsys):
    assert list(WRITERS) == list(ExportFormat)
    assert main(["export-model", "--help"]) == 0
    assert "|".join(ExportFormat) in capsys.readouterr().out


def test_extract_and_match_have_the_defaults_of_reconstruct(tmp_path, monkeypatch):
    asked = []

    def stop(*arguments, **options):
        asked.append((arguments, options))
        raise ValueError("enough")

    monkeypatch.setattr("rekd_hloc.features.extractor.Extractor.from_pretrained", stop)
    assert main(["extract", str(tmp_path), "f.h5", "--conf", "rekd-fast"]) == 2
    config = asked.pop()[1]["config"]
    assert config.detector.max_keypoints == RECONSTRUCTION_KEYPOINTS
    with FeatureStore.resume(tmp_path / "f.h5", {}):
        pass
    monkeypatch.setattr("rekd_hloc.matching.match_images.match_images", stop)
    assert main(["match", str(tmp_path / "f.h5"), "m.h5"]) == 2
    assert asked.pop()[0][3] == RECONSTRUCTION_MATCHING
    monkeypatch.setattr("rekd_hloc.matching.pairs.make_pairs", stop)
    assert main(["match", str(tmp_path / "f.h5"), "m.h5"]) == 2
    arguments, options = asked.pop()
    wanted = ReconstructOptions()
    assert (wanted.pairs, wanted.overlap, wanted.matching) == (
        PAIRS,
        OVERLAP,
        RECONSTRUCTION_MATCHING,
    )
    assert (arguments[1], options["overlap"]) == (settle_source(PAIRS, 0), OVERLAP)


def test_one_is_not_many(tmp_path, capsys):
    scene = make_scene(tmp_path / "scene", num_images=2, num_points=40)
    arguments = ["export", str(scene.features), str(tmp_path / "d.db")]
    options = ["--matches", str(scene.matches), "--intrinsics", "500,320,240,0"]
    assert main([*arguments, *options]) == 0
    assert capsys.readouterr().out.startswith("2 images and 1 pair in ")


def test_a_result_holds_the_model(tmp_path):
    scene = make_scene(tmp_path / "scene", num_images=3, num_points=40)
    shutil.copytree(scene.reference, tmp_path / "out" / "sparse" / "0")
    result = ReconstructionResult({"num_registered": 3}, tmp_path / "out")
    assert result.reconstruction.num_reg_images() == result["num_registered"]
    assert str(tmp_path / "out" / "report.html") in describe_places(
        result, tmp_path / "out" / "report.html"
    )
    empty = ReconstructionResult({"num_registered": 0}, tmp_path / "out")
    assert empty.model_path is None
    assert empty.reconstruction is None


class StoredExtractor:
    """Gives the features of a scene's image by the name of the query file."""

    def __init__(self, store, provenance):
        self.provenance = provenance
        self.needs_color = False
        self.num_readers = self.num_workers = 1
        self.max_side_px = 0
        self.device = torch.device("cpu")
        with FeatureStore(store) as features:
            self.parts = [features.read(name) for name in features.names()]

    def __call__(self, image, mask=None):
        part = self.parts[-1]
        return Features(part.keypoints, part.descriptors, part.image_size)


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A model of all images of a scene, and a query that is the last of them under a new name."""
    import cv2
    import numpy as np

    scene = make_scene(tmp_path / "scene", num_images=4, num_points=120)
    out = tmp_path / "out"
    options = MappingOptions(intrinsics=[FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0.0])
    report = reconstruction.reconstruct_from_files(
        scene.features, scene.matches, None, tmp_path / "none", out, options=options
    )
    assert report["num_registered"] == 4
    shutil.copy(scene.features, out / "features.h5")
    (tmp_path / "new").mkdir()
    assert cv2.imwrite(str(tmp_path / "new" / "query.png"), np.zeros((480, 640), np.uint8))
    stub = StoredExtractor(scene.features, {"detector_weights": "a", "descriptor_weights": "b"})
    monkeypatch.setattr(
        "rekd_hloc.features.extractor.Extractor.from_pretrained", lambda *a, **k: stub
    )
    return tmp_path, scene


def test_localize_finds_a_photo_in_a_model(mapped, capsys):
    folder, scene = mapped
    words = ["localize", str(folder / "new"), str(folder / "out"), str(folder / "found")]
    assert main([*words, "--conf", "rekd-fast", "--json", "--quiet"]) == 0
    record = json.loads(capsys.readouterr().out)["query.png"]
    model = read_reconstruction(folder / "out" / "sparse" / "0")
    truth = model.find_image_with_name(scene.names[-1])
    x, y, z, w = truth.cam_from_world().rotation.quat
    same = abs(sum(a * b for a, b in zip(record["qvec_wxyz"], (w, x, y, z), strict=True)))
    assert same > 0.9999
    (line,) = (folder / "found" / "poses.txt").read_text().splitlines()
    assert line.split()[0] == "query.png"
    (folder / "found" / "poses.txt").write_text("mine")
    assert main([*words, "--conf", "rekd-fast", "--quiet"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_localize_names_what_does_not_belong_together(mapped, capsys):
    folder, _ = mapped
    words = ["localize", str(folder / "new"), str(folder / "out"), str(folder / "found")]
    words += ["--conf", "rekd-fast", "--quiet"]
    (folder / "out" / "features.h5").unlink()
    assert main(words) == 2
    assert "--features" in capsys.readouterr().err
    with FeatureStore.resume(folder / "out" / "features.h5", {"descriptor_weights": "other"}):
        pass
    assert main(words) == 2
    assert "descriptor_weights other, conf" in (error := capsys.readouterr().err)
    assert "--set descriptor.weights=FILE" in error


@pytest.mark.parametrize("given", [[], ["--conf", "rekd-upright"]])
def test_localize_takes_the_models_conf_and_names_the_weights_of_an_earlier_version(
    mapped, given, capsys, monkeypatch
):
    folder, _ = mapped
    words = ["localize", str(folder / "new"), str(folder / "out"), str(folder / "found"), "--quiet"]
    path = folder / "out" / "features.h5"
    path.unlink()
    earlier = weights_hash(shipped_path("hardnet-0.1"))
    with FeatureStore.resume(path, {"preset": "rekd-c36", "descriptor_weights": earlier}):
        pass
    asked = []
    stub = StoredExtractor(path, {"detector_weights": "a", "descriptor_weights": "b"})
    monkeypatch.setattr(
        "rekd_hloc.features.extractor.Extractor.from_pretrained",
        lambda name, **options: asked.append(name) or stub,
    )
    assert main([*words, *given]) == 2
    assert asked == (given[1:] or ["rekd-c36"])
    assert "take --set descriptor.weights=hardnet-0.1" in capsys.readouterr().err
