import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekd_hloc.matching.pairs import (
    PAIR_SELECTORS,
    PairSelector,
    exhaustive_pairs,
    make_pairs,
    make_selector,
    read_pairs,
    sequential_pairs,
    unique_pairs,
    write_pairs,
)

NAMES = ["a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg"]


def written(folder, text):
    path = folder / "pairs.txt"
    path.write_bytes(text.encode())
    return path


@given(st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=12))
def test_exhaustive_pairs_hold_each_two_once(names):
    pairs = exhaustive_pairs(names)
    assert {frozenset(pair) for pair in pairs} == {
        frozenset((a, b)) for a in names for b in names if a != b
    }
    assert len(pairs) == len(names) * (len(names) - 1) // 2
    assert pairs == sorted(pairs, key=lambda pair: [names.index(name) for name in pair])


def test_exhaustive_pairs_of_few():
    assert exhaustive_pairs([]) == []
    assert exhaustive_pairs(["a"]) == []
    assert exhaustive_pairs(["b", "a"]) == [("b", "a")]


@given(st.integers(0, 12), st.integers(1, 12), st.booleans())
def test_sequential_pairs_by_definition(count, overlap, quadratic):
    names = [f"{number:02}" for number in range(count)]
    steps = set(range(1, overlap + 1))
    if quadratic:
        steps |= {2**k for k in range(overlap)}
    expected = {(a, b) for a in names for b in names if int(b) - int(a) in steps}
    pairs = sequential_pairs(names, overlap, quadratic=quadratic)
    assert set(pairs) == expected
    assert len(pairs) == len(expected)


def test_sequential_pairs_reach_far_in_a_long_sequence():
    names = [str(number) for number in range(1000)]
    pairs = sequential_pairs(names)
    assert ("0", "10") in pairs
    assert ("0", "11") not in pairs
    assert ("0", "512") in pairs
    assert ("0", "512") not in sequential_pairs(names, quadratic=False)


def test_made_pairs_of_a_sequence_follow_the_numbers_in_the_names(tmp_path):
    names = ["f1.jpg", "f10.jpg", "f2.jpg", "f9.jpg", "f²a.jpg"]
    pairs = make_pairs(names, "sequential", overlap=1)
    assert ("f9.jpg", "f10.jpg") in pairs
    assert ("f1.jpg", "f10.jpg") not in pairs
    assert make_pairs(names[:2], "exhaustive") == [("f1.jpg", "f10.jpg")]
    path = written(tmp_path, "f9.jpg f1.jpg\n")
    assert make_pairs(names, path) == make_pairs(names, str(path)) == [("f9.jpg", "f1.jpg")]
    with pytest.raises(
        FileNotFoundError, match="'exhaustiv'.*exhaustive, sequential, .* or a file"
    ):
        make_pairs(names, "exhaustiv")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: exhaustive_pairs(["a", "b", "a"]), "'a' occurs twice"),
        (lambda: sequential_pairs(["b", "b"]), "'b' occurs twice"),
        (lambda: sequential_pairs(["a", "b"], 0), "overlap must be at least 1, got 0"),
        (lambda: unique_pairs([("a.jpg", "a.jpg")], NAMES), "'a.jpg' is paired with itself"),
        (lambda: unique_pairs([("a.jpg", "b.jpeg")], NAMES), "'b.jpeg'.*did you mean 'b.jpg'"),
        (lambda: unique_pairs([("a.jpg", "??")], NAMES), "4 known images, for example 'a.jpg'"),
        (lambda: unique_pairs([("a.jpg", "b.jpg")], []), "unknown image 'a.jpg'$"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_unique_pairs_keep_the_first_direction():
    pairs = [("b.jpg", "a.jpg"), ("a.jpg", "b.jpg"), ("a.jpg", "sub/c.jpg"), ("b.jpg", "a.jpg")]
    assert unique_pairs(iter(pairs), NAMES) == [pairs[0], pairs[2]]


# ---------------------------------------------------------------- files


def test_a_file_of_hloc_is_read(tmp_path):
    text = "a.jpg b.jpg\r\n\n  sub/c.jpg\tsub/d.jpg  \nb.jpg a.jpg\na.jpg  sub/c.jpg"
    expected = [("a.jpg", "b.jpg"), ("sub/c.jpg", "sub/d.jpg"), ("a.jpg", "sub/c.jpg")]
    assert read_pairs(written(tmp_path, text), NAMES) == expected
    assert read_pairs(written(tmp_path, "\ufeffa.jpg b.jpg"), NAMES) == expected[:1]
    assert read_pairs(written(tmp_path, ""), NAMES) == []


def test_comments_are_skipped_unless_they_name_images(tmp_path):
    path = written(tmp_path, "# two images\n#a.jpg b.jpg\n#\n")
    assert read_pairs(path, NAMES) == []
    assert read_pairs(path, [*NAMES, "#a.jpg"]) == [("#a.jpg", "b.jpg")]


def test_spaces_in_names_are_resolved(tmp_path):
    names = ["my photo.jpg", "other  two.jpg", "über uns/a b c.jpg", "plain.jpg"]
    pairs = exhaustive_pairs(names)
    path = tmp_path / "new folder" / "pairs.txt"
    write_pairs(path, pairs)
    assert read_pairs(path, names) == pairs


def test_a_line_with_two_readings_is_refused(tmp_path):
    names = ["a", "a b", "b c", "c"]
    with pytest.raises(ValueError, match=r"pairs.txt, line 2: .*'a' \+ 'b c' or 'a b' \+ 'c'"):
        read_pairs(written(tmp_path, "a c\na b c\n"), names)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.jpg b.jgp", "unknown image 'b.jgp'; did you mean 'b.jpg'?"),
        ("a.jp b.jpg", "unknown image 'a.jp'; did you mean 'a.jpg'?"),
        ("xx yy", "unknown image 'xx'"),
        ("a.jpg a.jpg", "paired with itself"),
        ("a.jpg", "'a.jpg' does not name two known images"),
        ("a.jpg some thing.jpg", "unknown image 'some thing.jpg'"),
        ("x y z", "'x y z' does not name two known images"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path, line, words):
    path = written(tmp_path, f"a.jpg b.jpg\n\n{line}\n")
    with pytest.raises(ValueError) as caught:
        read_pairs(path, NAMES)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert words in str(caught.value)


def test_a_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_pairs(tmp_path / "nowhere.txt", NAMES)
    path = tmp_path / "binary.txt"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="binary.txt is no UTF-8"):
        read_pairs(path, NAMES)


