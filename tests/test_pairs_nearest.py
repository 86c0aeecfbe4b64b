"""Pairs of several kinds: unions, numbers, positions, and the choice by the number of images."""

import logging

import pytest
from PIL import ExifTags, Image

from rekd_hloc.matching.pairs import (
    depends_on_others,
    exhaustive_pairs,
    make_pairs,
    make_selector,
    needs_features,
    sequential_pairs,
    settle_source,
)
from rekd_hloc.retrieval.gps import nearest_positions, read_position

NAMES = ["1.jpg", "2.jpg", "10.jpg", "11.jpg"]


def photo(path, latitude=None, longitude=0.0):
    """A photo of a few pixels, with a position in EXIF if one is given."""
    image = Image.new("RGB", (4, 4))
    exif = Image.Exif()
    if latitude is not None:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(
            {
                ExifTags.GPS.GPSLatitudeRef: "S" if latitude < 0 else "N",
                ExifTags.GPS.GPSLatitude: degrees(abs(latitude)),
                ExifTags.GPS.GPSLongitudeRef: "W" if longitude < 0 else "E",
                ExifTags.GPS.GPSLongitude: degrees(abs(longitude)),
            }
        )
    image.save(path, exif=exif)
    return path


def degrees(value):
    return (float(int(value)), float(int(value * 60 % 60)), value * 3600 % 60)


def test_the_position_of_a_photo(tmp_path):
    position = read_position(photo(tmp_path / "a.jpg", -33.8568, 151.2153))
    assert position == pytest.approx((-33.8568, 151.2153), abs=1e-6)
    assert read_position(photo(tmp_path / "b.jpg")) is None
    assert read_position(photo(tmp_path / "c.jpg", 0.0, 0.0)) is None
    assert read_position(tmp_path / "nothing.jpg") is None
    (tmp_path / "text.jpg").write_text("no image")
    assert read_position(tmp_path / "text.jpg") is None


def test_pairs_by_positions(tmp_path, caplog):
    places = [("a.jpg", 50.0), ("b.jpg", 50.001), ("c.jpg", 50.0015), ("d.jpg", 51.0)]
    for name, latitude in places:
        photo(tmp_path / name, latitude, 8.0)
    photo(tmp_path / "e.jpg")
    names = [name for name, _ in places]
    pairs = make_pairs(names, "gps:1", image_dir=tmp_path)
    assert pairs == [("a.jpg", "b.jpg"), ("b.jpg", "c.jpg"), ("c.jpg", "d.jpg")]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        make_pairs([*names, "e.jpg"], "gps:1", image_dir=tmp_path)
    assert "1 photo has no GPS position" in caplog.text
    with pytest.raises(ValueError, match="no photo in .* has a GPS position"):
        make_pairs(["e.jpg"], "gps", image_dir=tmp_path)
    with pytest.raises(ValueError, match="name their folder"):
        make_pairs(names, "gps")


def test_the_date_line_is_no_border():
    nearest = nearest_positions({"a": (0.0, 179.999), "b": (0.0, -179.999), "c": (0.0, 170.0)}, 1)
    assert nearest["a"] == ["b"]
    assert nearest["c"] == ["a"]


def test_unions_and_numbers(tmp_path):
    assert make_pairs(NAMES, "sequential:1") == sequential_pairs(NAMES, 1)
    path = tmp_path / "more+pairs.txt"
    path.write_text("11.jpg 1.jpg\n2.jpg 1.jpg\n")
    assert make_pairs(NAMES, str(path)) == [("11.jpg", "1.jpg"), ("2.jpg", "1.jpg")]
    path = path.rename(tmp_path / "pairs.txt")
    joined = make_pairs(NAMES, f"sequential:1+{path}")
    assert joined == [*sequential_pairs(NAMES, 1), ("11.jpg", "1.jpg")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("sequential:0", ValueError, "sequential needs a number of at least 1, got 'sequential:0'"),
        ("gps:-3", ValueError, "at least 1, got 'gps:-3'"),
        ("exhaustive:3", ValueError, "exhaustive takes no number"),
        ("retrieval:many", FileNotFoundError, "no pairs file 'retrieval:many'; pairs are "),
        ("sequential+", FileNotFoundError, "no pairs file ''"),
        ("sequential+retrival", FileNotFoundError, "no pairs file 'retrival'"),
    ],
)
def test_mistakes_are_named(source, error, message):
    with pytest.raises(error, match=message.replace("+", r"\+")):
        make_selector(source)


def test_the_program_chooses_by_the_number_of_images(caplog, tmp_path):
    assert make_pairs(NAMES, "auto") == exhaustive_pairs(NAMES)
    with caplog.at_level(logging.WARNING):
        assert settle_source("auto", 200) == "exhaustive"
        assert not caplog.records
        assert settle_source("auto", 1000) == "retrieval:30"
    (record,) = caplog.records
    assert "1000 images" in record.getMessage()
    assert "--pairs exhaustive matches all 499500 pairs" in record.getMessage()
    assert settle_source(tmp_path, 1000) == tmp_path
    assert settle_source("sequential", 1000) == "sequential"
    assert settle_source("auto+gps:5", 20) == "exhaustive+gps:5"


def test_what_pairs_depend_on(tmp_path):
    assert needs_features("sequential:5+retrieval")
    assert needs_features("loops:3")
    assert not needs_features("gps:3+sequential")
    assert not needs_features(tmp_path)
    assert depends_on_others("gps")
    assert not depends_on_others("exhaustive")
    assert not depends_on_others("pairs.txt")
