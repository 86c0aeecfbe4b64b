"""The suite of homography protocols: metrics, files, resuming, options."""

import csv
import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import data_dir, descriptor_weights, detector_weights, random_features, textured_image

from evaluation import hpatches
from evaluation.extractors.registry import NamedExtractor, load_extractor
from evaluation.homography.measures import PairInput
from evaluation.homography.protocols import PROTOCOLS, average
from evaluation.hpatches import build_parser, read_overrides
from evaluation.reporting.report import Table, format_markdown
from rekd_hloc.files import write_json
from rekd_hloc.images import read_image
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features, Keypoints

SIZE = (200, 160)
B_FROM_A = np.array([[0.98, -0.12, 14.0], [0.10, 1.02, -6.0], [1e-4, -5e-5, 1.0]])


@pytest.fixture(scope="module")
def sequences(tmp_path_factory) -> Path:
    """A viewpoint sequence of three images and an illumination sequence of two."""
    root = tmp_path_factory.mktemp("sequences")
    for name, count in (("v_one", 3), ("i_two", 2)):
        (root / name).mkdir()
        image = cv2.cvtColor(textured_image(SIZE[1], SIZE[0], count), cv2.COLOR_GRAY2BGR)
        cv2.imwrite(str(root / name / "1.ppm"), image)
        for number in range(2, count + 1):
            matrix = np.eye(3) if name.startswith("i_") else B_FROM_A
            other = cv2.warpPerspective(image, matrix, SIZE, borderMode=cv2.BORDER_REFLECT)
            if name.startswith("i_"):
                other = cv2.convertScaleAbs(other, alpha=0.7, beta=10)
            cv2.imwrite(str(root / name / f"{number}.ppm"), other)
            np.savetxt(root / name / f"H_1_{number}", matrix)
    return root


def run(data: Path, out: Path, *options: str, method: str = "rootsift") -> dict:
    arguments = ["--data", str(data), "--out", str(out), "--device", "cpu", *options]
    assert hpatches.main([*arguments, *(["--method", method] if method else [])]) == 0
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def rekd_run(sequences, tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("out")
    record = run(sequences, out, "--method", "rootsift-upright", "--num-keypoints", "150")
    return record, out


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch, rekd_run):
    """Drawing takes most of a small run's time; ``rekd_run``, made before, has its pictures."""
    monkeypatch.setattr(hpatches, "make_plots", lambda *args: [])


def counting_method(
    calls: list[str], *, fail_at: int | None = None, budget: int = 300
) -> NamedExtractor:
    inner = load_extractor("rootsift", budget)
    lock = threading.Lock()

    def extract(image: torch.Tensor) -> Features:
        with lock:
            if fail_at is not None and len(calls) == fail_at:
                raise KeyboardInterrupt
            calls.append(content_of(image))
        return inner(image)

    return NamedExtractor("counted", extract, dict(inner.provenance))


def content_of(image: torch.Tensor) -> str:
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def use_method(monkeypatch, method: NamedExtractor) -> None:
    monkeypatch.setattr(hpatches, "load_extractor", lambda *args, **kwargs: method)


def test_sift_survives_a_mild_homography(rekd_run):
    record, _ = rekd_run
    summary = record["methods"]["rootsift"]["summary"]
    assert summary["illum"]["mma"][0] > 0.8
    assert summary["view"]["mma"][2] > 0.6
    assert summary["view"]["repeatability"] > 0.3
    assert summary["view"]["mma_filtered"][2] >= summary["view"]["mma"][2]
    for means in summary.values():
        assert means["mma"] == sorted(means["mma"])
        assert means["num_matches_filtered"] <= means["num_matches"] <= 150


