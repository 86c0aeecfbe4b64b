import json
import math
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.config import (
    PRESETS,
    DescriptorConfig,
    DetectorConfig,
    ExtractConfig,
    MatchConfig,
    NetworkConfig,
    config_hash,
    config_json,
    config_tree,
    get_preset,
    load_config,
    with_max_keypoints,
)
from rekd_hloc.features.weights import detector_config, resolve_weights
from rekd_hloc.renamed_options import MERGED
from tests.helpers import ROOT, without_shape_checks

CONFIGS = [NetworkConfig, DetectorConfig, DescriptorConfig, ExtractConfig, MatchConfig]


def written(folder, text, name="config.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- presets and values


@pytest.mark.parametrize(
    "name", ["rekd", "rekd-upright", "rekd-paper", "rekd-fast", "rekd-lite", "rekd-c36"]
)
def test_presets_exist_are_valid_and_survive_the_reader(name):
    preset = get_preset(name)
    assert replace(preset) == preset
    assert load_config(preset) == preset


def test_presets_differ_from_each_other():
    assert len({config_hash(preset) for preset in PRESETS.values()}) == len(PRESETS) == 6


def test_the_paper_preset_is_the_papers_protocol():
    detector, descriptor = PRESETS["rekd-paper"].detector, PRESETS["rekd-paper"].descriptor
    assert (detector.levels_up, detector.levels_down) == (2, 5)
    assert detector.factor == pytest.approx(math.sqrt(2))
    assert (detector.border_px, detector.nms_window_px, detector.max_keypoints) == (15, 15, 1500)
    assert detector.protocol == "paper"
    assert not detector.subpixel
    assert detector.duplicate_radius_px == 0
    assert not descriptor.oriented
    assert descriptor.patch_size_px == 64
    assert PRESETS["rekd-paper"].max_side_px == 0
    network = detector_config(resolve_weights(PRESETS["rekd-paper"].weights))
    assert (network.group_order, network.fields) == (36, (2, 2, 2))
    network = NetworkConfig()
    assert (network.group_order, network.fields, network.inner_levels) == (36, (2, 2, 2), 3)
    assert (network.inner_factor, network.norm_window_px) == (1.2, 65)


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(ValueError, match="no preset 'rekd-fats'; did you mean 'rekd-fast'.*rekd-p"):
        get_preset("rekd-fats")
    with pytest.raises(ValueError, match="no preset 'sift'; presets are rekd, "):
        get_preset("sift")


def test_another_budget_changes_nothing_else():
    changed = with_max_keypoints(get_preset("rekd"), 77)
    assert changed.detector.max_keypoints == 77
    assert with_max_keypoints(changed, 2048) == get_preset("rekd")
    assert get_preset("rekd").detector.max_keypoints == 2048


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_option_is_frozen_documented_and_typed(kind):
    source = (ROOT / "rekd_hloc" / "config.py").read_text()
    for item in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(kind(), item.name, None)
        start = source.index(f"    {item.name}: ", source.index(f"class {kind.__name__}:"))
        following = source[start:].split("\n", 2)[1]
        is_section = is_dataclass(getattr(kind(), item.name))
        assert is_section or following.strip().startswith('"""'), f"{item.name} says nothing"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (NetworkConfig, {"group_order": 6}, "group_order must be a positive multiple of 4, got 6"),
        (NetworkConfig, {"group_order": 0}, "group_order"),
        (NetworkConfig, {"fields": (2, 0, 2)}, "fields must be three positive counts"),
        (NetworkConfig, {"inner_levels": 0}, "inner_levels must be between 1 and 10, got 0"),
        (NetworkConfig, {"inner_factor": 1.0}, "inner_factor must be above 1, got 1.0"),
        (NetworkConfig, {"norm_window_px": 64}, "norm_window_px must be odd and positive, got 64"),
        (NetworkConfig, {"pixel_range": math.inf}, "pixel_range must be finite, got inf"),
        (NetworkConfig, {"blur_gain": -0.1}, "blur_gain must be at least 0"),
        (DetectorConfig, {"max_keypoints": 0}, "max_keypoints must be at least 1"),
        (DetectorConfig, {"levels_up": -1}, "levels_up must be between 0 and 4"),
        (DetectorConfig, {"factor": 1.0}, "factor must be above 1"),
        (DetectorConfig, {"nms_window_px": 14}, "nms_window_px must be odd"),
        (DetectorConfig, {"score_threshold": math.nan}, "score_threshold must be finite"),
        (DescriptorConfig, {"patch_size_px": 0.0}, "patch_size_px must be above 0"),
        (DescriptorConfig, {"batch_size": -1}, "batch_size must be at least 0"),
        (DetectorConfig, {"tile_rows": -2}, "tile_rows must be at least -1"),
        (ExtractConfig, {"max_side_px": -1}, "max_side_px must be at least 0"),
        (MatchConfig, {"ratio": 0.0}, r"ratio must be in \(0, 1\], got 0.0"),
        (
            MatchConfig,
            {"filter": "median"},
            "filter must be one of none, paper, density, consensus, adalam, network, got",
        ),
        (MatchConfig, {"tolerance_deg": 200.0}, r"tolerance_deg must be in \(0, 180\]"),
        (MatchConfig, {"max_modes": 0}, "max_modes must be at least 1"),
        (MatchConfig, {"scale_tolerance": 0.9}, "scale_tolerance must be 0 or above 1, got 0.9"),
    ],
)
def test_values_out_of_range_are_named(kind, options, words):
    with without_shape_checks(), pytest.raises(ValueError, match=words):
        kind(**options)
    defaults = {key: getattr(kind(), key) for key in options}
    assert kind(**defaults) == kind()


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_choice_of_every_option_is_accepted(kind):
    for item in fields(kind):
        if get_origin(item.type) is Literal:
            for choice in get_args(item.type):
                assert getattr(kind(**{item.name: choice}), item.name) == choice
            mistake = pytest.raises(ValueError, match=f"{item.name} must be one of")
            with without_shape_checks(), mistake:
                kind(**{item.name: "something else"})


