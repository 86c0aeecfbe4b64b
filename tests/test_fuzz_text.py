"""Configurations, pairs files, journals and JSON of strangers and with damage.

Each gives a right value, or one line that names the file. What is otherwise today is an expected
failure with its reason; hypothesis looks for more.
"""

import json
import unicodedata
import zlib

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rekd_hloc.storage.journal import Journal, Record
from rekd_hloc.storage.journal_records import HEAD, MAGIC, MARK
from tests import odd_text
from tests.helpers import random_features, without_shape_checks
from tests.isolated import EXPECTED, call
from tests.odd_hdf5 import NAMES

FAST = settings(suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1e-3", "${max_side_px}", "???", "cuda", "rekd", "inf", "-0", "0x1F", "~"]),
)
KEYS = st.sampled_from(
    ["detector", "descriptor", "max_side_px", "weights", "max_keypoints", "nms_window_px", "x", ""]
)
TREES = st.recursive(
    SCALARS,
    lambda item: st.lists(item, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), item),
    max_leaves=8,
)
REPORT_KEYS = st.sampled_from(
    ["num_images", "num_registered", "pairs", "seconds", "configuration", "skipped", "weights"]
    + ["rotation_error_deg", "center_error_rel", "versions", "diagnosis", "unregistered", "models"]
    + ["mean_reprojection_error_px", "num_points3D", "mean_track_length", "seed", "num_keypoints"]
)


def flaw(function, path, *names):
    """Why a user may not meet the outcome of a call in this process; None if it is well."""
    try:
        with without_shape_checks():
            return None, function(path)
    except EXPECTED as error:
        text = str(error)
        if len(text.splitlines()) != 1:
            return f"not one line: {text!r}", None
        if not any(name in text for name in (str(path), *names)):
            return f"does not name the file: {text!r}", None
        return None, None
    except Exception as error:
        return f"{type(error).__name__}: {error}", None


def _config(content, folder):
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    bad, value = flaw(odd_text.read_config, path)
    assert bad is None
    if value is not None:
        assert isinstance(json.loads(value), dict)
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@FAST
@given(tree=st.dictionaries(KEYS | st.text(max_size=3), TREES, max_size=4))
@example(tree={"detector": {"detector": None}})
@example(tree={"": {"": ""}})
@example(tree={"max_side_px": float("nan")})
@example(tree={"weights": []})
def test_any_yaml(tree, folder):
    _config(yaml.safe_dump(tree, allow_unicode=True), folder)


@FAST
@given(content=st.binary(max_size=60) | st.text(max_size=60))
def test_any_text_for_yaml(content, folder):
    _config(content, folder)


@pytest.mark.slow
@LONG
@given(content=st.dictionaries(KEYS, TREES).map(yaml.safe_dump))
def test_much_yaml(content, folder):
    _config(content, folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n---\n",
        "a: 1\n---\nb: 2\n",
        "- 1\n- 2\n",
        "\t: 1",
        "&a [*a]",
        "&a {detector: *a}",
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "max_side_px: !!binary aGVsbG8=",
        "max_side_px: 2001-12-14t21:59:43.10-05:00",
        "max_side_px: 1\nmax_side_px: 2",
        "? [a, b]\n: 1",
        "1: 2",
        "5",
        "false",
        "1.5",
        "null: 2",
        "detector: {}",
        "weights: ???",
        "max_side_px: 1" + "0" * 400,
        "\ufeffmax_side_px: 900",
        b"\xff\xfe\x00",
        b"max_side_px: \x00",
        pytest.param(
            "a: &a [x, x]\n"
            + "".join(
                f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True)
            ),
            id="laughs",
        ),
        pytest.param("[" * 2_000, id="deep lists"),
        pytest.param("{a: " * 2_000, id="deep mappings"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_odd_yaml(content, folder):
    _config(content, folder)


@pytest.mark.parametrize(
    "line",
    [
        "weights: ${oc.env:SECRET_OF_A_USER}",
        "weights: a${oc.env:SECRET_OF_A_USER}b",
        "weights: ${oc.decode:${oc.env:SECRET_OF_A_USER}}",
        "max_side_px: ${oc.env:SECRET_OF_A_USER}",
        "${oc.env:SECRET_OF_A_USER}: 1",
        "detector: {protocol: '${oc.env:SECRET_OF_A_USER}'}",
        "${weights}: ${oc.env:SECRET_OF_A_USER}",
    ],
)
def test_the_environment_stays_outside_of_a_configuration(line, folder, monkeypatch):
    monkeypatch.setenv("SECRET_OF_A_USER", "hunter2")
    path = folder / "config.yaml"
    path.write_text(line)
    try:
        text = odd_text.read_config(path)
    except ValueError as error:
        text = str(error)
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "line",
    [
        "detector: {nms_window_px: 100001}",
        "detector: {levels_up: 40}",
        "detector: {levels_down: 4000}",
        "max_side_px: -5",
        "max_side_px: nan",
        "detector: {levels_up: 5}",
        "detector: {nms_window_px: 503}",
    ],
)
def test_options_out_of_range_are_refused(line, folder):
    assert _config(line, folder) is None