def test_another_filter_is_measured_and_named(sequences, rekd_run):
    by_paper, out = rekd_run
    options = ("--num-keypoints", "150", "--name", "adalam", "--filter", "adalam")
    assert "filter here" not in by_paper["description"]
    arguments = ["--data", str(sequences), "--out", str(out), "--device", "cpu", *options]
    assert hpatches.main([*arguments, "--method", "rootsift"]) == 0
    record = json.loads((out / "adalam" / "results.json").read_text())
    assert "filter here: adalam" in record["description"]
    paper, adalam = (r["methods"]["rootsift"]["summary"]["all"] for r in (by_paper, record))
    assert adalam["num_matches"] == paper["num_matches"]
    assert adalam["num_matches_filtered"] != paper["num_matches_filtered"]
    assert adalam["mma_filtered"][2] > adalam["mma"][2]


def test_methods_without_angles_have_no_filtered_metrics(rekd_run):
    record, out = rekd_run
    upright = record["methods"]["rootsift-upright"]
    assert upright["has_orientation"] is False
    assert upright["summary"]["all"]["mma_filtered"] is None
    row = next(t for t in (out / "table.md").read_text().splitlines() if "upright" in t)
    assert row.endswith("| - | - | - | - |")


def test_every_figure_stands_beside_its_protocol(rekd_run):
    record, out = rekd_run
    titles = [table["title"] for table in record["tables"]]
    assert [title.split(":")[0] for title in titles] == ["full", "view", "illum"]
    assert all("protocol rekd" in title for title in titles)
    assert "150 of 1500 keypoints" in record["description"]
    for file in ("table.md", "report.html"):
        assert "rekd" in (out / file).read_text()
    rows = list(csv.DictReader((out / "sequences.csv").read_text().splitlines()))
    assert {row["protocol"] for row in rows} == {"rekd"}
    assert [(r["method"], r["sequence"], r["kind"], r["pairs"]) for r in rows[:2]] == [
        ("rootsift-upright", "i_two", "illum", "1"),
        ("rootsift-upright", "v_one", "view", "2"),
    ]
    for part in ("full", "view", "illum"):
        assert (out / f"curve-{part}.png").read_bytes()[1:4] == b"PNG"
        assert "<svg" in (out / f"curve-{part}.svg").read_text()


def test_the_csv_holds_what_the_pairs_average_to(rekd_run):
    record, out = rekd_run
    rows = list(csv.DictReader((out / "sequences.csv").read_text().splitlines()))
    row = next(r for r in rows if r["method"] == "rootsift" and r["sequence"] == "v_one")
    pairs = record["methods"]["rootsift"]["pairs"]
    values = [p["metrics"]["repeatability"] for p in pairs if p["sequence"] == "v_one"]
    assert len(values) == 2
    assert float(row["rep"]) == pytest.approx(100 * sum(values) / 2)
    curve = np.mean([p["metrics"]["mma"] for p in pairs if p["sequence"] == "v_one"], axis=0)
    got = [float(row[f"MMA@{threshold}"]) for threshold in range(1, 11)]
    assert got == pytest.approx(100 * curve)
    assert float(row["filter: MMA@10"]) >= float(row["filter: MMA@1"])
    upright = next(r for r in rows if r["method"] == "rootsift-upright")
    assert {upright[f"filter: MMA@{threshold}"] for threshold in range(1, 11)} == {""}


def test_the_page_needs_no_other_file(rekd_run):
    _, out = rekd_run
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "num_keypoints = 1500" in page
    assert "://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("name", ["keynet", "superpoint", "d2net", "homography-auc"])
def test_every_protocol_runs_and_signs_its_results(sequences, tmp_path, name):
    record = run(sequences, tmp_path, "--protocol", name)
    assert record["protocol"] == name
    assert f"Protocol {name}:" in (tmp_path / "table.md").read_text()
    columns = record["tables"][0]["columns"]
    row = dict(zip(columns, record["tables"][0]["rows"][0], strict=True))
    assert row.pop("method") == "rootsift"
    least = {
        "keynet": {"rep, single scale": 50, "rep, multi scale": 30},
        "superpoint": {"rep": 30, "keypoints": 50},
        "d2net": {"MMA@3": 60, "keypoints": 100},
        "homography-auc": {"AUC@5": 50, "filter: AUC@5": 50},
    }[name]
    for key, value in least.items():
        assert value < row[key], key
    if "rep" not in " ".join(columns):
        assert all(row[k] <= 100 for k in columns if "@" in k)