# ---------------------------------------------------------------- hashes


def test_hashes_tell_configurations_apart():
    seen = {config_hash(MatchConfig())}
    for options in ({"ratio": 0.9}, {"filter": "none"}, {"max_modes": 2}, {"tolerance_deg": 20.0}):
        seen.add(config_hash(MatchConfig(**options)))
    assert len(seen) == 5
    assert all(len(digits) == 12 and int(digits, 16) >= 0 for digits in seen)
    nested = ExtractConfig(descriptor=DescriptorConfig(oriented=False))
    assert config_hash(nested) != config_hash(ExtractConfig())


def test_equal_configurations_have_one_text_and_hash():
    whole, exact = DescriptorConfig(patch_size_px=64), DescriptorConfig(patch_size_px=64.0)
    assert whole == exact
    assert config_hash(whole) == config_hash(exact)
    assert config_json(whole) == config_json(exact)
    nested = config_json(ExtractConfig(descriptor=whole))
    assert nested == config_json(ExtractConfig())
    assert json.loads(nested) == json.loads(json.dumps(config_tree(ExtractConfig())))
    assert json.loads(config_json(ExtractConfig(ranking="x")))["ranking"] == "x"
    assert json.loads(nested)["detector"]["max_keypoints"] == 2048
    assert isinstance(json.loads(nested)["detector"]["max_keypoints"], int)


# ---------------------------------------------------------------- reading


def test_nothing_given_is_the_defaults():
    assert load_config(MatchConfig()) == MatchConfig()


