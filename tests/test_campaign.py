"""The kill campaign finds what it is there to find, and its runs survive."""

import shutil

import h5py
import numpy as np
import pytest

from tests import campaign
from tests.campaign import KEYPOINTS, Job, format_table, main, redone
from tests.campaign_results import differences, unsound


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The output of a quiet run of extraction, and its pictures."""
    source = tmp_path_factory.mktemp("campaign") / "source"
    campaign.make_photos(source, 3)
    job = Job("extract", source, source.parent / "out")
    job.run()
    return job.output


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def test_equal_outputs_do_not_differ(finished, copy):
    differences(copy, finished)
    unsound(copy, finished)


@pytest.mark.parametrize("harm", ["value", "missing", "left", "damaged", "settings"])
def test_what_is_lost_is_found(harm, finished, copy):
    path = copy / "features.h5"
    if harm == "left":
        (copy / "features.h5.journal").touch()
    elif harm == "damaged":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        with h5py.File(path, "r+") as file:
            name = next(iter(file))
            if harm == "missing":
                del file[name]
            elif harm == "settings":
                file.attrs["keypoints"] = "1"
            else:
                file[name]["scores"][0] = np.float32(7)
    with pytest.raises(ValueError, match=r"features\.h5"):
        differences(copy, finished)
    if harm in ("value", "damaged", "settings"):
        with pytest.raises(ValueError, match=r"features\.h5"):
            unsound(copy, finished)


def test_images_that_are_extracted_again_are_found(tmp_path):
    diary = tmp_path / "out.diary"
    diary.write_text("run\n1\n2\n3\n4\nrun\n3\n4\n5\n")
    assert redone(tmp_path / "out") == ""
    diary.write_text("run\n1\n2\n3\n4\nrun\n1\n2\n3\n")
    assert redone(tmp_path / "out") == "2 finished images were extracted again"


def test_the_table_says_what_was_lost():
    item = campaign.Campaign.__new__(campaign.Campaign)
    item.stage, item.seconds = "match", 1.5
    item.counts = campaign.Counter(kills=5, survived=3, lost=2)
    item.losses = ["matches.h5 cannot be read"] * 2
    table = format_table([item], 7, concurrent=False)
    assert "match             5         3     2  1.50" in table
    assert "match, 2 times: matches.h5 cannot be read" in table


@pytest.mark.slow
@pytest.mark.parametrize("stage", campaign.STAGES)
def test_killed_runs_survive(stage, capsys):
    assert main(["--kills", "8", "--stage", stage, "--seed", "3"]) == 0
    assert f"{stage:<12}      8         8     0" in capsys.readouterr().out
    assert KEYPOINTS > campaign.OTHER_KEYPOINTS


@pytest.mark.slow
@pytest.mark.parametrize("stage", campaign.STAGES)
def test_two_runs_at_once_lose_nothing(stage, capsys):
    assert main(["--kills", "6", "--concurrent", "--stage", stage, "--seed", "3"]) == 0
    assert f"{stage:<12}      6         6     0" in capsys.readouterr().out