def test_d2net_leaves_out_high_resolution_and_caps_nothing(sequences, tmp_path):
    protocol = PROTOCOLS["d2net"]
    assert protocol.without_high_resolution
    record = run(sequences, tmp_path, "--protocol", "d2net")
    assert "no cap" in record["description"]
    capped = run(sequences, tmp_path / "few", "--protocol", "d2net", "--num-keypoints", "20")
    assert capped["methods"]["rootsift"]["summary"]["all"]["num_keypoints"] == 20


def test_a_second_run_extracts_nothing_and_gives_the_same(sequences, tmp_path, monkeypatch):
    calls: list[str] = []
    use_method(monkeypatch, counting_method(calls))
    first = run(sequences, tmp_path)
    images = ["i_two/1.ppm", "i_two/2.ppm", *(f"v_one/{k}.ppm" for k in (1, 2, 3))]
    assert sorted(calls) == sorted(content_of(read_image(sequences / name)) for name in images)
    assert run(sequences, tmp_path) == first
    assert len(calls) == 5


def test_an_interrupted_run_goes_on_and_equals_an_uninterrupted_one(
    sequences, tmp_path, monkeypatch
):
    calls: list[str] = []
    use_method(monkeypatch, counting_method(calls, fail_at=3))
    arguments = ["--data", str(sequences), "--method", "rootsift", "--out", str(tmp_path / "a")]
    assert hpatches.main(arguments) == 130
    assert len(calls) == 3
    rest: list[str] = []
    use_method(monkeypatch, counting_method(rest))
    resumed = run(sequences, tmp_path / "a")
    assert not set(rest) & set(calls)
    assert len(rest) == 2
    assert run(sequences, tmp_path / "b") == resumed