def test_file_then_overrides(tmp_path):
    path = written(tmp_path, "max_side_px: 800\ndetector:\n  border_px: 3\n  factor: 1.5\n")
    loaded = load_config(ExtractConfig(), path, ["detector.border_px=9", "descriptor.oriented=no"])
    expected = ExtractConfig(
        max_side_px=800,
        detector=DetectorConfig(border_px=9, factor=1.5),
        descriptor=DescriptorConfig(oriented=False),
    )
    assert loaded == expected
    assert type(loaded.detector) is DetectorConfig
    assert type(loaded.max_side_px) is int


def test_the_later_of_two_overrides_wins():
    assert load_config(MatchConfig(), None, ["ratio=0.5", "ratio=0.7"]).ratio == 0.7


def test_numbers_as_people_write_them(tmp_path):
    loaded = load_config(NetworkConfig(), written(tmp_path, "blur_gain: 1e-3\npixel_range: 1"))
    assert loaded.blur_gain == 1e-3
    assert loaded.pixel_range == 1.0
    assert type(loaded.pixel_range) is float
    assert load_config(NetworkConfig(), None, ["blur_gain=2e-1"]).blur_gain == 0.2
    assert load_config(NetworkConfig(), None, ["fields=[1,2,3]"]).fields in ((1, 2, 3), [1, 2, 3])


@pytest.mark.parametrize("text", ["", "# nothing\n", "detector:\n", "detector: {}\n"])
def test_empty_files_and_sections_leave_the_defaults(tmp_path, text):
    assert load_config(ExtractConfig(), written(tmp_path, text)) == ExtractConfig()


@given(st.floats(0.01, 1), st.sampled_from(["none", "paper", "density"]), st.integers(1, 9))
def test_overrides_round_trip(ratio, name, modes):
    overrides = [f"ratio={ratio!r}", f"filter={name}", f"max_modes={modes}"]
    expected = MatchConfig(ratio=ratio, filter=name, max_modes=modes)
    assert load_config(MatchConfig(), None, overrides) == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["detector.boder_px=3"], ["'detector.boder_px=3'", "did you mean 'detector.border_px'?"]),
        (["border_px=3"], ["unknown key 'border_px'", "did you mean 'detector.border_px'?"]),
        (["xyzzy=1"], ["unknown key 'xyzzy'", "known are weights, max_side_px"]),
        (["detector=3"], ["detector is a section of options, got 3"]),
        (["max_side_px=big"], ["override 'max_side_px=big'", "max_side_px = 'big'"]),
        (["max_side_px=1.5"], ["max_side_px"]),
        (["detector.protocol=round"], ["detector.protocol"]),
        (["descriptor.support=48"], ["'descriptor.support'; it is 'descriptor.patch_size_px' now"]),
        (["detector.min_relief=0"], ["'detector.min_relief'; it is 'detector.min_prominence' now"]),
        *(
            ([f"detector.{option}=x"], [f"'detector.{option}'; it is 'detector.protocol' now"])
            for option in MERGED
        ),
        (["detector.nms_window_px=4"], ["nms_window_px must be odd and positive, got 4"]),
        (["max_side_px"], ["must read key=value"]),
        (["detector.subpixel=maybe"], ["detector.subpixel"]),
        (["weights=${nowhere}"], ["nowhere"]),
    ],
)
def test_wrong_overrides_are_named_in_one_line(overrides, words):
    with pytest.raises(ValueError) as caught:
        load_config(ExtractConfig(), None, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_side: 5\n", "unknown key 'max_side'; did you mean 'max_side_px'?"),
        ("detector:\n  levls_up: 5\n", "unknown key 'detector.levls_up'; did you mean 'detector.l"),
        ("- 1\n- 2\n", "must read `key: value`"),
        ("max_side_px: [1\n", "not YAML"),
        ("max_side_px: -4\n", "max_side_px must be at least 0, got -4"),
        ("detector:\n  factor: fast\n", "detector.factor = 'fast'"),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        load_config(ExtractConfig(), path)
    message = str(caught.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration file .*none.yaml"):
        load_config(MatchConfig(), tmp_path / "none.yaml")