def _pairs(content, folder):
    path = folder / "pairs.txt"
    path.write_bytes(content)
    bad, value = flaw(odd_text.read_pairs, path)
    assert bad is None
    assert value is None or all(a in NAMES and b in NAMES and a != b for a, b in value)
    return value


WORDS = st.sampled_from([*NAMES, " ", "\n", "\r\n", "\t", "#", "\ufeff", "\x00", "\x85", "c.jpg"])


@FAST
@given(content=st.lists(WORDS | st.text(max_size=3), max_size=9).map("".join))
@example(content="a.jpg sub/b.jpg\r\n\r\nsub/b.jpg a.jpg")
@example(content="a.jpg\x85sub/b.jpg")
def test_any_text_for_pairs(content, folder):
    _pairs(content.encode("utf-8", "surrogatepass"), folder)


@FAST
@given(content=st.binary(max_size=80))
@example(content=b"\xff\xfea\x00")
def test_any_bytes_for_pairs(content, folder):
    _pairs(content, folder)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"#\n", b"a.jpg", b"a.jpg a.jpg", b"a" * 10**6])
def test_odd_pairs(content, folder):
    _pairs(content, folder)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_forms_of_a_letter_are_one_name(form, folder):
    from rekd_hloc.matching.pairs import read_pairs

    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    names = [unicodedata.normalize(form, name) for name in ("é1.jpg", "é2.jpg")]
    path = folder / "pairs.txt"
    path.write_text(" ".join(unicodedata.normalize(other, name) for name in names))
    assert read_pairs(path, names) == [tuple(names)]


def _pack(text, payload=b""):
    return HEAD.pack(MARK, len(text), len(payload), zlib.crc32(payload, zlib.crc32(text))) + (
        text + payload
    )


def _sound_journal(path):
    journal = Journal.resume(path, {"made": "here"})
    for number in range(3):
        features = random_features(number + 2)
        arrays = {
            "keypoints": features.keypoints.xy.numpy(),
            "descriptors": features.descriptors.numpy().T,
            "image_size": np.array(features.image_size),
        }
        journal.append(Record(f"{number}.jpg", arrays))
    journal.close()
    return path.read_bytes()


def _resume(content, folder):
    path = folder / "store.h5"
    path.unlink(missing_ok=True)
    path.with_name("store.h5.rekd.tmp").unlink(missing_ok=True)
    path.with_name("store.h5.journal").write_bytes(content)
    bad, value = flaw(odd_text.resume_store, path, "store.h5.journal")
    assert bad is None
    return value


@FAST
@given(
    changes=st.lists(st.tuples(st.integers(0, 6_000), st.integers(0, 255)), max_size=4),
    end=st.integers(0, 6_000),
)
@example(changes=[(len(MAGIC), 0)], end=6_000)
def test_a_damaged_journal(changes, end, folder):
    """What is not whole is dropped; never is something read that was not written."""
    whole = _sound_journal(folder / "sound.journal")
    (folder / "sound.journal").unlink()
    content = bytearray(whole)
    for place, value in changes:
        content[place % len(content)] = value
    names = _resume(bytes(content[: end % (len(whole) + 1)]), folder)
    assert names is None or set(names) <= {"0.jpg", "1.jpg", "2.jpg", "new.jpg"}