def test_another_configuration_or_another_image_is_extracted_anew(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "s"
    folder.mkdir(parents=True)
    for number in (1, 2):
        cv2.imwrite(str(folder / f"img{number}.png"), textured_image(80, 90, 1))
    np.savetxt(folder / "H1to2p", np.eye(3))
    calls: list[str] = []
    use_method(monkeypatch, counting_method(calls))
    run(tmp_path / "data", tmp_path / "out")
    use_method(monkeypatch, counting_method(calls, budget=50))
    run(tmp_path / "data", tmp_path / "out")
    assert calls == [content_of(read_image(folder / "img1.png"))] * 4
    cv2.imwrite(str(folder / "img2.png"), textured_image(80, 91, 2))
    run(tmp_path / "data", tmp_path / "out")
    assert calls[4:] == [content_of(read_image(folder / "img2.png"))]


def test_threads_change_nothing(sequences, tmp_path):
    one = run(sequences, tmp_path / "one")
    two = run(sequences, tmp_path / "two", "--num-threads", "2")
    assert one == two


def test_stored_features_give_the_figures_of_the_method_that_made_them(sequences, tmp_path):
    direct = run(sequences, tmp_path / "direct")
    method = load_extractor("rootsift", 1500)
    with FeatureStore.resume(tmp_path / "rootsift.h5", {"made": "here"}) as store:
        for path in sorted(sequences.glob("*/*.ppm")):
            store.write(path.relative_to(sequences).as_posix(), method(path))
    stored = run(sequences, tmp_path / "stored", "--features", str(tmp_path), method="")
    (entry,) = stored["methods"].values()
    expected = direct["methods"]["rootsift"]
    assert entry["summary"] == expected["summary"]
    assert entry["has_orientation"]
    named = run(sequences, tmp_path / "named", "--features", str(tmp_path))
    assert list(named["methods"]) == ["rootsift (stored)"]
    framed = run(sequences, tmp_path / "framed", method=f"file:{tmp_path / 'rootsift.h5'}")
    assert framed["methods"] == {f"file:{tmp_path / 'rootsift.h5'}": entry}


def test_stored_features_of_another_folder_are_named_as_a_mistake(sequences, tmp_path, caplog):
    with FeatureStore.resume(tmp_path / "other.h5", {}) as store:
        store.write("somewhere/else.jpg", random_features(3))
    arguments = ["--data", str(sequences), "--out", str(tmp_path), "--features", str(tmp_path)]
    assert hpatches.main(arguments) == 2
    assert "has no image 'i_two/1.ppm'" in caplog.text


def test_an_experiment_s_name_is_its_folder(sequences, tmp_path):
    arguments = ["--data", str(sequences), "--out", str(tmp_path), "--method", "orb"]
    assert hpatches.main([*arguments, "--name", "try-1", "--split", "illum"]) == 0
    record = json.loads((tmp_path / "try-1" / "results.json").read_text())
    assert record["experiment"] == "try-1"
    assert [table["title"][:6] for table in record["tables"]] == ["illum:"]
    assert "1 pairs" in record["data"]


def test_the_paper_s_options_have_their_counterparts():
    text = "--data d --out o --levels-up 1 --levels-down 3 --nms-window 9 --border 7"
    words = [*text.split(), "--descriptor", "official", "--detector-weights", "w.safetensors"]
    arguments = build_parser().parse_args([*words, "--set", "descriptor.patch_size_px=48"])
    assert read_overrides(arguments) == [
        "weights=w.safetensors",
        "descriptor.weights=official",
        "detector.levels_up=1",
        "detector.levels_down=3",
        "detector.nms_window_px=9",
        "detector.border_px=7",
        "descriptor.patch_size_px=48",
    ]
    assert read_overrides(build_parser().parse_args(["--data", "d", "--out", "o"])) == []
    short = "--data d --out o --nms-size 9 --exp-name mine"
    arguments = build_parser().parse_args(short.split())
    assert (arguments.nms_window, arguments.name) == (9, "mine")


def test_our_presets_run_with_their_options(sequences, tmp_path):
    options = ["--levels-up", "0", "--levels-down", "1", "--split", "illum"]
    options += ["--detector-weights", str(detector_weights())]
    options += ["--descriptor", str(descriptor_weights()), "--num-extracted", "80"]
    record = run(sequences, tmp_path, *options, method="rekd")
    entry = record["methods"]["rekd"]
    config = json.loads(entry["provenance"]["config"])
    assert (config["detector"]["levels_up"], config["detector"]["levels_down"]) == (0, 1)
    assert config["detector"]["max_keypoints"] == 80
    assert len(entry["weights"].split()) == 3  # detector, descriptor, ranking
    assert entry["summary"]["all"]["repeatability"] > 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "surf"], "no method 'surf'; methods are rekd, "),
        ([], "give at least one --method"),
        (["--method", "orb", "--method", "orb"], "given twice"),
        (["--method", "orb", "--num-extracted", "0"], "num-extracted must be at least 1"),
        (["--method", "orb", "--num-keypoints", "0"], "num-keypoints must be at least 1"),
        (["--method", "orb", "--split", "debug"], "no sequence here belongs to split"),
        (["--features", "nowhere"], "no features file METHOD.h5 in nowhere"),
        (["--method", "file:none.h5"], "none.h5"),
    ],
)
def test_mistakes_end_with_a_message(sequences, tmp_path, caplog, words, message):
    assert hpatches.main(["--data", str(sequences), "--out", str(tmp_path), *words]) == 2
    assert message in caplog.text


def test_an_incomplete_release_is_warned_of(sequences, tmp_path, caplog):
    run(sequences, tmp_path, method="orb")
    assert "116 of the 116 sequences" not in caplog.text  # v_one is no sequence of the release
    assert "missing" not in caplog.text


