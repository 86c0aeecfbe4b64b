"""HDF5 files of strangers: a right value or one line that names the file, and never for ever."""

import pytest

from tests import odd_hdf5 as odd
from tests.isolated import call

READERS = ("read_features", "match", "export")
OTHER_READERS = ("plot", "page", "reconstruct")
TIME_LIMIT_S = 10.0


def cases(readers, *changes, slow=False):
    found = []
    for reader in readers:
        for name, change in [item for group in changes for item in group.items()]:
            case = f"{reader}: {name}"
            is_slow = slow or (reader == "match" and change not in odd.SMUGGLED.values())
            marks = [pytest.mark.slow] if is_slow else []
            found.append(pytest.param(reader, change, marks=marks, id=case))
    return found


def read(reader, *paths):
    """The outcome of one of the readers, which must be a user's to meet."""
    outcome = call(f"tests.odd_hdf5:{reader}", *paths, time_limit_s=TIME_LIMIT_S)
    flaw = outcome.flaw(*map(str, paths))
    assert flaw is None, flaw[:300]
    if reader != "check" and outcome.kind == "value":
        assert outcome.value == []
    return outcome


def test_sound_files_are_read_by_every_reader(tmp_path):
    features = odd.write_features(tmp_path / "features.h5")
    matches = odd.write_matches(tmp_path / "matches.h5")
    for reader, *paths in [
        *[(reader, features) for reader in READERS],
        ("read_matches", matches),
        ("export", features, matches),
    ]:
        assert read(reader, *paths).kind == "value"
    assert read("check", features, matches).value == ["info"]


@pytest.mark.parametrize(
    ("reader", "change"),
    cases(READERS, odd.SMUGGLED) + cases(["read_features"], odd.WRONG_FEATURES),
)
def test_features_that_are_refused(reader, change, tmp_path):
    path = odd.write_features(tmp_path / "features.h5", change)
    assert read(reader, path).kind == "error"


@pytest.mark.parametrize(
    ("reader", "change"),
    cases(OTHER_READERS, dict(list(odd.SMUGGLED.items())[1:3]))
    + cases(["plot", "page"], {"virtual": odd.SMUGGLED["virtual dataset"]})
    + cases(["reconstruct"], odd.SMUGGLED, odd.WRONG_FEATURES, slow=True),
)
def test_nothing_is_drawn_or_mapped_that_is_refused(reader, change, tmp_path):
    path = odd.write_features(tmp_path / "features.h5", change)
    is_used = change in odd.SMUGGLED.values() or reader != "reconstruct"
    assert read(reader, path).kind == "error" or not is_used


@pytest.mark.parametrize("change", odd.WITHOUT_END.values(), ids=odd.WITHOUT_END)
def test_files_that_would_be_read_for_ever(change, tmp_path):
    path = odd.write_features(tmp_path / "features.h5", change)
    for reader in ("read_features", "page"):
        outcome = read(reader, path)
        assert outcome.kind == "error" or reader == "page"
    assert "error" in read("check", path).value


@pytest.mark.parametrize("change", odd.LINKS_TO_THEMSELVES.values(), ids=odd.LINKS_TO_THEMSELVES)
def test_links_that_lead_to_themselves(change, tmp_path):
    path = odd.write_features(tmp_path / "features.h5", change)
    for reader in ("read_features", "export", "page", "check"):
        read(reader, path)


@pytest.mark.parametrize(
    ("reader", "change"),
    cases(["match", "export"], odd.WRONG_FEATURES)
    + cases(READERS, odd.HARMLESS)
    + cases(READERS, odd.LOOPS, slow=True),
)
def test_features_that_do_no_harm(reader, change, tmp_path):
    read(reader, odd.write_features(tmp_path / "features.h5", change))


@pytest.mark.parametrize(("reader", "change"), cases(["check"], odd.SMUGGLED, odd.WRONG_FEATURES))
def test_check_finds_what_is_wrong_with_features(reader, change, tmp_path):
    outcome = read(reader, odd.write_features(tmp_path / "features.h5", change))
    assert outcome.kind == "value"
    assert "error" in outcome.value


@pytest.mark.parametrize(
    ("reader", "change"),
    cases(["check"], odd.HARMLESS) + cases(["check"], odd.LOOPS, slow=True),
)
def test_check_never_raises(reader, change, tmp_path):
    outcome = read(reader, odd.write_features(tmp_path / "features.h5", change))
    assert outcome.kind == "value"
    assert "many images" not in outcome.value


@pytest.mark.parametrize(
    ("reader", "change"),
    cases(["read_matches", "check matches", "export matches"], odd.WRONG_MATCHES, odd.ODD_MATCHES),
)
def test_matches(reader, change, tmp_path):
    features = odd.write_features(tmp_path / "features.h5")
    matches = odd.write_matches(tmp_path / "matches.h5", change)
    is_wrong = change in odd.WRONG_MATCHES.values()
    if reader == "check matches":
        outcome = read("check", features, matches)
        assert outcome.kind == "value"
        assert not is_wrong or "error" in outcome.value
    elif reader == "export matches":
        read("export", features, matches)
    else:
        assert read(reader, matches).kind == "error" or not is_wrong