GROUP = {"group": "a.jpg", "arrays": [], "attrs": {}}
SOUND = {"group": "", "arrays": [], "attrs": {"": {"made": "here"}}}


def described(kind, shape):
    return {**GROUP, "arrays": [["keypoints", kind, shape]]}


@pytest.mark.parametrize(
    ("record", "payload"),
    [
        ({}, b""),
        ([], b""),
        (5, b""),
        ({"group": 5}, b""),
        ({**GROUP, "group": ["a"]}, b""),
        ({**GROUP, "group": "../a.jpg"}, b""),
        ({**GROUP, "attrs": []}, b""),
        ({**GROUP, "attrs": {"": 5}}, b""),
        ({**GROUP, "attrs": {"keypoints": {"a": 1}}}, b""),
        ({**GROUP, "arrays": [5]}, b""),
        ({**GROUP, "arrays": {"keypoints": 1}}, b""),
        ({**SOUND, "attrs": {}}, b""),
        ({**SOUND, "attrs": {"": ["made"]}}, b""),
        (described("|O", [1]), bytes(8)),
        (described("<f4", [-1, 2]), bytes(16)),
        (described("<f4", [2**40, 2]), bytes(16)),
        (described("<f4", ["a"]), bytes(16)),
        (described("<f4", 5), bytes(16)),
        (described("nothing", [2]), bytes(16)),
        (described(5, [2]), bytes(16)),
        (described("<f4", [4, 2]), bytes(16)),
    ],
    ids=lambda value: "-" if isinstance(value, bytes) else json.dumps(value)[:60],
)
def test_a_crafted_journal(record, payload, folder):
    head = _pack(json.dumps(SOUND).encode())
    _resume(MAGIC + head + _pack(json.dumps(record).encode(), payload), folder)


@pytest.mark.parametrize(
    "content",
    [
        MAGIC + _pack(json.dumps(SOUND).encode()) + _pack(b"[" * 5_000),
        MAGIC + _pack(b"\xff"),
        MAGIC + _pack(b"nothing"),
        b"",
        MAGIC,
    ],
    ids=lambda value: ascii(value)[-20:],
)
def test_an_odd_journal(content, folder):
    _resume(content, folder)


@pytest.mark.parametrize("count", [1, 20, 10_000])
def test_a_journal_of_zeros_is_started_anew(count, folder):
    assert _resume(bytes(count), folder) == ["new.jpg"]


def _page(content, folder):
    (folder / "report.json").write_bytes(content)
    bad, value = flaw(odd_text.write_page, folder, "report.json")
    assert bad is None
    assert value in (None, [])


@FAST
@given(report=st.dictionaries(REPORT_KEYS, st.none() | st.integers() | st.text(max_size=3)))
@example(report={"pairs": 5})
@example(report={"configuration": None})
def test_any_report(report, folder):
    _page(json.dumps(report).encode(), folder)


@FAST
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(content=b"\xff")
@example(content=b"[]")
@example(content=b"{}")
def test_any_bytes_for_a_report(content, folder):
    _page(content, folder)


VALUES = (None, 5, "text", [1], {"median": "a"})


REPORT_PARTS = (
    *("pairs", "seconds", "configuration", "weights", "versions", "num_points3D", "skipped"),
    *("unregistered", "rotation_error_deg", "num_images", "mean_track_length", "diagnosis"),
)


@pytest.mark.parametrize("key", REPORT_PARTS)
def test_a_report_with_a_value_of_another_kind(key, folder):
    for value in VALUES:
        _page(json.dumps({key: value, "num_registered": 3}).encode(), folder)
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "3 of" in page


@pytest.mark.parametrize("content", ["[" * 5_000, '{"a": ' * 5_000], ids=["lists", "mappings"])
def test_a_report_without_end(content, folder):
    _page(content.encode(), folder)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "null", '{"camera_model": 5}', "\x00", "[" * 5_000, b"\xff\xfe"],
    ids=lambda value: ascii(value)[:20],
)
def test_any_record_of_a_database(content, folder):
    """Whatever it says, the database is made again, unless the file may be someone else's."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    (out / "database.json").write_bytes(data)
    outcome = call("tests.odd_text:make_database", folder)
    assert outcome.flaw("database.json") is None
    assert outcome.value == [] or outcome.error == "FileExistsError"