def test_averages_skip_what_does_not_apply():
    rows = [{"a": 1.0, "b": None, "c": [0.0, 1.0]}, {"a": 3.0, "b": None, "c": [1.0, 1.0]}]
    assert average(rows) == {"a": 2.0, "b": None, "c": [0.5, 1.0]}
    assert average([{"a": None}, {"a": 4.0}]) == {"a": 4.0}
    assert average([]) == {}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_accept_images_without_keypoints(name):
    protocol = PROTOCOLS[name]
    some, none = random_features(30), random_features(0)
    rows = []
    for a, b in ((some, none), (none, some), (none, none)):
        pair = PairInput(a, b, torch.eye(3, dtype=torch.float64), 100, has_orientation=True)
        rows.append(protocol.measure(pair))
    means = protocol.summarise(rows)
    for column in protocol.columns:
        assert column.key in means


@pytest.mark.parametrize("name", PROTOCOLS)
def test_identical_images_are_perfect_in_every_protocol(name):
    protocol = PROTOCOLS[name]
    features = random_features(300)
    pair = PairInput(features, features, torch.eye(3, dtype=torch.float64), 200, True)
    means = protocol.summarise([protocol.measure(pair)])
    best = {
        "rekd": ("repeatability", "mma", "mma_filtered"),
        "keynet": ("repeatability_single", "repeatability_multi"),
        "superpoint": ("repeatability",),
        "d2net": ("mma",),
        "homography-auc": ("homography_accuracy",),
    }[name]
    for key in best:
        assert torch.tensor(means[key]).min() == 1.0


def test_crowded_keypoints_raise_repeatability_and_not_what_is_distinct():
    features = random_features(200, size=(4000, 3000))
    keypoints = features.keypoints
    twins = replace(keypoints, xy=keypoints.xy + 1.0, score=keypoints.score / 2)
    both = Keypoints.concatenate([keypoints, twins])
    crowded = Features(both, features.descriptors.repeat(2, 1), features.image_size)
    half = features.keypoints[torch.arange(100)]
    other = Features(half, features.descriptors[:100], features.image_size)
    identity = torch.eye(3, dtype=torch.float64)
    plain = PROTOCOLS["rekd"].measure(PairInput(features, features, identity, 1000, True))
    assert (plain["distinct"], plain["repeatability_distinct"]) == (1.0, 1.0)
    metrics = PROTOCOLS["rekd"].measure(PairInput(crowded, other, identity, 1000, True))
    assert metrics["distinct"] == pytest.approx(300 / 500)
    assert metrics["repeatability"] == metrics["repeatability_distinct"] == 0.5


def test_only_the_strongest_keypoints_are_used():
    features = load_method_free_order(random_features(100))
    pair = PairInput(features, features, torch.eye(3, dtype=torch.float64), 40, True)
    assert PROTOCOLS["rekd"].measure(pair)["num_matches"] == 40


def load_method_free_order(features: Features) -> Features:
    return NamedExtractor("any", lambda _: features, {})(torch.zeros(2, 2))


def test_tables_print_dashes_and_json_has_no_infinity(tmp_path):
    table = Table("t", ["method", "x", "y"], [["a", None, 1.25], ["b", 3, float("nan")]])
    assert format_markdown(table).splitlines()[-2:] == ["| a | - | 1.2 |", "| b | 3 | - |"]
    write_json(tmp_path / "a.json", {"x": [float("inf"), 1.0], "y": {"z": float("nan")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.0], "y": {"z": None}}


@pytest.mark.slow
@pytest.mark.data
def test_rootsift_agrees_with_an_independent_implementation(tmp_path):
    record = run(data_dir("homographies"), tmp_path, "--num-extracted", "1000")
    means = record["methods"]["rootsift"]["summary"]["all"]
    got = [100 * means["repeatability"], *(100 * means["mma"][i] for i in (0, 2, 4))]
    assert got == pytest.approx([42.6, 36.1, 47.0, 49.0], abs=1.0)
    assert means["num_matches"] == pytest.approx(434.9, abs=4.0)
    assert 100 * means["mma_filtered"][2] == pytest.approx(63.8, abs=1.0)
    assert means["num_matches_filtered"] == pytest.approx(292.0, abs=3.0)