def test_pairs_are_written_in_hlocs_form(tmp_path):
    path = tmp_path / "pairs.txt"
    write_pairs(path, iter([("a.jpg", "b.jpg"), ("sub/é.jpg", "a.jpg")]))
    assert path.read_bytes() == "a.jpg b.jpg\nsub/é.jpg a.jpg\n".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.txt"]
    # hloc's own reader: two names, split at white space
    lines = [line.split() for line in path.read_text("utf-8").rstrip("\n").split("\n")]
    assert lines == [["a.jpg", "b.jpg"], ["sub/é.jpg", "a.jpg"]]


def test_names_that_hloc_cannot_read_give_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_pairs(tmp_path / "plain.txt", [("a", "b")])
        assert not caplog.records
        write_pairs(tmp_path / "spaced.txt", [("a b", "c"), ("a b", "d")])
    (record,) = caplog.records
    assert "1 image names hold spaces ('a b'): hloc cannot read" in record.getMessage()


@pytest.mark.parametrize("name", ["", " a.jpg", "a.jpg ", "a\nb.jpg", "a\rb.jpg"])
def test_names_that_no_line_can_hold_are_refused(tmp_path, name):
    path = tmp_path / "pairs.txt"
    path.write_text("old\n")
    with pytest.raises(ValueError, match="cannot stand in a pairs file"):
        write_pairs(path, [("b.jpg", name)])
    assert path.read_text() == "old\n"


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=4),
        unique=True,
        max_size=6,
    )
)
def test_what_is_written_is_read(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    pairs = exhaustive_pairs(names)
    write_pairs(path, pairs)
    assert read_pairs(path, names) == pairs


def test_a_selector_is_added_by_one_line(tmp_path, monkeypatch):
    class ByFileSize:
        """Pairs each image with the next larger file."""

        def __init__(self, options):
            self.overlap = options.overlap

        def __call__(self, image_dir, names):
            assert self.overlap == 3
            ordered = sorted(names, key=lambda name: (image_dir / name).stat().st_size)
            return list(itertools.pairwise(ordered))

    monkeypatch.setitem(PAIR_SELECTORS, "file-size", ByFileSize)
    for name, size in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / name).write_bytes(bytes(size))
    pairs = make_pairs(["a", "b", "c"], "file-size", overlap=3, image_dir=tmp_path)
    assert pairs == [("b", "c"), ("c", "a")]
    assert isinstance(make_selector("sequential"), PairSelector)
    with pytest.raises(
        FileNotFoundError, match="exhaustive, sequential, retrieval, loops, gps, file-size or"
    ):
        make_pairs(["a", "b"], "nothing")
